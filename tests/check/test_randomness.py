"""Dropout by key passes; every global generator is found out; and two steps do not drop the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dougong.check.randomness import randomness
from dougong.check.subject import Subject
from dougong.models.gpt import network
from dougong.nn import transformer


def test_dropout_by_key_passes(made: Callable[..., Subject]) -> None:
    assert randomness(made(model={"dropout": 0.2, "attention_dropout": 0.1})).verdict == "passed"
    assert randomness(made()).verdict == "passed"


@pytest.mark.parametrize(
    "draw", [random.random, np.random.random, lambda: float(torch.rand(()))], ids=["random", "numpy", "torch"]
)
def test_a_module_that_draws_is_named(subject: Subject, draw: Callable[[], float]) -> None:
    def drawing() -> nn.Module:
        model = subject.model()
        model.blocks[0].attention.register_forward_hook(lambda module, inputs, output: output * draw())
        return model

    state = np.random.get_state()[1].tolist(), torch.get_rng_state()
    result = randomness(replace(subject, model=drawing))
    assert (result.verdict, result.exit_code) == ("failed", 1)
    assert result.detail.startswith("blocks.0.attention (Attention) computes something else")
    after = np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert state[0] == after[0]
    assert torch.equal(state[1], after[1])


def test_steps_that_drop_the_same_are_noticed(made: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    sound: Any = network.dropout

    def same(hidden: Tensor, probability: float, noise: Tensor | None, place: int) -> Tensor:
        return sound(hidden, probability, None if noise is None else torch.zeros_like(noise), place)

    for module in (network, transformer):
        monkeypatch.setattr(module, "dropout", same)
    assert "two steps drop the same" in randomness(made(model={"dropout": 0.2})).detail
