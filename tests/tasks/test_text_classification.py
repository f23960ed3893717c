from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dougong.core.config import validate
from dougong.core.contracts import Batch
from dougong.core.errors import UsageError
from dougong.data.examples import LabelledText, TokenRow
from dougong.models.bert import BertConfig
from dougong.models.stack import StackConfig
from dougong.tasks.text_classification import TextClassificationConfig

BERT = {
    "vocab_size": 37,
    "max_seq_len": 16,
    "num_classes": 3,
    "num_layers": 1,
    "num_heads": 2,
    "dim": 8,
    "hidden_dim": 8,
}
STACK = {"vocab_size": 37, "max_seq_len": 16, "num_classes": 3, "stages": [{"embed": 8}, "pool", "classify"]}
PAIRS = [
    LabelledText(np.arange(5, dtype=np.int32), 0, np.array([0, 0, 0, 1, 1], dtype=np.int32)),
    LabelledText(np.arange(9, dtype=np.int32), 2, np.array([0] * 4 + [1] * 5, dtype=np.int32)),
]
ALONE = [replace(example, segments=None) for example in PAIRS]


def built(kind: type[BertConfig] | type[StackConfig]) -> tuple[Any, Any]:
    bert = {**BERT, "head": "classify", "dropout": 0.0, "attention_dropout": 0.0}
    config = validate(kind, bert if kind is BertConfig else STACK)
    model = config.build()
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    return TextClassificationConfig().build(config), model


def test_segments_of_two_texts_reach_a_model_that_has_an_embedding_for_them() -> None:
    task, model = built(BertConfig)
    batch = task.collate(PAIRS, [0, 1])
    assert batch["segments"].tolist()[0] == [0, 0, 0, 1, 1] + [0] * 11
    assert "segments" not in task.collate(ALONE, [0, 1]).fields
    logits, without = task.logits(model, batch), task.logits(model, task.collate(ALONE, [0, 1]))
    assert not torch.allclose(logits, without)
    alone = [task.logits(model, task.collate([example], [0]))[0] for example in PAIRS]
    torch.testing.assert_close(logits, torch.stack(alone))


def test_model_without_such_an_embedding_is_given_tokens_alone() -> None:
    task, model = built(StackConfig)
    batch = task.collate(PAIRS, [0, 1])
    assert "segments" not in batch.fields
    assert torch.equal(task.logits(model, batch), task.logits(model, task.collate(ALONE, [0, 1])))


@pytest.mark.parametrize("examples", [PAIRS, ALONE])
def test_padded_texts_equal_the_texts_alone(examples: list[LabelledText]) -> None:
    task, model = built(BertConfig)
    batch = task.collate(examples, [0, 1])
    found = list(task.equalities(batch))
    assert len(found) == 2
    for _, padded, [alone] in found:
        assert padded["tokens"].shape[1] > alone["tokens"].shape[1]
        torch.testing.assert_close(task.logits(model, padded), task.logits(model, alone))
    unmasked = Batch({**found[0][1].fields, "lengths": torch.tensor([16])}, found[0][1].samples)
    assert not torch.allclose(task.logits(model, unmasked), task.logits(model, found[0][2][0]))


def test_data_of_another_kind_is_refused_in_a_sentence() -> None:
    class Data:
        validation = (TokenRow(np.arange(3), np.arange(3), False),)
        source = "a.txt"

    config = validate(StackConfig, STACK)
    with pytest.raises(
        UsageError, match="text_classification needs texts with a class each, but a.txt has running tex"
    ):
        TextClassificationConfig().build(config, Data())
