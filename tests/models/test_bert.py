"""BERT: sizes, what a row may depend on, its heads, dropout, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dougong.core.config import try_validate, validate
from dougong.core.errors import UsageError
from dougong.core.seed import sample_keys
from dougong.models.bert import SMALL, VARIANTS, Bert, BertConfig, example

HEADS = sorted(SMALL)
NOISE = sample_keys(torch.arange(3), 0, "dropout", 1)
LENGTHS = [20, 11, 1]


def small(head: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Bert:
    model = validate(BertConfig, SMALL[head] | changes).build()
    model.init_weights(0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they begin at zero, where they would hide
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    return model.to(dtype)


def inputs(model: Bert, rows: int = 3) -> dict[str, Tensor]:
    return example(model.config, rows) | {"lengths": torch.tensor(LENGTHS[:rows])}


def gap(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


# The published counts: the trunk with its pooler, then the heads of pre-training, with 30,522 word pieces.
COUNTS = {
    ("bert-base", "pooled"): 109_482_240,
    ("bert-base", "masked_lm"): 109_514_298,
    ("bert-base", "pretraining"): 110_106_428,
    ("bert-large", "pooled"): 335_141_888,
    ("bert-large", "masked_lm"): 335_174_458,
    ("bert-large", "pretraining"): 336_226_108,
    ("minilm-l6", "pooled"): 22_713_216,
}


@pytest.mark.parametrize(("variant", "head"), COUNTS)
def test_every_head_has_its_golden_count(variant: str, head: str) -> None:
    with torch.device("meta"):
        model = validate(BertConfig, VARIANTS[variant] | {"head": head, "vocab_size": 30522}).build()
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[variant, head]


def of_items(head: str, outputs: Tensor, length: int) -> Tensor:
    """Returns the part of one row's outputs that concerns its items, whatever its padding."""
    if head == "pretraining":
        return torch.cat([outputs[: length * 61], outputs[-2:]])
    return outputs[:length] if head in ("masked_lm", "tag", "spans") else outputs


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_padding_changes_nothing(head: str) -> None:
    model = small(head)
    batch = inputs(model)
    padded = model(**batch)
    for row, length in enumerate(LENGTHS):
        alone = model(batch["tokens"][row : row + 1, :length], segments=batch["segments"][row : row + 1, :length])[0]
        assert (
            gap(of_items(head, padded[row], length), alone.reshape(of_items(head, padded[row], length).shape)) < 1e-12
        )
    seen = model(batch["tokens"], segments=batch["segments"])
    assert gap(of_items(head, seen[1], 11), of_items(head, padded[1], 11)) > 1e-5, (
        "padding must matter where it is seen"
    )


@torch.no_grad()
def test_a_token_sees_both_sides_its_place_and_its_segment() -> None:
    model, batch = small("masked_lm"), inputs(small("masked_lm"))
    before = model(**batch)[0]
    for place, tokens in ((0, "first"), (19, "last")):
        other = batch["tokens"].clone()
        other[0, place] += 1
        assert gap(model(**batch | {"tokens": other})[0, 10], before[10]) > 1e-6, tokens
    assert gap(model(**batch | {"segments": 1 - batch["segments"]})[0], before) > 1e-4
    first = torch.zeros_like(batch["segments"])
    assert torch.equal(model(**batch | {"segments": None}), model(**batch | {"segments": first}))
    turned = batch["tokens"].flip(1)
    assert gap(model(turned)[0].flip(0), model(batch["tokens"])[0]) > 1e-4


@torch.no_grad()
def test_heads_of_pretraining_read_the_places_they_are_given() -> None:
    model = small("pretraining")
    batch = inputs(model)
    features, whole = model.features(**batch), model(**batch)
    logits, follows = whole[:, :-2].unflatten(1, (20, 61)), whole[:, -2:]
    assert gap(model.over_words(features[:, [3, 0]]), logits[:, [3, 0]]) < 1e-12
    assert torch.equal(model.follows(features), follows)
    by_hand = model.word_features(features) @ model.head_weight.T + model.head_bias
    assert gap(by_hand, logits) < 1e-12
    assert model.head_weight is model.token_embedding.weight


@torch.no_grad()
def test_a_sentence_is_the_mean_of_its_tokens_at_length_one() -> None:
    model = small("sentence")
    batch = inputs(model)
    vectors, features = model(**batch), model.features(**batch)
    assert gap(vectors.norm(dim=1), torch.ones(3)) < 1e-12
    for row, length in enumerate(LENGTHS):
        mean = features[row, :length].mean(dim=0)
        assert gap(vectors[row], mean / mean.norm()) < 1e-12
    assert gap(vectors[1], features[1].mean(dim=0) / features[1].mean(dim=0).norm()) > 1e-4


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_dropout_is_a_function_of_each_row_s_key(head: str) -> None:
    model = small(head)
    batch = inputs(model)
    whole = model(**batch, noise=NOISE)
    rows = [
        model(**{name: tensor[i : i + 1] for name, tensor in batch.items()}, noise=NOISE[i : i + 1]) for i in range(3)
    ]
    assert gap(whole, torch.cat(rows)) < 1e-12
    assert gap(whole, model(**batch)) > 1e-4
    assert gap(whole, model(**batch, noise=NOISE.flip(0))) > 1e-4


@torch.no_grad()
def test_only_heads_of_classes_drop_what_they_read() -> None:
    for head, drops in (("classify", True), ("tag", True), ("spans", False), ("pooled", False)):
        model = small(head, dropout=0.5, attention_dropout=0.0)
        features = model.features(**inputs(model))
        model.features = lambda *_, features=features: features
        assert (gap(model(**inputs(model), noise=NOISE), model(**inputs(model))) > 1e-6) == drops, head


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"dim": 30, "num_heads": 4}, "num_heads must divide dim, but 30 % 4 is 2. Try 3."),
        ({"num_classes": 3}, "num_classes has no effect while head is masked_lm. Remove it."),
        ({"head": "spans", "num_classes": 2}, "num_classes has no effect while head is spans. Remove it."),
        ({"dropout": 1.0}, "dropout must"),
        ({"head": "words"}, "head must"),
    ],
)
def test_impossible_configs_are_refused_in_a_sentence(values: dict[str, Any], sentence: str) -> None:
    config, complaints = try_validate(BertConfig, values)
    assert config is None
    assert any(complaint.text.startswith(sentence) for complaint in complaints), complaints


def test_impossible_calls_are_refused_in_a_sentence() -> None:
    model = small("pooled")
    with pytest.raises(UsageError, match=r"at most model.max_seq_len = 20 tokens, but has 21. Shorten it"):
        model(torch.zeros(1, 21, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"model.vocab_size must be known"):
        BertConfig().build()
    with pytest.raises(UsageError, match=r"model.num_classes must be known"):
        BertConfig(vocab_size=9, head="tag").build()


def test_classes_are_taken_from_the_data_where_a_head_has_them() -> None:
    assert {head for head in HEADS if validate(BertConfig, SMALL[head]).takes("num_classes")} == {"classify", "tag"}
    assert BertConfig().takes("vocab_size")


def test_example_rows_differ() -> None:
    rows = example(validate(BertConfig, SMALL["tag"]), 4)
    assert len({tuple(row) for row in rows["tokens"].tolist()}) == 4
    assert len(set(rows["lengths"].tolist())) == 4
    assert set(rows["segments"].flatten().tolist()) == {0, 1, 2}
