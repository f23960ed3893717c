"""Batch normalisation and ReLU in pieces that a compiler leaves whole, for processors.

Torch's compiler takes both apart: it then divides once for every element, and keeps a mask of a byte for each, written
one by one. Torch's own kernels do the same in a third to a tenth of the time. The values are equal, bit by bit. Knows
no module, and not when it pays (see `train/blocks.py`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def relu_whole(hidden: Tensor) -> Tensor:
    """Returns the same as `F.relu`; for the way back it keeps what it returns, as torch does, and no mask."""
    rectified: Tensor = _Rectify.apply(hidden)
    return rectified


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        made = torch.relu(hidden)
        ctx.save_for_backward(made)
        return made

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return _relu_backward(slope, *ctx.saved_tensors)


@torch.library.custom_op("dougong::relu_backward", mutates_args=(), schema="(Tensor slope, Tensor made) -> Tensor")
def _relu_backward(slope: Tensor, made: Tensor) -> Tensor:
    """Returns the slope where something came through."""
    passed: Tensor = torch.ops.aten.threshold_backward(slope, made, 0)
    return passed


@_relu_backward.register_fake
def _(slope: Tensor, made: Tensor) -> Tensor:
    return torch.empty_like(made)


def batch_norm_whole(
    items: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, of_batch: bool, *numbers: float
) -> Tensor:
    """Returns the same as `F.batch_norm`, with its signature: the numbers are momentum and epsilon.

    The statistics of a batch leave the operator as copies, as one that writes into its inputs has no slopes.
    """
    if not of_batch:
        return F.batch_norm(items, mean, variance, weight, bias, False, *numbers)
    made, _, _, *moved = _whole(items, mean, variance, weight, bias, *numbers)
    for running, after in zip((mean, variance), moved, strict=True):
        running.copy_(after.detach())
    return made


@torch.library.custom_op(
    "dougong::batch_norm",
    mutates_args=(),
    schema="(Tensor items, Tensor mean, Tensor variance, Tensor weight, Tensor bias, float momentum, float eps) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _whole(
    items: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns the normalised items, the batch's mean and inverse deviation, and the running statistics moved by it."""
    mean, variance = mean.clone(), variance.clone()
    made, of_batch, inverse = torch.native_batch_norm(items, weight, bias, mean, variance, True, momentum, eps)
    return made, of_batch, inverse, mean, variance


@torch.library.custom_op(
    "dougong::batch_norm_backward",
    mutates_args=(),
    schema="(Tensor slope, Tensor items, Tensor weight, Tensor mean, Tensor inverse, float eps) -> "
    "(Tensor, Tensor, Tensor)",
)
def _whole_backward(
    slope: Tensor, items: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the slopes of items, weight and bias."""
    wanted = [True, True, True]
    backward = torch.ops.aten.native_batch_norm_backward
    slopes: tuple[Tensor, Tensor, Tensor] = backward(slope, items, weight, None, None, mean, inverse, True, eps, wanted)
    return slopes


@_whole.register_fake
def _(items: Tensor, *others: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(items), *(torch.empty_like(others[2]) for _ in range(4))


@_whole_backward.register_fake
def _(slope: Tensor, items: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(items), torch.empty_like(weight), torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    items, _, _, weight, _, _, ctx.eps = inputs
    ctx.save_for_backward(items, weight, output[1], output[2])


def _slopes(ctx: Any, slope: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    of_items, of_weight, of_bias = _whole_backward(slope, *ctx.saved_tensors, ctx.eps)
    return of_items, None, None, of_weight, of_bias, None, None


_whole.register_autograd(_slopes, setup_context=_keep)
