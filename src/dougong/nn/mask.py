"""Which places of a padded row hold an item. Valid places come first: a row is its items, then padding. Knows no model.

A mask is bool [batch time], True where there is an item; None stands for everywhere.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def mask_of(lengths: Int[Tensor, " batch"], time: int) -> Bool[Tensor, "batch time"]:
    """Returns the mask of rows of the given lengths, padded to `time` places."""
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def lengths_of(mask: Bool[Tensor, "batch time"]) -> Int[Tensor, " batch"]:
    """Returns how many items each row has."""
    return mask.sum(dim=1)


def blanked(
    hidden: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None, value: float = 0.0
) -> Float[Tensor, "batch time dim"]:
    """Returns the same with a value, zero unless told, at every masked place, whatever stood there (even NaN)."""
    return hidden if mask is None else hidden.masked_fill(~mask[..., None], value)


def at(hidden: Float[Tensor, "batch time dim"], places: Int[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
    """Returns of each row what stands at its place."""
    return hidden.gather(1, places[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
