"""Accumulated sums equal the whole batch; anything else is told apart from rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dougong.check.microbatches import microbatches
from dougong.check.subject import Subject
from dougong.core.contracts import Batch, Loss
from dougong.train import step
from tests.check.test_planted import averaged


def test_sums_pass_with_dropout_and_a_penalty(made: Callable[..., Subject]) -> None:
    result = microbatches(made(model={"dropout": 0.2}, train={"l2": 0.1}))
    assert result.verdict == "passed"
    assert result.difference is not None
    assert result.difference < 1e-12


def test_means_fail(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_backward", averaged)
    assert microbatches(subject).verdict == "failed"


def test_examples_of_equal_size_but_unequal_weight_are_tried(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accumulation that counts examples where it should count tokens is right on equal rows, and on these is not."""
    sound = step._loss

    def counting_rows(state: object, microbatch: Batch, task: object) -> Loss:
        loss = sound(state, microbatch, task)
        count = loss.weight.new_tensor(len(microbatch))
        return replace(loss, weight=count, sum=loss.sum / loss.weight * count)

    monkeypatch.setattr(step, "_loss", counting_rows)
    assert microbatches(subject).verdict == "failed"
    monkeypatch.setattr(type(subject.task), "uneven", lambda self, batch: batch)
    assert microbatches(subject).verdict == "passed"


def test_the_last_microbatch_may_not_be_lost(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = step._backward
    monkeypatch.setattr(step, "_backward", lambda state, pieces, task: sound(state, pieces[:2], task))
    result = microbatches(subject)
    assert result.verdict == "failed"
    assert "the gradient of" in result.detail or "the loss" in result.detail


def test_one_example_alone_is_skipped(subject: Subject) -> None:
    one = replace(subject, rows=lambda count, operations: subject.rows(1, operations))
    assert microbatches(one).verdict == "skipped"
