"""Frozen parameters and learning rates of their own: what moves, and how far."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dougong.core.config import validate
from dougong.core.contracts import Batch
from dougong.core.errors import UsageError
from dougong.models.resnet import ResNetConfig
from dougong.tasks.image_classification import ImageClassificationConfig
from dougong.train.config import TrainConfig
from dougong.train.rates import rates
from dougong.train.state import State
from dougong.train.step import optimizer_step

MODEL = ResNetConfig(num_classes=3, image_shape=(1, 8, 8), depths=(1, 1), widths=(4, 4), stem="cifar")


def made() -> nn.Module:
    model = MODEL.build()
    model.init_weights(0)
    return model


def moved(optimizer: dict[str, Any], **train: Any) -> dict[str, float]:
    """Returns how far each parameter and buffer moves in one step, where it moves."""
    config = validate(TrainConfig, {"optimizer": optimizer, "steps": 5, **train})
    model, task = made(), ImageClassificationConfig().build(MODEL)
    batch: Batch = task.example_batch(6, "cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer_step(State.create(config, model), batch, task)
    gaps = {name: (tensor - before[name]).abs().max().item() for name, tensor in model.state_dict().items()}
    return {name: gap for name, gap in gaps.items() if gap}


SGD = {"name": "sgd", "lr": 0.1}


def test_what_is_frozen_stays_and_its_norms_keep_to_their_statistics() -> None:
    plain, frozen = moved(SGD), moved(SGD, frozen=["trunk.*"])
    assert set(frozen) == {"head.weight", "head.bias"}
    assert "trunk.stem.mixed.norm.running_mean" in plain, "the comparison must notice a statistic that moves"


def test_a_frozen_model_computes_with_running_statistics_in_training() -> None:
    images = torch.randn(4, 1, 8, 8)
    model, plain = made(), made()(images)
    State.create(validate(TrainConfig, {"frozen": ["trunk.*"]}), model)
    torch.testing.assert_close(model.train()(images), made().eval()(images))
    assert (plain - model(images)).abs().max() > 1e-3


@pytest.mark.parametrize("optimizer", [SGD, {"name": "adamw", "lr": 0.1, "weight_decay": 0.1}, {"name": "adam"}])
def test_a_rate_of_its_own_multiplies_the_step(optimizer: dict[str, Any]) -> None:
    plain = moved(optimizer)
    slow = moved(
        optimizer, rates=[{"parameters": "head.bias", "factor": 0.25}, {"parameters": "head.*", "factor": 3.0}]
    )
    assert slow["head.bias"] == pytest.approx(0.25 * plain["head.bias"], rel=1e-3)
    assert slow["head.weight"] == pytest.approx(3 * plain["head.weight"], rel=1e-3)
    name = "trunk.stages.0.0.first.convolution.weight"
    assert slow[name] == plain[name]


def test_layer_wise_rates_fall_from_the_head_to_the_stem() -> None:
    found = rates(made(), validate(TrainConfig, {"layer_decay": 0.5}))
    assert found["trunk.stem.mixed.convolution.weight"] == 0.5**3
    assert found["trunk.stages.0.0.first.convolution.weight"] == 0.5**2
    assert found["trunk.stages.1.0.last.norm.bias"] == 0.5
    assert "head.weight" not in found
    both = rates(
        made(), validate(TrainConfig, {"layer_decay": 0.5, "rates": [{"parameters": "trunk.stem.*", "factor": 4}]})
    )
    assert both["trunk.stem.mixed.convolution.weight"] == 0.5


def test_what_stands_between_two_stacks_is_not_the_head() -> None:
    """Of a translator the target's embedding and the encoder's last norm stand before the decoder."""
    from dougong.models.seq2seq import SMALL, Seq2SeqConfig

    model = validate(Seq2SeqConfig, SMALL["norm-first"] | {"num_layers": 2, "num_decoder_layers": 3}).build()
    found = rates(model, validate(TrainConfig, {"layer_decay": 0.5}))
    assert found["source_embedding.weight"] == 0.5**6
    assert found["encoder.blocks.1.attention.qkv.weight"] == found["encoder.final_norm.weight"] == 0.5**4
    assert found["token_embedding.weight"] == 0.5**4
    assert found["decoder.blocks.0.attention.qkv.weight"] == 0.5**3
    assert not {"decoder.final_norm.weight", "unembedding.weight"} & found.keys()


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ({"frozen": ["trnk.*"]}, r"train.frozen\[0\] must fit a parameter's name, but 'trnk.\*' fits none"),
        ({"frozen": ["*"]}, "must leave a parameter to train"),
        ({"rates": [{"parameters": "tail", "factor": 2}]}, r"train.rates\[0\] must fit"),
        ({"frozen": ["head.*"], "rates": [{"parameters": "head.bias", "factor": 2}]}, r"train.rates\[0\] must fit"),
    ],
)
def test_a_pattern_without_effect_is_refused(train: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        State.create(validate(TrainConfig, train), made())


def test_layer_decay_needs_blocks() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(Tensor([1.0]))

    with pytest.raises(UsageError, match="needs a model with blocks"):
        rates(Plain(), validate(TrainConfig, {"layer_decay": 0.5}))


def test_state_with_rates_is_saved_and_taken_up_again() -> None:
    config = validate(TrainConfig, {"optimizer": {"name": "adamw"}, "layer_decay": 0.5, "steps": 9})
    task = ImageClassificationConfig().build(MODEL)
    batch = task.example_batch(6, "cpu")
    first = State.create(config, made())
    optimizer_step(first, batch, task)
    second = State.create(config, made())
    tensors = {group: {name: t.clone() for name, t in inner.items()} for group, inner in first.tensors().items()}
    second.load(tensors, first.scalars())
    for state in (first, second):
        optimizer_step(state, batch, task)
    mine, other = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
