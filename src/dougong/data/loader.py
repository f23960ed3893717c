"""The order of examples, and the batch of every step, as functions of their numbers (law 3).

Knows datasets and a collate function; knows no ranks, workers or time. Grain shuffles, repeats and mixes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from dougong.core import seed as seeds
from dougong.core.contracts import Batch, Dataset
from dougong.core.injection import strike
from dougong.data.workers import Pending, Workers

Collate = Callable[[Sequence[Any], Sequence[int]], Batch]
Sources = Sequence[tuple[Dataset, float | None]]
Submit = Callable[[int], Future[Batch] | Pending]


def order(sources: Sources, seed: int) -> Any:
    """Returns the endless order of training: `order(...)[n]` is example `n`, a pure function of the seed and of `n`.

    Sources without weights are one dataset: each epoch is a new permutation of all examples, so each comes exactly
    once per epoch. Sources with weights come in exactly these proportions, each with epochs of its own.

    Args:
        sources: Datasets with their weights; either all have one or none has.
        seed: The run's seed.

    Returns:
        A `grain.MapDataset`; to find which example is number `n` takes microseconds, whatever `n` is.
    """
    if all(weight is None for _, weight in sources):
        return _joined(sources).shuffle(seed=_seed32(seed, 0)).repeat()
    map_dataset = _grain().MapDataset
    mixed = [
        map_dataset.source(dataset).shuffle(seed=_seed32(seed, number)).repeat()
        for number, (dataset, _) in enumerate(sources)
    ]
    return map_dataset.mix(mixed, weights=[weight for _, weight in sources])


def everything(sources: Sources) -> Any:
    """Returns every training example once per epoch and in its own order, for descent on the full batch.

    Use it with `BatchSizes.constant(count(sources))`: each step's batch is then the whole training set.
    """
    return _joined(sources).repeat()


def augmented(examples: Any, change: Callable[[Any, Any], Any], seed: int) -> Any:
    """Returns the order with each example changed at random; what is drawn is a function of seed and number alone.

    Args:
        examples: The endless order.
        change: Takes an example and a `numpy.random.Generator`; may draw from that, and from nothing else.
        seed: The run's seed.
    """
    return examples.random_map(change, seed=seeds.key(seed, "augment") & 0xFFFFFFFF)


class Bucketed:
    """The same endless order with neighbours alike in length: still a function of the number alone.

    Each stretch of `batches * size` examples is sorted by length and dealt into batches, and these are shuffled. So a
    batch holds rows of about one length, which saves padding; and a stretch holds the examples that it held, so each
    comes once per epoch as before.

    Args:
        examples: The endless order.
        length: Tells how long an example is.
        size: Examples of a batch.
        batches: How many batches a stretch has.
        seed: The run's seed.
    """

    def __init__(self, examples: Any, length: Callable[[Any], int], size: int, batches: int, seed: int):
        self.examples, self.length, self.size, self.batches, self.seed = examples, length, size, batches, seed
        self._places = functools.lru_cache(maxsize=4)(self._sorted)

    def __getitem__(self, number: int) -> Any:
        stretch, place = divmod(number, self.size * self.batches)
        return self.examples[self._places(stretch)[place]]

    def _sorted(self, stretch: int) -> list[int]:
        """Returns which example stands at each place of a stretch."""
        count = self.size * self.batches
        numbers = range(stretch * count, (stretch + 1) * count)
        by_length = sorted(numbers, key=lambda number: (self.length(self.examples[number]), number))
        dealt = sorted(range(self.batches), key=lambda batch: seeds.key(self.seed, "buckets", stretch, batch))
        return [by_length[batch * self.size + place] for batch in dealt for place in range(self.size)]


def count(sources: Sources) -> int:
    """Returns how many examples all sources have together."""
    return sum(len(dataset) for dataset, _ in sources)


def _joined(sources: Sources) -> Any:
    map_dataset = _grain().MapDataset
    single = [map_dataset.source(dataset) for dataset, _ in sources]
    return single[0] if len(single) == 1 else map_dataset.concatenate(single)


def _seed32(seed: int, number: int) -> int:
    """Grain takes 32 bits, and numbers an epoch's shuffle `seed + epoch`: hashed seeds keep sources apart."""
    return seeds.key(seed, "order", number) & 0xFFFFFFFF


def _grain() -> ModuleType:
    """Imports grain (0.3 s) without its warning that jax is absent."""
    import absl.logging  # what grain warns through

    logger = absl.logging.get_absl_logger()
    logger.addFilter(_not_of_jax)
    try:
        import grain
    finally:
        logger.removeFilter(_not_of_jax)
    return grain


