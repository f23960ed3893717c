"""The feed-forward network, plain (Vaswani et al. 2017, eq. 2) and gated (Shazeer 2020). Knows no model."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dougong.nn.init import Linear
from dougong.nn.named import Activation


def activate(kind: Activation, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Returns the activation of a kind; `gelu_tanh` is the approximation that GPT-2 was trained with."""
    if kind in ("gelu", "gelu_tanh"):
        return F.gelu(hidden, approximate="tanh" if kind == "gelu_tanh" else "none")
    return F.silu(hidden) if kind == "silu" else F.relu(hidden)


def activate_compiled(kind: Activation, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Returns the same as `activate`, written for a compiler that fuses it into one pass.

    `1/2 (1 + tanh u)` is `sigmoid(2 u)`. On an AVX2 CPU a vector of tanh costs three times a vector of
    exponentials. Not compiled, it would take nine passes for torch's one.
    """
    if kind != "gelu_tanh":
        return activate(kind, hidden)
    return hidden * (2 * math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden * hidden * hidden)).sigmoid()


class FeedForward(nn.Module):
    """`down(activate(up(x)))`.

    Attributes:
        activate: `activate`, or another function with its signature, chosen from outside.
    """

    activate: Callable[[Activation, Tensor], Tensor] = staticmethod(activate)

    def __init__(self, dim: int, hidden_dim: int, activation: Activation, bias: bool):
        super().__init__()
        self.activation = activation
        self.up = Linear(dim, hidden_dim, bias=bias)
        self.down = Linear(hidden_dim, dim, bias=bias)

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns each position transformed by itself."""
        return self.down(self.activate(self.activation, self.up(hidden)))


class GatedFeedForward(nn.Module):
    """`down(activate(gate(x)) * up(x))`; with SiLU it is SwiGLU, with GELU GEGLU.

    Attributes:
        activate: `activate`, or another function with its signature, chosen from outside.
    """

    activate: Callable[[Activation, Tensor], Tensor] = staticmethod(activate)

    def __init__(self, dim: int, hidden_dim: int, activation: Activation, bias: bool):
        super().__init__()
        self.activation = activation
        self.gate = Linear(dim, hidden_dim, bias=bias)
        self.up = Linear(dim, hidden_dim, bias=bias)
        self.down = Linear(hidden_dim, dim, bias=bias)

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns each position transformed by itself."""
        return self.down(self.activate(self.activation, self.gate(hidden)) * self.up(hidden))
