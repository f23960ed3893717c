"""The data can be read, and what is read is a function of its number alone (law 3): not of time, order or reader."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

import torch
from torch import Tensor

from dougong.check.result import Claim, Result
from dougong.check.subject import Subject, global_randomness
from dougong.core.contracts import Batch
from dougong.core.errors import FileError
from dougong.train.loop import Batches

CLAIM = Claim("samples", "the samples load, and batch k is the same whenever and however it is read", 3)
APART = 1.1  # seconds between two readers: one who takes an order from the clock takes another by then

Prints = dict[str, str]


def samples(subject: Subject) -> Result:
    """Reads the first thousand samples (or all) in order, backwards, and by a fresh reader that is made later."""
    begin, reader = time.monotonic(), subject.batches()
    with global_randomness(1):
        seen = _read_on(reader, min(subject.limits.samples, subject.samples))
    with global_randomness(2):
        fault = _differs(seen, reader, "again, in another order")
        time.sleep(max(0.0, begin + APART - time.monotonic()))
        fault = fault or _differs(seen, subject.batches(), "by a fresh reader, a second later")
    if fault:
        return CLAIM.broken(fault, "differs", "equal to the bit")
    count = sum(len(numbers) for _, numbers in seen)
    return CLAIM.held(f"{count:,} samples, read three times: equal", "equal to the bit", 0.0, 0.0)


def _read_on(reader: Batches, wanted: int) -> list[tuple[Prints, list[int]]]:
    """Returns the fingerprints and sample numbers of the first batches.

    Raises:
        FileError: A sample cannot be read, or the samples are not numbered through.
    """
    seen: list[tuple[Prints, list[int]]] = []
    expected = 0
    while expected < wanted:
        batch = reader[len(seen)]
        numbers = batch.samples.tolist()
        if numbers != list(range(expected, expected + len(numbers))) or not numbers:
            raise FileError(
                f"the samples of batch {len(seen)} must be numbered on from {expected}, but are {_short(numbers)}. "
                "The collate must hand on the numbers that it is given."
            )
        seen.append((_prints(batch), numbers))
        expected += len(numbers)
    return seen


def _differs(seen: list[tuple[Prints, list[int]]], reader: Batches, how: str) -> str:
    """Returns a sentence on the first batch that is another when it is read from the last to the first, or nothing."""
    faults = []
    for place in reversed(range(len(seen))):
        before, numbers = seen[place]
        now = _prints(reader[place])
        different = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
        if different:
            faults.append((place, numbers, sorted(different)))
    if not faults:
        return ""
    place, numbers, names = faults[-1]
    return (
        f"batch {place} (samples {_short(numbers)}) has other {', '.join(names)} when it is read {how}; so have "
        f"{len(faults)} of {len(seen)} batches. The order of the data must depend on the seed and the sample's number "
        "alone, but depends on time, on the reader or on what was read before."
    )


def _prints(batch: Batch) -> Prints:
    return {name: _digest(tensor) for name, tensor in (*batch.fields.items(), ("sample numbers", batch.samples))}


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    head = f"{plain.dtype} {tuple(plain.shape)} ".encode()
    return hashlib.blake2b(head + plain.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def _short(numbers: Iterable[int]) -> str:
    text = list(map(str, numbers))
    return ", ".join(text) if len(text) <= 4 else f"{text[0]} to {text[-1]}"
