"""Row 17: a run over text that is rearranged at random, for infilling, is lost in the middle of an epoch and goes on.
Promise: the batches are, bit by bit, those of the run that never stopped, whatever the number of workers; how a row is
rearranged is a function of the seed and of the sample's number alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dougong.core.contracts import Batch
from dougong.data.fim import Rearranged
from dougong.data.loader import Batches
from dougong.data.vocabulary import FIM
from dougong.recipe import load
from dougong.run.parts import Parts, prepare
from tests.tiny import tiny_recipe

STOPS, NEXT = (0, 37, 38), 10


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    """Rows of several documents; 48 batches are more than an epoch."""
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))
    for number in range(30):
        (tmp_path / f"part-{number}.txt").write_text(f"document {number}: the dog lay in the sun.\n" * (1 + number % 4))
    values = tiny_recipe(tmp_path, data={"across_documents": False, "fim": {"rate": 0.7}}, model={"max_seq_len": 48})
    values["data"]["sources"] = [{"name": "files", "paths": [str(tmp_path / "part-*.txt")], "licence": "CC0-1.0"}]
    values["data"]["tokenizer"] = {"name": "bpe", "vocab_size": 270, "special": list(FIM)}
    return prepare(load(values))


def taken(parts: Parts, start: int, count: int, workers: int = 0) -> list[Batch]:
    made = parts.batches()
    made = Batches(made.examples, made.collate, made.sizes, workers)
    with made.prefetching(start):
        return [made[step] for step in range(start, start + count)]


def same(one: Batch, other: Batch) -> bool:
    return one.fields.keys() == other.fields.keys() and all(torch.equal(one[name], other[name]) for name in one.fields)


@pytest.mark.parametrize("workers", [0, 2])
def test_rearranged_batches_are_those_of_the_run_that_never_stopped(parts: Parts, workers: int) -> None:
    unbroken = taken(parts, 0, max(STOPS) + NEXT)
    middle = parts.data.tokenizer.id_of(FIM[2])
    assert sum(bool((batch["targets"] == middle).any()) for batch in unbroken) > 40
    assert sum(len(part) for part, _ in parts.data.train) < len(unbroken) * len(unbroken[0])
    for stop in STOPS:
        resumed = taken(parts, stop, NEXT, workers)
        assert all(same(*pair) for pair in zip(resumed, unbroken[stop : stop + NEXT], strict=True)), stop


def test_another_seed_rearranges_otherwise(parts: Parts) -> None:
    other = Parts(parts.recipe.replace(train=parts.recipe.train.replace(seed=1)), parts.data, parts.task)
    assert not same(taken(parts, 0, 1)[0], taken(other, 0, 1)[0])


def test_without_places_that_decide_they_would_not(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    of_number, one = Rearranged.__call__, np.random.default_rng(0)
    monkeypatch.setattr(Rearranged, "__call__", lambda self, row, rng: of_number(self, row, one))

    def from_its_start(start: int, count: int) -> list[Batch]:
        one.bit_generator.state = np.random.default_rng(0).bit_generator.state
        return taken(parts, start, count)

    unbroken: list[Any] = from_its_start(0, 37 + NEXT)
    assert all(same(*pair) for pair in zip(from_its_start(0, NEXT), unbroken[:NEXT], strict=True))
    assert not all(same(*pair) for pair in zip(from_its_start(37, NEXT), unbroken[37:], strict=True))
