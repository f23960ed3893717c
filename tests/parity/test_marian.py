"""Marian: the same logits, gradients and translations as transformers, and the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dougong.checkpoint.convert import marian
from dougong.checkpoint.weights import load_model, save_model
from dougong.core.errors import FileError
from dougong.nn.mask import mask_of
from tests.parity.reference import TOLERANCE, randomised, saved

PAD, EOS = 96, 0
SMALL = {
    "vocab_size": 97,
    "max_position_embeddings": 32,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "activation_function": "swish",
    "scale_embedding": True,
    "pad_token_id": PAD,
    "decoder_start_token_id": PAD,
    "eos_token_id": EOS,
    "forced_eos_token_id": None,
}
CASES = {
    "shared": {},
    "apart": {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 103},
    "apart and untied": {
        "share_encoder_decoder_embeddings": False,
        "tie_word_embeddings": False,
        "scale_embedding": False,
        "activation_function": "relu",
        "d_model": 20,
    },
}
every_case = pytest.mark.parametrize("case", CASES)
_DRAWS = torch.Generator().manual_seed(7)
# Without the padding, whose embedding theirs does not train where it is read.
SOURCES = torch.randint(1, 96, (4, 9), generator=_DRAWS)
TARGETS = torch.randint(1, 96, (4, 11), generator=_DRAWS)
LENGTHS = torch.tensor([9, 4, 1, 7])


def reference(case: str) -> nn.Module:
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(11)
    model = randomised(MarianMTModel(MarianConfig(**SMALL | CASES[case])))
    for stack in (model.model.encoder, model.model.decoder):  # which are not parameters, though they look it
        stack.embed_positions.weight.data = stack.embed_positions.create_weight()
    model.final_logits_bias.normal_()
    return model


def logits_of(model: nn.Module) -> Tensor:
    mask = mask_of(LENGTHS, SOURCES.shape[1]).long()
    return model(input_ids=SOURCES, attention_mask=mask, decoder_input_ids=TARGETS, use_cache=False).logits


def mean_loss(logits: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TARGETS[:, 1:].flatten())


def gradient_gaps(theirs: nn.Module, ours: nn.Module) -> dict[str, float]:
    """Returns, for each trained parameter of theirs, the largest difference between its gradient and ours."""
    values, gradients = ours.config.filled().model_dump(mode="json"), {}
    parameters = dict(ours.named_parameters())
    for name, pieces in marian.layout(values, parameters).items():
        for piece in pieces:
            grad = parameters[name].grad
            gradients[piece.name] = grad if piece.rows is None else grad[slice(*piece.rows)]
    del gradients["final_logits_bias"]  # theirs is a buffer
    found = {name: p.grad for name, p in theirs.named_parameters() if "embed_positions" not in name}
    assert gradients.keys() == found.keys()
    return {name: (gradients[name] - found[name]).abs().max().item() for name in found}


@every_case
def test_logits_and_gradients_equal_those_of_transformers(case: str, tmp_path: Path) -> None:
    theirs = reference(case)
    ours = load_model(saved(theirs, tmp_path))
    assert (ours.config.source_vocab_size is None) == (case == "shared")
    expected, found = logits_of(theirs), ours(TARGETS, SOURCES, LENGTHS)
    assert expected.std() > 0.1, "logits must differ for the comparison to mean something"
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    mean_loss(expected).backward()
    mean_loss(found).backward()
    gaps = gradient_gaps(theirs, ours)
    assert max(gaps.values()) < TOLERANCE, gaps
    assert min(parameter.grad.abs().max().item() for parameter in ours.parameters()) > 10 * TOLERANCE
    # The control: a difference in one place is seen.
    ours.decoder.blocks[1].cross.memory.bias.data[-1] += 0.01
    assert (ours(TARGETS, SOURCES, LENGTHS) - expected).abs().max() > 10 * TOLERANCE


@every_case
def test_our_folder_opens_in_transformers(case: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    theirs = reference(case)
    ours = load_model(saved(theirs, tmp_path / "theirs"))
    save_model(ours, tmp_path / "ours", eos_id=EOS)
    again, notes = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(theirs)
    assert not any(notes.values()), notes
    torch.testing.assert_close(logits_of(again.eval()), ours(TARGETS, SOURCES, LENGTHS), rtol=0, atol=TOLERANCE)
    assert (again.config.pad_token_id, again.config.decoder_start_token_id) == (PAD, PAD)
    assert again.generation_config.eos_token_id == EOS
    assert load_model(tmp_path / "ours").config == ours.config


@torch.no_grad()
def test_greedy_translations_equal_those_of_transformers(tmp_path: Path) -> None:
    theirs = reference("shared")
    for name, parameter in theirs.named_parameters():
        if parameter.ndim > 1 and "embed_positions" not in name:
            parameter.mul_(2.0)  # so that what is written depends on the source
    theirs.final_logits_bias[0, EOS] += 2.0
    save_model(load_model(saved(theirs, tmp_path / "theirs")), tmp_path / "ours", eos_id=EOS)
    ours, again = load_model(tmp_path / "ours"), type(theirs).from_pretrained(tmp_path / "ours").eval()
    inputs = {"input_ids": SOURCES, "attention_mask": mask_of(LENGTHS, SOURCES.shape[1]).long()}
    expected = again.generate(**inputs, max_new_tokens=20, num_beams=1, do_sample=False)
    memory = ours.encode(SOURCES, LENGTHS)
    cache = ours.new_cache(memory, 20)
    tokens = torch.full((4, 1), ours.config.start_id)
    for _ in range(expected.shape[1] - 1):
        best = ours.head(ours.features(tokens[:, -1:], memory, cache))[:, -1].argmax(-1)
        ended = (tokens == EOS).any(dim=1)
        tokens = torch.cat((tokens, torch.where(ended, PAD, best)[:, None]), dim=1)
    assert tokens.tolist() == expected.tolist()
    assert len({tuple(row) for row in tokens.tolist()}) == 4, "the sources must make a difference"
    assert 0 < (tokens == EOS).any(dim=1).sum() < 4, "some must end and some not"


def test_old_files_with_every_use_of_a_shared_matrix_open(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    theirs = reference("shared")
    folder = saved(theirs, tmp_path)
    expected = load_model(folder)(TARGETS, SOURCES, LENGTHS)
    tensors = load_file(folder / "model.safetensors")
    shared = tensors["model.shared.weight"]
    uses = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    places = {f"model.{stack}.embed_positions.weight": torch.zeros(32, 16) for stack in ("encoder", "decoder")}
    tensors |= {name: shared.clone() for name in uses} | places
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(load_model(folder)(TARGETS, SOURCES, LENGTHS), expected)
    tensors["lm_head.weight"] = shared + 0.01
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileError, match="not tied"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"decoder_ffn_dim": 32}, "decoder_ffn_dim"),
        ({"decoder_attention_heads": 2}, "decoder_attention_heads"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"activation_function": "mish"}, "activation_function"),
    ],
)
def test_what_is_not_built_here_is_refused(change: dict, named: str, tmp_path: Path) -> None:
    folder = saved(reference("shared"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(FileError, match=named):
        load_model(folder)


def test_what_marian_cannot_say_keeps_our_form() -> None:
    from dougong.core.config import validate
    from dougong.models.seq2seq import SMALL as ours
    from dougong.models.seq2seq import Seq2SeqConfig

    def written(**changes) -> dict | None:
        return marian.write_config(validate(Seq2SeqConfig, ours["marian"] | changes).filled().model_dump(mode="json"))

    assert written()["model_type"] == "marian"
    for change in (
        {"norm_first": True},
        {"position": "sinusoidal"},
        {"output_bias": False},
        {"tie_embeddings": False},
        {"start_id": None},
        {"norm_eps": 1e-6},
        {"source_vocab_size": 2},
    ):
        assert written(**change) is None, change
