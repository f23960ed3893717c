"""Initial values are a function of seed and name, and come from nowhere else."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dougong.nn.init import Embedding, Linear, draw_normal


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
