from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from dougong.core.contracts import Batch
from dougong.data import loader
from dougong.data.loader import Batches, BatchSizes, Bucketed, everything, in_order, order


class Numbers:
    """Examples that are numbers, from `first` on."""

    fingerprint = licence = source = "numbers"

    def __init__(self, first: int, count: int):
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.first + index


def collate(examples: Sequence[Any], samples: Sequence[int]) -> Batch:
    return Batch({"value": torch.tensor(list(examples))}, torch.tensor(list(samples)))


ONE = [(Numbers(0, 37), None)]
THREE = [(Numbers(0, 20), None), (Numbers(100, 7), None), (Numbers(200, 10), None)]
MIXED = [(Numbers(0, 20), 3.0), (Numbers(100, 7), 1.0)]
SOURCES = {"one": ONE, "three": THREE, "mixed": MIXED}


def batches(sources: Any = ONE, seed: int = 1, sizes: BatchSizes | None = None, workers: int = 0) -> Batches:
    return Batches(order(sources, seed), collate, sizes or BatchSizes.constant(5), workers)


def values(batch: Batch) -> list[int]:
    return batch["value"].tolist()


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("sources", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("sizes", [BatchSizes.constant(5), BatchSizes.ramp(2, 6, 9)])
def test_batch_is_a_function_of_its_step(sources: Any, sizes: BatchSizes, workers: int) -> None:
    straight = [values(batches(sources, sizes=sizes)[step]) for step in range(30)]
    asked = batches(sources, sizes=sizes, workers=workers)
    for step in (29, 3, 3, 17, 0, 28, 4):
        assert values(asked[step]) == straight[step]
    for start in (0, 11):
        ahead = batches(sources, sizes=sizes, workers=workers)
        with ahead.prefetching(start):
            assert [values(ahead[step]) for step in range(start, 30)] == straight[start:]
    with asked.prefetching(7, depth=3):
        for step in (2, 29, 8, 9, 9, 8, 0):
            assert values(asked[step]) == straight[step]


def test_other_seed_gives_another_order() -> None:
    assert values(batches(seed=1)[0]) != values(batches(seed=2)[0])
    assert values(batches(seed=1)[0]) == values(batches(seed=1)[0])


@pytest.mark.parametrize("sources", [ONE, THREE], ids=["one", "three"])
def test_every_example_comes_exactly_once_in_each_epoch(sources: Any) -> None:
    endless = order(sources, 3)
    epochs = [[endless[37 * epoch + place] for place in range(37)] for epoch in range(5)]
    everyone = sorted(dataset[index] for dataset, _ in sources for index in range(len(dataset)))
    assert all(sorted(epoch) == everyone for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert everyone not in epochs


def test_batches_go_on_across_the_border_of_epochs() -> None:
    seen = [value for step in range(37) for value in values(batches()[step])]
    assert Counter(seen) == Counter(dict.fromkeys(range(37), 5))


def test_mixed_sources_come_in_proportion_each_with_its_own_epochs() -> None:
    endless = order(MIXED, 3)
    drawn = [endless[number] for number in range(280)]
    first, second = [v for v in drawn if v < 100], [v for v in drawn if v >= 100]
    assert (len(first), len(second)) == (210, 70)
    assert [sorted(first[start : start + 20]) for start in range(0, 200, 20)] == [list(range(20))] * 10
    assert [sorted(second[start : start + 7]) for start in range(0, 70, 7)] == [list(range(100, 107))] * 10
    assert second[:7] != second[7:14]


def test_far_batch_costs_no_more_than_a_near_one() -> None:
    far = 10**9
    assert batches(THREE)[far].samples.tolist() == list(range(5 * far, 5 * far + 5))


def test_samples_are_numbered_through_all_steps() -> None:
    made = batches(sizes=BatchSizes.ramp(1, 4, 6))
    samples = [number for step in range(20) for number in made[step].samples.tolist()]
    assert samples == list(range(len(samples)))
    assert made[0].noise is None


def test_no_generator_state_is_moved() -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())
    made = batches(MIXED)
    with made.prefetching(0):
        for step in range(12):
            made[step]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_full_batch_is_every_example_once_and_in_order() -> None:
    whole = Batches(everything(THREE), collate, BatchSizes.constant(loader.count(THREE)))
    expected = [dataset[index] for dataset, _ in THREE for index in range(len(dataset))]
    assert values(whole[0]) == values(whole[1]) == values(whole[77]) == expected


@pytest.mark.parametrize(("first", "last", "steps"), [(2, 10, 16), (1, 100, 7), (3, 5, 1000), (4, 4, 5), (1, 2, 1)])
def test_ramp_grows_linearly_and_starts_add_up(first: int, last: int, steps: int) -> None:
    sizes = BatchSizes.ramp(first, last, steps)
    found = [sizes.size(step) for step in range(steps + 20)]
    assert found[0] == first
    assert found[steps:] == [last] * 20
    assert found == sorted(found)
    for step, size in enumerate(found[:steps]):
        assert abs(size - (first + (last - first) * step / steps)) < max(1, (last - first) / steps) + 1e-9
    assert [sizes.start(step) for step in range(steps + 20)] == [sum(found[:step]) for step in range(steps + 20)]
    far = 10**12
    assert sizes.start(far) == sum(found[:steps]) + (far - steps) * last


def test_constant_size_is_constant() -> None:
    sizes = BatchSizes.constant(7)
    assert [sizes.size(step) for step in (0, 1, 10**9)] == [7] * 3
    assert [sizes.start(step) for step in (0, 1, 10**9)] == [0, 7, 7 * 10**9]


def test_validation_takes_every_row_once_and_in_order() -> None:
    found = list(in_order(Numbers(50, 11), collate, 4))
    assert [values(batch) for batch in found] == [[50, 51, 52, 53], [54, 55, 56, 57], [58, 59, 60]]
    assert [batch.samples.tolist() for batch in found][2] == [8, 9, 10]
    assert [len(batch) for batch in in_order(Numbers(50, 11), collate, 4, limit=2)] == [4, 4]
    assert list(in_order(Numbers(0, 0), collate, 4)) == []


def test_error_in_the_background_is_raised_where_its_batch_is_asked() -> None:
    def strict(examples: Sequence[int], samples: Sequence[int]) -> Batch:
        if 17 in samples:
            raise ValueError("example 17 is broken")
        return collate(examples, samples)

    made = Batches(order(ONE, 1), strict, BatchSizes.constant(5))
    with made.prefetching(0, depth=4):
        for step in range(3):
            made[step]
        with pytest.raises(ValueError, match="example 17 is broken"):
            made[3]
        assert made[4].samples.tolist() == [20, 21, 22, 23, 24]


def test_background_thread_makes_batches_ahead_and_ends_with_its_context() -> None:
    made_in: list[str] = []
    ready = threading.Event()

    def noted(examples: Sequence[int], samples: Sequence[int]) -> Batch:
        made_in.append(threading.current_thread().name)
        if len(made_in) == 2:
            ready.set()
        return collate(examples, samples)

    made = Batches(order(ONE, 1), noted, BatchSizes.constant(5))
    with made.prefetching(0):
        assert ready.wait(30)  # two batches are made before any is asked for
        made[0]
    assert all(name.startswith("dougong-batches") for name in made_in)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dougong-batches")]
    made[0]
    assert made_in[-1] == threading.current_thread().name


def test_context_is_left_at_once_when_the_loop_fails() -> None:
    made = batches()
    with pytest.raises(KeyError), made.prefetching(0):
        raise KeyError
    assert values(made[1]) == values(batches()[1])


QUIET = """
import random, sys
before = random.getstate()
from dougong.data import loader
assert "grain" not in sys.modules
class Numbers:
    fingerprint = licence = source = "x"
    def __len__(self): return 3
    def __getitem__(self, index): return index
print([loader.order([(Numbers(), None)], 1)[number] for number in range(6)])
assert random.getstate() == before  # not asked above: beartype draws from it
"""


def test_grain_is_imported_late_and_quietly_and_draws_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    endless = order([(Numbers(0, 3), None)], 1)
    assert done.stdout.strip() == str([endless[number] for number in range(6)])  # and is the same in each process


class Words(Numbers):
    """Examples that are texts of 1 to 23 letters."""

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return chr(ord("a") + index % 26) * (1 + index * 7 % 23)


WORDS = [(Words(0, 40), None)]


def _bucketed(seed: int = 3) -> Bucketed:
    return Bucketed(order(WORDS, seed=1), len, size=4, batches=5, seed=seed)


def test_buckets_hold_each_stretch_of_the_order_once():
    plain, bucketed = order(WORDS, seed=1), _bucketed()
    for stretch in range(4):
        numbers = range(stretch * 20, stretch * 20 + 20)
        assert sorted(bucketed[n] for n in numbers) == sorted(plain[n] for n in numbers)
        assert [bucketed[n] for n in numbers] != [plain[n] for n in numbers]


def test_the_examples_of_a_bucketed_batch_are_alike_in_length():
    def spread(examples: Any) -> int:
        batches = ([len(examples[n]) for n in range(first, first + 4)] for first in range(0, 80, 4))
        return sum(max(lengths) - min(lengths) for lengths in batches)

    assert spread(_bucketed()) < 0.35 * spread(order(WORDS, seed=1))


def test_a_bucketed_example_depends_on_its_number_alone():
    once, again = _bucketed(), _bucketed()
    forward = [once[n] for n in range(100)]
    assert [again[n] for n in reversed(range(100))] == forward[::-1]
    assert [_bucketed(seed=4)[n] for n in range(100)] != forward
