"""Row 17: a run goes on in the middle of an epoch, with workers, shuffling, packing, several streams and epochs that
end on the way. Promise: the next 50 batches are, bit by bit, those of the run that never stopped, whatever the number
of workers; and to begin an iteration moves no global random number generator.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.core.contracts import Batch
from dougong.data.loader import Batches
from dougong.recipe import load
from dougong.run.parts import Parts, prepare
from tests.tiny import tiny_recipe, write_recipe

AFTER = (0, 1, 39, 40, 41)
NEXT = 50
FIRST = "".join(f"first {number}: the cat sat on mat {number * number % 97}.\n" for number in range(150))
SECOND = [f"second {number}: the dog lay in the sun of day {number * 31 % 89}.\n" * 3 for number in range(16)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Two streams, mixed 3 to 1; the second has many documents, packed into rows that attention does not cross."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "first.txt").write_text(FIRST)
    for number, text in enumerate(SECOND):
        (folder / f"second-{number}.txt").write_text(text)
    sources = [
        {"name": "files", "paths": [str(folder / "first.txt")], "licence": "CC0-1.0", "weight": 3.0},
        {"name": "files", "paths": [str(folder / "second-*.txt")], "licence": "CC0-1.0", "weight": 1.0},
    ]
    values = tiny_recipe(folder, data={"across_documents": False}, train={"batch_size": 8})
    values["data"]["sources"] = sources
    before = os.environ.get("DOUGONG_CACHE")
    os.environ["DOUGONG_CACHE"] = str(folder / "cache")
    try:
        return prepare(load(values))
    finally:
        os.environ.pop("DOUGONG_CACHE") if before is None else os.environ.update(DOUGONG_CACHE=before)


def batches(parts: Parts, workers: int) -> Batches:
    made = parts.batches()
    return Batches(made.examples, made.collate, made.sizes, workers)


def taken(made: Batches, start: int, count: int) -> list[Batch]:
    """The batches that a run begins or goes on with."""
    with made.prefetching(start):
        return [made[step] for step in range(start, start + count)]


def same(one: Batch, other: Batch) -> bool:
    pairs = [(one.samples, other.samples), *((one[name], other[name]) for name in one.fields)]
    return one.fields.keys() == other.fields.keys() and all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_batches_are_those_of_the_run_that_never_stopped(parts: Parts, workers: int) -> None:
    unbroken = taken(batches(parts, 0), 0, max(AFTER) + NEXT)
    for stop in AFTER:
        assert len(taken(batches(parts, workers), 0, stop)) == stop
        resumed = taken(batches(parts, workers), stop, NEXT)
        assert all(same(*pair) for pair in zip(resumed, unbroken[stop : stop + NEXT], strict=True)), stop


def test_what_is_compared_has_all_that_could_go_wrong(parts: Parts) -> None:
    """Both streams end an epoch on the way, in the middle of a batch; rows hold several documents; all is shuffled."""
    seen = taken(batches(parts, 0), 0, max(AFTER) + NEXT)
    rows = len(seen) * 8
    for (dataset, _), share in zip(parts.data.train, (0.75, 0.25), strict=True):
        assert rows * share > len(dataset)
    assert any((batch["segments"][:, 0] != batch["segments"][:, -1]).any() for batch in seen)
    texts = [parts.task.decode(batch["tokens"][place]) for batch in seen[:5] for place in range(8)]
    assert texts != sorted(texts)
    assert any("cat" in text for text in texts)
    assert any("dog" in text for text in texts)


class OfTheWorker:
    """An order that depends on who asks."""

    def __init__(self, examples: Any):
        self.examples = examples

    def __getitem__(self, number: int) -> Any:
        return self.examples[number + os.getpid() % 1000]


class OfTime(OfTheWorker):
    """An order that depends on when it is asked."""

    def __getitem__(self, number: int) -> Any:
        return self.examples[number + time.monotonic_ns() % 1000]


class OfThePast(OfTheWorker):
    """An order that depends on how many were drawn before, as that of a generator does."""

    drawn = 0

    def __getitem__(self, number: int) -> Any:
        self.drawn += 1
        return self.examples[self.drawn]


@pytest.mark.parametrize(("order", "workers"), [(OfTheWorker, 2), (OfTime, 0), (OfThePast, 0), (OfThePast, 2)])
def test_without_an_order_that_is_a_function_of_the_number_the_batches_would_differ(
    parts: Parts, order: type[OfTheWorker], workers: int
) -> None:
    made = parts.batches()
    for stop in (39, 40):
        unbroken = taken(Batches(order(made.examples), made.collate, made.sizes, workers), 0, stop + NEXT)[stop:]
        resumed = taken(Batches(order(made.examples), made.collate, made.sizes, workers), stop, NEXT)
        assert not all(same(*pair) for pair in zip(resumed, unbroken, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_goes_back_gets_the_same_batches_again(parts: Parts, workers: int) -> None:
    straight = taken(batches(parts, 0), 0, 12)
    made = batches(parts, workers)
    with made.prefetching(0):
        for step in (*range(10), *range(4, 12), 0, 11):
            assert same(made[step], straight[step])


GENERATORS = """
import random, sys
import numpy, torch
from pathlib import Path
from dougong.core import log
from dougong.data.loader import Batches
from dougong.recipe import load
from dougong.run.parts import prepare

made = prepare(load(sys.argv[1])).batches()
made = Batches(made.examples, made.collate, made.sizes, int(sys.argv[2]))
states = lambda: (random.getstate(), repr(numpy.random.get_state()), torch.get_rng_state().tolist())
before = states()
with made.prefetching(0):
    made[0], made[1]
print(states() == before)
random.random()
print(states() == before)
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_to_begin_moves_no_global_generator(tmp_path: Path, workers: str) -> None:
    # In a process of its own: the checks of types that the tests install draw from `random`.
    path = write_recipe(tmp_path)
    environment = {**os.environ, "DOUGONG_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, "-W", "ignore", "-c", GENERATORS, str(path), workers]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "False"], done.stderr
