"""Positions: rotary (Su et al. 2021) and sinusoidal (Vaswani et al. 2017), computed, with no buffer. Knows no model."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dougong.nn.named import LinearScaling, Llama3Scaling


def frequencies(
    head_dim: int, theta: float, scaling: LinearScaling | Llama3Scaling | None, device: torch.device
) -> Float[Tensor, " half"]:
    """Returns the angle in radians by which each pair of a head turns per position: `theta^(-2i / head_dim)`."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    turning = 1.0 / theta**exponent
    if isinstance(scaling, LinearScaling):
        return turning / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        turns = scaling.original_max_seq_len * turning / (2 * math.pi)
        kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        kept = kept.clamp(0.0, 1.0)
        return (1.0 - kept) * turning / scaling.factor + kept * turning
    return turning


def rotary(
    positions: Int[Tensor, "*batch time"], turning: Float[Tensor, " half"], dtype: torch.dtype
) -> tuple[Float[Tensor, "*batch time half"], Float[Tensor, "*batch time half"]]:
    """Returns cosine and sine of each position's angles, computed in fp32 whatever the type they are returned in."""
    angles = positions[..., None].float() * turning
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(
    heads: Float[Tensor, "batch heads time head_dim"],
    cosine: Float[Tensor, "*broadcast time half"],
    sine: Float[Tensor, "*broadcast time half"],
) -> Float[Tensor, "batch heads time head_dim"]:
    """Turns pair `i` of each head, which is (element `i`, element `i + head_dim / 2`), by its angle."""
    first, second = heads.chunk(2, dim=-1)
    cosine, sine = cosine.to(heads.dtype), sine.to(heads.dtype)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def sinusoidal(
    positions: Int[Tensor, "*batch time"], dim: int, dtype: torch.dtype
) -> Float[Tensor, "*batch time {dim}"]:
    """Returns the vector that is added at each position (Vaswani et al. 2017, section 3.5), computed in fp32.

    Element `2i` is `sin(position / 10000^(2i / dim))`, element `2i + 1` its cosine.
    """
    exponent = torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim
    angles = positions[..., None].float() / 10000.0**exponent
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :dim].to(dtype)


def sinusoidal_halves(
    positions: Int[Tensor, "*batch time"], dim: int, dtype: torch.dtype
) -> Float[Tensor, "*batch time {dim}"]:
    """Returns the same numbers in another order: all sines, then all cosines, as Marian has them."""
    waves = sinusoidal(positions, dim, dtype)
    return torch.cat((waves[..., 0::2], waves[..., 1::2]), dim=-1)
