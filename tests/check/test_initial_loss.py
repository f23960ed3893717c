"""Fresh weights do as well as chance; a leak and a wild start are told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from dougong.check.initial_loss import initial_loss
from dougong.check.subject import Subject
from dougong.tasks.language_modeling import LanguageModeling


def scaled(subject: Subject, factor: float) -> Subject:
    def model() -> nn.Module:
        built = subject.model()
        with torch.no_grad():
            built.token_embedding.weight.mul_(factor)
        return built

    return replace(subject, model=model)


def test_fresh_weights_pass(made: Callable[..., Subject]) -> None:
    result = initial_loss(made(task={"label_smoothing": 0.1, "z_loss": 1e-4}))
    assert result.verdict == "passed"
    assert result.allowed == "5.549 within 10%"  # ln 257


def test_weights_that_are_too_large_are_named(subject: Subject) -> None:
    result = initial_loss(scaled(subject, 100.0))
    assert (result.verdict, result.exit_code) == ("failed", 1)
    assert "above: the initial weights are too large" in result.detail


def test_a_leak_is_named(subject: Subject) -> None:
    """A model that has learned the answer already."""
    knowing = subject.model()
    batch = subject.rows(8, 1e12)
    optimizer = torch.optim.Adam(knowing.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        subject.task.loss(knowing, batch).sum.backward()
        optimizer.step()
    result = initial_loss(replace(subject, model=lambda: knowing))
    assert "below: the answer leaks into the input" in result.detail


def test_where_nothing_is_predicted_nothing_is_asked(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "init_from" in initial_loss(replace(subject, from_scratch=False)).detail
    monkeypatch.delattr(LanguageModeling, "chance")
    assert initial_loss(subject).detail == "the task predicts no chance."
