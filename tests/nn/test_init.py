"""Initial values are a function of seed and name, and come from nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dougong.nn.init import (
    Embedding,
    Linear,
    draw_glorot,
    draw_he,
    draw_normal,
    draw_uniform,
    fans,
    glorot_bound,
    he_std,
)


class Operations(TorchDispatchMode):
    """Notes the name of every operation on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def drawn(seed: int, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    parameter = nn.Parameter(torch.empty(40, 50, dtype=dtype))
    draw_normal(parameter, 0.5, seed, name)
    return parameter.detach()


def test_value_depends_on_seed_and_name_alone() -> None:
    first = drawn(1, "a")
    torch.rand(3)
    assert torch.equal(first, drawn(1, "a"))
    assert not torch.equal(first, drawn(2, "a"))
    assert not torch.equal(first, drawn(1, "b"))


def test_value_has_the_standard_deviation() -> None:
    assert abs(drawn(1, "a").std().item() - 0.5) < 0.03
    assert abs(drawn(1, "a").mean().item()) < 0.04


def test_every_type_begins_with_the_same_values() -> None:
    assert torch.equal(drawn(1, "a").double(), drawn(1, "a", torch.float64))
    assert torch.equal(drawn(1, "a").bfloat16(), drawn(1, "a", torch.bfloat16))


def test_making_a_layer_fills_nothing() -> None:
    with Operations() as ours:
        Linear(3, 4)
        Embedding(5, 6)
    with Operations() as theirs:
        nn.Linear(3, 4)
    assert ours.names <= {"empty", "detach"}
    assert "uniform_" in theirs.names


def test_uniform_values_fill_their_bounds_and_depend_on_seed_and_name() -> None:
    def made(seed: int, name: str) -> torch.Tensor:
        parameter = nn.Parameter(torch.empty(40, 50))
        draw_uniform(parameter, 0.5, seed, name)
        return parameter.detach()

    first = made(1, "a")
    torch.rand(3)
    assert torch.equal(first, made(1, "a"))
    assert not torch.equal(first, made(2, "a"))
    assert not torch.equal(first, made(1, "b"))
    assert -0.5 <= first.min() < -0.49
    assert 0.49 < first.max() <= 0.5
    assert abs(first.mean().item()) < 0.02


def test_fans_are_those_of_torch() -> None:
    for shape in ((8, 4), (8, 4, 3), (8, 4, 3, 5)):
        assert fans(shape) == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


def test_he_keeps_the_variance_through_relu_and_glorot_between_both_directions() -> None:
    weight = nn.Parameter(torch.empty(600, 500))
    inputs = torch.randn(200, 500)
    draw_he(weight, 1, "a")
    for _ in range(2):
        outputs = (inputs @ weight.detach().T).relu()
        assert outputs.square().mean().item() == pytest.approx(inputs.square().mean().item(), rel=0.05)
        draw_he(weight, 2, "a")
    assert he_std((600, 500)) == (2 / 500) ** 0.5
    draw_glorot(weight, 1, "a")
    assert weight.std().item() == pytest.approx((2 / 1100) ** 0.5, rel=0.02)
    assert weight.max().item() <= glorot_bound((600, 500)) == (6 / 1100) ** 0.5
