"""Row 17: a run over pairs of texts, in batches of like length, goes on in the middle of a stretch of sorted batches.
Promise: the next batches are, bit by bit, those of the run that never stopped, whatever the number of workers, and
across the end of an epoch; which example stands where is a function of the seed and of the number alone.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.core.contracts import Batch
from dougong.core.errors import RecipeError, UsageError
from dougong.data.loader import Batches, Bucketed
from dougong.recipe import load
from dougong.run.parts import Parts, prepare
from tests.tiny import tiny_recipe

AFTER = (0, 1, 7, 8, 23)
NEXT = 12


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """90 pairs of unlike lengths in batches of 4: a stretch of 6 batches does not divide an epoch."""
    folder = tmp_path_factory.mktemp("data")
    rows = [f"{'word ' * (1 + n * 7 % 11)}{n}\t{'Wort ' * (1 + n * 5 % 9)}{n}" for n in range(100)]
    (folder / "pairs.tsv").write_text("source\ttarget\n" + "\n".join(rows) + "\n")
    model = {"name": "seq2seq", "max_seq_len": 96, "num_layers": 1, "num_heads": 1, "dim": 8}
    data = {"name": "parallel_text", "paths": [str(folder / "pairs.tsv")], "tokenizer": {"name": "bytes"}}
    train = {"batch_size": 4, "bucket_batches": 6, "steps": 40}
    return prepare(load({"model": model, "task": {"name": "translation"}, "data": data, "train": train}))


def taken(parts: Parts, start: int, workers: int = 0, examples: Any = None) -> list[Batch]:
    made = parts.batches()
    made = Batches(examples or made.examples, made.collate, made.sizes, workers)
    with made.prefetching(start):
        return [made[step] for step in range(start, start + NEXT)]


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(
        torch.equal(a.samples, b.samples)
        and all(a[name].shape == b[name].shape and torch.equal(a[name], b[name]) for name in a.fields)
        for a, b in pairs
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_batches_are_those_of_the_run_that_never_stopped(parts: Parts, workers: int) -> None:
    unbroken = taken(parts, 0) + taken(parts, NEXT) + taken(parts, 2 * NEXT)
    for start in AFTER:
        assert same(taken(parts, start, workers), unbroken[start : start + NEXT])


def test_without_places_that_are_a_function_of_the_number_the_batches_would_differ(parts: Parts) -> None:
    class Stateful(Bucketed):
        """Deals the batches of a stretch by a generator that goes on where it was, as most samplers do."""

        generator = random.Random(0)

        def _sorted(self, stretch: int) -> list[int]:
            places = super()._sorted(stretch)
            batches = [places[start : start + self.size] for start in range(0, len(places), self.size)]
            self.generator.shuffle(batches)
            return [place for batch in batches for place in batch]

    def examples() -> Any:
        made = parts.batches().examples
        return Stateful(made.examples, made.length, made.size, made.batches, made.seed)

    unbroken = taken(parts, 0, examples=examples()) + taken(parts, NEXT, examples=examples())
    assert not same(taken(parts, 8, examples=examples()), unbroken[8 : 8 + NEXT])


def test_buckets_without_lengths_or_one_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bucket_batches has no effect, as the data's examples are all of one length"):
        prepare(load(tiny_recipe(tmp_path, train={"bucket_batches": 4})))
    with pytest.raises(RecipeError, match="bucket_batches needs batches of one size"):
        load(tiny_recipe(tmp_path, train={"bucket_batches": 4, "batch_size": "all"}))
