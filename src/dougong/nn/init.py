"""Layers whose values are set in one place, and the draws that set them.

The layers of `torch.nn` fill their parameters when they are made; these leave them empty, so that a model of any size
is made at once and `init_weights` is the only place where values come from. Knows no model.
"""

from __future__ import annotations

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
