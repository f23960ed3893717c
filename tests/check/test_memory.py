"""A step's peak is measured allocation by allocation and held against the prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dougong.check.memory import memory
from dougong.check.subject import Subject


@pytest.mark.parametrize("train", [{}, {"microbatch_size": 2, "ema": {}}, {"recompute": True}], ids=str)
def test_the_prediction_holds(made: Callable[..., Subject], train: dict[str, object]) -> None:
    result = memory(made(model={"dim": 64, "num_layers": 2}, train=train))
    assert result.verdict == "passed", result
    assert result.difference is not None
    assert result.difference < 0.05


def test_a_prediction_that_is_off_is_named(subject: Subject) -> None:
    sound = subject.predicted
    assert sound is not None
    result = memory(replace(subject, predicted=lambda batch, config: sound(batch, config) * 5 // 4))
    assert (result.verdict, result.exit_code) == ("failed", 4)
    assert "were predicted" in result.detail


def test_without_a_prediction_nothing_is_asked(subject: Subject) -> None:
    assert memory(replace(subject, predicted=None)).verdict == "skipped"
