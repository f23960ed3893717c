"""Batches of text whose losses must be equal if the masks of a model hold: what `dougong check` tries on it.

Knows rows of tokens, targets, documents and segments; knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dougong.core.contracts import Batch
from dougong.nn.losses import IGNORED

Equality = tuple[str, Batch, Sequence[Batch]]


def causal(batch: Batch) -> Iterator[Equality]:
    """Yields each row with its second half not counting, and its first half alone."""
    half = batch["tokens"].shape[1] // 2
    for row in batch.split(1) if half else ():
        yield (
            "what comes later in a row changes nothing before it (the causal mask)",
            _counting(row, slice(0, half)),
            [_cut(row, 0, half)],
        )


def documents_apart(batch: Batch) -> Iterator[Equality]:
    """Yields each row of several documents that attention may not cross, and its documents alone.

    A row of one document is given a second: the mask must hold wherever documents meet.
    """
    for row in batch.split(1) if "segments" in batch.fields else ():
        segments = row["segments"]
        if bool((segments == segments[:, :1]).all()):
            third = segments.shape[1] // 3
            row = replace(row, fields={**row.fields, "segments": segments + _from(segments, third)})
        yield (
            "documents packed into one row equal each document alone (the mask of `segments`)",
            row,
            [_cut(row, start, stop) for start, stop in _runs(row["segments"][0])],
        )


def uneven(batch: Batch) -> Batch:
    """Returns the batch with the last `r` of row `r`'s targets left out, or all but one."""
    targets = batch["targets"].clone()
    length = targets.shape[1]
    for number in range(len(batch)):
        targets[number, length - min(number, length - 1) :] = IGNORED
    return replace(batch, fields={**batch.fields, "targets": targets})


def _runs(segments: Tensor) -> list[tuple[int, int]]:
    """Returns where each stretch of equal numbers starts and stops."""
    breaks = (torch.nonzero(segments[1:] != segments[:-1]).flatten() + 1).tolist()
    return list(zip([0, *breaks], [*breaks, len(segments)], strict=True))


def _from(like: Tensor, place: int) -> Tensor:
    """Returns 1 from a place on, and 0 before."""
    return (torch.arange(like.shape[1], device=like.device) >= place).to(like.dtype)[None, :]


def _counting(row: Batch, places: slice) -> Batch:
    """Returns a row of which only these places count."""
    targets = torch.full_like(row["targets"], IGNORED)
    targets[:, places] = row["targets"][:, places]
    return replace(row, fields={**row.fields, "targets": targets})


def _cut(row: Batch, start: int, stop: int) -> Batch:
    """Returns some places of a row, as a row of their own."""
    return replace(row, fields={name: tensor[:, start:stop] for name, tensor in row.fields.items()})
