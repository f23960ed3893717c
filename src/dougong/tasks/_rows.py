"""Rows of unequal length as one tensor. Knows arrays of whole numbers; knows no task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

MULTIPLE = 8
"""Widths are rounded up to this, so that there are few of them, and products of matrices run fast."""


def width_of(lengths: Sequence[int], most: int) -> int:
    """Returns the width of a batch of rows: that of the longest, rounded up, but at most so many."""
    return min(-(-max(lengths) // MULTIPLE) * MULTIPLE, most)


def padded(rows: Sequence[Int[np.ndarray, " _"]], width: int, filling: int = 0) -> Int[Tensor, "row width"]:
    """Returns rows as one tensor; what is added behind each is `filling`."""
    found = np.full((len(rows), width), filling, dtype=np.int64)
    for row, values in zip(found, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(found)


def segments_of(
    tokens: Sequence[Int[np.ndarray, " _"]], segments: Sequence[Int[np.ndarray, " _"] | None], width: int
) -> Int[Tensor, "row width"] | None:
    """Returns which of two texts each token belongs to, or None where no row has a second text."""
    if all(each is None for each in segments):
        return None
    pairs = zip(tokens, segments, strict=True)
    return padded([np.zeros_like(row) if each is None else each for row, each in pairs], width)
