"""The feed-forward network, plain (Vaswani et al. 2017, eq. 2) and gated (Shazeer 2020). Knows no model."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dougong.nn.init import Linear

Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]


def activate(kind: Activation, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Returns the activation of a kind; `gelu_tanh` is the approximation that GPT-2 was trained with."""
    if kind in ("gelu", "gelu_tanh"):
        return F.gelu(hidden, approximate="tanh" if kind == "gelu_tanh" else "none")
    return F.silu(hidden) if kind == "silu" else F.relu(hidden)


class FeedForward(nn.Module):
    """`down(activate(up(x)))`."""

    def __init__(self, dim: int, hidden_dim: int, activation: Activation, bias: bool):
        super().__init__()
        self.activation = activation
        self.up = Linear(dim, hidden_dim, bias=bias)
        self.down = Linear(hidden_dim, dim, bias=bias)

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns each position transformed by itself."""
        return self.down(activate(self.activation, self.up(hidden)))


class GatedFeedForward(nn.Module):
    """`down(activate(gate(x)) * up(x))`; with SiLU it is SwiGLU, with GELU GEGLU."""

    def __init__(self, dim: int, hidden_dim: int, activation: Activation, bias: bool):
        super().__init__()
        self.activation = activation
        self.gate = Linear(dim, hidden_dim, bias=bias)
        self.up = Linear(dim, hidden_dim, bias=bias)
        self.down = Linear(hidden_dim, dim, bias=bias)

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns each position transformed by itself."""
        return self.down(activate(self.activation, self.gate(hidden)) * self.up(hidden))
