"""Rows of several documents taken apart into rows of one, and put together again. Knows no stage.

Convolutions and recurrences have no mask between documents as attention has; but a padded row gives what it gives
alone, so a document that is a row of its own sees no other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dougong.core import seed as seeds


@dataclass(frozen=True)
class Documents:
    """Documents, each as a padded row.

    Attributes:
        rows: What they hold.
        lengths: How long each is.
        noise: The noise of each: that of its row, and of its number in the row.
        row: For each item of the whole, the document it is in.
        place: For each item of the whole, its place in the document.
    """

    rows: Tensor
    lengths: Tensor
    noise: Tensor | None
    row: Tensor
    place: Tensor


def separated(
    tokens: Int[Tensor, "batch time"], segments: Int[Tensor, "batch time"], noise: Int[Tensor, " batch"] | None
) -> Documents:
    """Returns the documents of rows, in the order in which they stand."""
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    row = begins.flatten().cumsum(0).reshape(segments.shape) - 1
    lengths = torch.bincount(row.flatten())
    starts = lengths.cumsum(0) - lengths
    place = torch.arange(tokens.numel(), device=tokens.device).reshape(tokens.shape) - starts[row]
    rows = tokens.new_zeros(len(lengths), int(lengths.max()))
    rows[row, place] = tokens
    if noise is not None:
        owner = torch.arange(len(tokens), device=tokens.device).repeat_interleave(begins.sum(dim=1))
        number = torch.arange(len(lengths), device=tokens.device) - row[:, 0][owner]
        noise = seeds.sample_keys(number, 0, "document") ^ noise[owner]
    return Documents(rows, lengths, noise, row, place)


def joined(hidden: Float[Tensor, "documents places dim"], parts: Documents) -> Float[Tensor, "batch time dim"]:
    """Returns what stands at each item, in the order of the whole rows."""
    return hidden[parts.row, parts.place]