def _not_of_jax(record: logging.LogRecord) -> bool:
    return "jax" not in record.getMessage()


@dataclass(frozen=True)
class BatchSizes:
    """How many examples each step takes, in stairs: from step `steps[i]` on, `sizes[i]` examples per step."""

    steps: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def constant(cls, size: int) -> BatchSizes:
        """Returns the same size for every step."""
        return cls((0,), (size,))

    @classmethod
    def ramp(cls, first: int, last: int, steps: int) -> BatchSizes:
        """Returns sizes that grow linearly from `first` to `last`, reached at step `steps` (Brown et al. 2020)."""
        rise = last - first
        begins = (-(-number * steps // max(1, rise)) for number in range(rise + 1))
        return cls(tuple(begins), tuple(range(first, last + 1)))

    def size(self, step: int) -> int:
        """Returns how many examples step `step` (counted from 0) takes."""
        return self.sizes[bisect_right(self.steps, step) - 1]

    def start(self, step: int) -> int:
        """Returns how many examples all steps before `step` took: the number of the first one it takes."""
        taken = 0
        for begin, end, size in zip(self.steps, (*self.steps[1:], step), self.sizes, strict=True):
            taken += max(0, min(end, step) - begin) * size
        return taken


class Batches:
    """The batch of every step: `batches[k]` is a pure function of `k`, whatever was asked before.

    Args:
        examples: The endless order: `examples[n]` is example `n` (see `order`).
        collate: Makes a batch of examples and their global numbers (a task's `collate`).
        sizes: How many examples each step takes.
        workers: How many processes make batches while prefetching; 0: a thread of this one.
    """

    def __init__(self, examples: Any, collate: Collate, sizes: BatchSizes, workers: int = 0):
        self.examples, self.collate, self.sizes, self.workers = examples, collate, sizes, workers
        self._ahead: dict[int, Future[Batch] | Pending] = {}
        self._submit: Submit | None = None
        self._depth = 0

    def __getitem__(self, step: int) -> Batch:
        if self._submit is None:
            return self._make(step)
        self._look_ahead(range(step, step + 1 + self._depth))
        return self._ahead.pop(step).result()

    def samples(self, step: int) -> range:
        """Returns the global numbers of the examples of a step."""
        start = self.sizes.start(step)
        return range(start, start + self.sizes.size(step))

    def _make(self, step: int) -> Batch:
        """Makes a batch; its tensors are laid out plainly, so that it is the same however it travels."""
        strike("data", step + 1)
        numbers = self.samples(step)
        batch = self.collate([self.examples[number] for number in numbers], numbers)
        return replace(batch, fields={name: tensor.contiguous() for name, tensor in batch.fields.items()})

    @contextlib.contextmanager
    def prefetching(self, start: int, depth: int = 2) -> Iterator[None]:
        """Within this context the batches after the one asked last are made in the background; no value changes.

        An error in the background is raised where its batch is asked for.

        Args:
            start: The step that will be asked first.
            depth: How many batches to hold ready; with workers at least two of each.

        Raises:
            ResourceError: On asking for a batch: a worker is gone.
        """
        with self._started() as self._submit:
            self._depth = max(depth, 2 * self.workers)
            self._look_ahead(range(start, start + self._depth))
            try:
                yield
            finally:
                self._look_ahead(range(0))
                self._submit = None

    @contextlib.contextmanager
    def _started(self) -> Iterator[Submit]:
        if self.workers:
            with contextlib.closing(Workers(self._make, self.samples, self.workers)) as workers:
                yield workers.submit
        else:
            with ThreadPoolExecutor(1, thread_name_prefix="dougong-batches") as pool:
                yield lambda step: pool.submit(self._make, step)

    def _look_ahead(self, wanted: range) -> None:
        """Keeps exactly these batches in the making; what a jump made useless is dropped."""
        assert self._submit is not None
        for step in [step for step in self._ahead if step not in wanted]:
            self._ahead.pop(step).cancel()
        for step in wanted:
            if step not in self._ahead:
                self._ahead[step] = self._submit(step)


def in_order(dataset: Dataset, collate: Collate, size: int, limit: int | None = None) -> Iterator[Batch]:
    """Yields every example once and in order, `size` at a time (the last batch may be smaller): for evaluation.

    Args:
        dataset: Where the examples are.
        collate: Makes a batch of examples and their numbers.
        size: Examples of a batch.
        limit: Stop after so many batches, or None.
    """
    for number, start in enumerate(range(0, len(dataset), size)):
        if number == limit:
            return
        numbers = range(start, min(start + size, len(dataset)))
        yield collate([dataset[index] for index in numbers], numbers)
