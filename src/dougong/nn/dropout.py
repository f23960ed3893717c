"""Dropout (Srivastava et al. 2014) as a pure function of a key per example (law 1). Knows no model."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dougong.core import seed


def dropout(
    hidden: Float[Tensor, "batch ..."], probability: float, noise: Int[Tensor, " batch"] | None, place: int
) -> Float[Tensor, "batch ..."]:
    """Sets each element to zero with the probability, and scales the others by `1 / (1 - probability)`.

    What is dropped depends on (key of the example, place, element) alone: the same eager or compiled, recomputed, on
    any device, and in any microbatch.

    Args:
        hidden: What to drop from.
        probability: In [0, 1).
        noise: One int32 key per example; None switches dropout off.
        place: Tells apart the layers that draw from the same key.
    """
    if noise is None or probability == 0.0:
        return hidden
    keep = seed.draw_bits(noise, tuple(hidden.shape[1:]), place) >= int(probability * 2**24)
    return torch.where(keep, hidden * (1.0 / (1.0 - probability)), 0.0)
