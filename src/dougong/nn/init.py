"""Layers whose values are set in one place, and the draws that set them.

The layers of `torch.nn` fill their parameters when they are made; these leave them empty, so that a model of any size
is made at once and `init_weights` is the only place where values come from. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from dougong.core import seed as seeds


class Linear(nn.Linear):
    """A `torch.nn.Linear` that is not filled when made."""

    def reset_parameters(self) -> None:
        """Does nothing: the model's `init_weights` fills the parameters."""


class Embedding(nn.Embedding):
    """A `torch.nn.Embedding` that is not filled when made."""

    def reset_parameters(self) -> None:
        """Does nothing: the model's `init_weights` fills the parameters."""


@torch.no_grad()
def draw_normal(parameter: nn.Parameter, std: float, seed: int, name: str) -> None:
    """Fills a parameter from a normal distribution of mean 0; a value depends on seed, name and place alone.

    Drawn in fp32 on the CPU whatever the parameter's type and device, so that all of them begin equal.
    """
    values = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
    parameter.copy_(values.normal_(0.0, std, generator=seeds.generator(seed, "init", name)))


@torch.no_grad()
def draw_uniform(parameter: nn.Parameter, bound: float, seed: int, name: str) -> None:
    """Fills a parameter uniformly from [-bound, bound); else as `draw_normal`."""
    values = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
    parameter.copy_(values.uniform_(-bound, bound, generator=seeds.generator(seed, "init", name)))


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Returns how many inputs an output has and how many outputs an input has: [out, in, *places of the window]."""
    places = math.prod(shape[2:])
    return shape[1] * places, shape[0] * places


def he_std(shape: Sequence[int]) -> float:
    """Returns the standard deviation that keeps the variance through ReLU: `sqrt(2 / fan_in)` (He et al. 2015, eq. 10).

    Their form for the backward pass, which PyTorch's ResNets use, is that of the shape with its first two turned.
    """
    return math.sqrt(2.0 / fans(shape)[0])


def glorot_bound(shape: Sequence[int]) -> float:
    """Returns the bound of a uniform draw, `sqrt(6 / (fan_in + fan_out))` (Glorot and Bengio 2010, eq. 16)."""
    return math.sqrt(6.0 / sum(fans(shape)))


def draw_he(parameter: nn.Parameter, seed: int, name: str) -> None:
    """Fills the weight of a linear layer or a convolution by `he_std`."""
    draw_normal(parameter, he_std(parameter.shape), seed, name)


def draw_glorot(parameter: nn.Parameter, seed: int, name: str) -> None:
    """Fills the weight of a linear layer or a convolution by `glorot_bound`."""
    draw_uniform(parameter, glorot_bound(parameter.shape), seed, name)
