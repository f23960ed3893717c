"""Data that is a function of its number passes; what depends on anything else is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dougong.check import samples as module
from dougong.check.result import found
from dougong.check.samples import CLAIM, samples
from dougong.check.subject import Subject
from dougong.core.contracts import Batch
from dougong.core.errors import FileError


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "APART", 0.0)


class Altered:
    """A sound loader whose batches pass through a function of (batch number, batch)."""

    def __init__(self, loader: Any, change: Callable[[int, Batch], Batch]):
        self.loader, self.change = loader, change

    def __getitem__(self, step: int) -> Batch:
        return self.change(step, self.loader[step])


def altered(subject: Subject, change: Callable[[int, Batch], Batch]) -> Subject:
    return replace(subject, batches=lambda: Altered(subject.batches(), change))


def shifted(batch: Batch, by: int) -> Batch:
    return replace(batch, fields={**batch.fields, "tokens": batch["tokens"] + by})


def test_sound_data_passes(subject: Subject) -> None:
    result = samples(subject)
    assert (result.verdict, result.measured) == ("passed", "100 samples, read three times: equal")


def test_a_small_dataset_is_read_whole(subject: Subject) -> None:
    assert samples(replace(subject, samples=10)).measured.startswith("12 samples")  # batches of four


def test_a_batch_that_depends_on_what_was_read_before_is_named(subject: Subject) -> None:
    count = iter(range(10**6))
    result = samples(altered(subject, lambda step, batch: shifted(batch, next(count) if step == 7 else 0)))
    assert result.verdict == "failed"
    assert result.detail.startswith("batch 7 (samples 28, 29, 30, 31) has other tokens when it is read again")
    assert "so have 1 of 25 batches" in result.detail


@pytest.mark.parametrize(
    "draw",
    [lambda: random.randrange(10**6), lambda: int(np.random.randint(10**6)), lambda: int(torch.randint(10**6, ()))],
    ids=["random", "numpy", "torch"],
)
def test_a_transform_that_reads_a_global_generator_is_named(subject: Subject, draw: Callable[[], int]) -> None:
    result = samples(altered(subject, lambda step, batch: shifted(batch, draw())))
    assert (result.verdict, result.exit_code) == ("failed", 3)


def test_an_order_of_the_reader_s_own_is_named(subject: Subject) -> None:
    readers = iter(range(10))

    def fresh() -> Any:
        number = next(readers)
        return Altered(subject.batches(), lambda step, batch: shifted(batch, number))

    result = samples(replace(subject, batches=fresh))
    assert "when it is read by a fresh reader" in result.detail


def test_samples_that_are_not_numbered_through_are_named(subject: Subject) -> None:
    def renumbered(step: int, batch: Batch) -> Batch:
        return replace(batch, samples=torch.arange(len(batch)))

    result = found(CLAIM, lambda: samples(altered(subject, renumbered)))
    assert (result.verdict, result.exit_code) == ("failed", 3)
    assert "the samples of batch 1 must be numbered on from 4, but are 0, 1, 2, 3" in result.detail


def test_a_sample_that_cannot_be_read_is_the_finding(subject: Subject) -> None:
    def broken(step: int, batch: Batch) -> Batch:
        if step == 3:
            raise FileError("shard 2, line 14 must be UTF-8, but is not.")
        return batch

    result = found(CLAIM, lambda: samples(altered(subject, broken)))
    assert (result.exit_code, result.detail) == (3, "shard 2, line 14 must be UTF-8, but is not.")
