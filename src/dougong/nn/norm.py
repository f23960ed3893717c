"""Normalisation over the last dim: LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019). Knows no model."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """`weight * (x - mean) / sqrt(variance + eps) + bias`."""

    def __init__(self, dim: int, eps: float, bias: bool):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns each vector normalised."""
        return F.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """`weight * x / sqrt(mean(x^2) + eps)`."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns each vector normalised."""
        # Under autocast the weight is wider than what comes in; torch's fused kernel wants one type.
        return F.rms_norm(hidden, self.weight.shape, self.weight.to(hidden.dtype), self.eps)


def make_norm(kind: Literal["layernorm", "rmsnorm"], dim: int, eps: float, bias: bool) -> LayerNorm | RMSNorm:
    """Returns the norm of a kind; `bias` concerns LayerNorm only, RMSNorm has none."""
    return LayerNorm(dim, eps, bias) if kind == "layernorm" else RMSNorm(dim, eps)
