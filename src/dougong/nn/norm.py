"""Normalisation: of vectors (Ba et al. 2016; Zhang and Sennrich 2019), over the batch, and of groups of channels.

Where a norm looks at more than one place of a sequence, masked places are absent. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dougong.core.errors import UsageError
from dougong.nn.mask import blanked, lengths_of


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016): `weight * (x - mean) / sqrt(variance + eps) + bias`."""

    def __init__(self, dim: int, eps: float, bias: bool):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None

    def forward(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns each vector normalised."""
        return F.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019): `weight * x / sqrt(mean(x^2) + eps)`."""

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


class _OverBatch(nn.Module):
    """Scale, shift and running statistics of each channel, and how the running ones follow.

    Attributes:
        normalise: `F.batch_norm`, or another function with its signature, chosen from outside.
    """

    normalise: Callable[..., Tensor] = staticmethod(F.batch_norm)
    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, dim: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.register_buffer("running_mean", torch.empty(dim))
        self.register_buffer("running_variance", torch.empty(dim))

    def _normalised(self, items: Tensor) -> Tensor:
        """Normalises [items channels ...] by torch's kernel, which also moves the running statistics."""
        if self._of_batch and items.numel() == items.shape[1]:
            raise UsageError(
                "a batch must have more than one item for its statistics, but has 1. Make it larger, or "
                "choose another norm."
            )
        mean, variance = self.running_mean, self.running_variance
        if self._of_batch and _recomputes():
            mean, variance = mean.clone(), variance.clone()
        return self.normalise(items, mean, variance, self.weight, self.bias, self._of_batch, self.momentum, self.eps)

    @property
    def _of_batch(self) -> bool:
        """Whether the statistics are those of the batch: in training, unless the norm is frozen."""
        return self.training and self.weight.requires_grad

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics towards those of a batch."""
        if not _recomputes():
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), self.momentum)
            self.running_variance.lerp_(variance.detach().to(self.running_variance.dtype), self.momentum)


class BatchNorm(_OverBatch):
    """Batch normalisation (Ioffe and Szegedy 2015) of sequences: each element over all valid places of the batch.

    `weight * (x - mean) / sqrt(variance + eps) + bias`; in training with the statistics of the batch, else with the
    running ones (buffers: 0 and 1 at first), which follow by `momentum`, the variance without bias. So in training a
    row depends on its batch mates, and a microbatch is not a part of its batch: that is this norm's nature. With a
    frozen weight it keeps to its running statistics.
    """

    def forward(
        self, hidden: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Returns each element normalised; what stands at masked places counts nowhere."""
        if mask is None or not self._of_batch:
            return self._normalised(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
        count = mask.sum()
        mean = blanked(hidden, mask).sum(dim=(0, 1)) / count
        centred = blanked(hidden - mean, mask)
        squares = centred.square().sum(dim=(0, 1))
        self._follow(mean, squares / (count - 1).clamp(min=1))
        return centred * (self.weight * (squares / count + self.eps).rsqrt()) + self.bias


class BatchNorm2d(_OverBatch):
    """Batch normalisation of images: each channel over all places of all images. Else as `BatchNorm`."""

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns each channel normalised."""
        return self._normalised(images)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) of sequences: each group of elements over all valid places of its row."""

    def __init__(self, groups: int, dim: int, eps: float = 1e-5):
        super().__init__()
        _check_groups(groups, dim)
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))

    def forward(
        self, hidden: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Returns each group normalised; what stands at masked places counts nowhere."""
        if mask is None:
            # Without the check of `F.group_norm`, which refuses a row that has one number per group.
            return torch.group_norm(hidden.mT, self.groups, self.weight, self.bias, self.eps).mT
        grouped = hidden.unflatten(2, (self.groups, -1))
        absent = ~mask[:, :, None, None]
        count = (lengths_of(mask) * grouped.shape[3]).clamp(min=1)[:, None, None, None]
        mean = grouped.masked_fill(absent, 0.0).sum(dim=(1, 3), keepdim=True) / count
        centred = (grouped - mean).masked_fill(absent, 0.0)
        variance = centred.square().sum(dim=(1, 3), keepdim=True) / count
        return (centred * (variance + self.eps).rsqrt()).flatten(2) * self.weight + self.bias


class GroupNorm2d(nn.Module):
    """Group normalisation of images: each group of channels over all places of its image."""

    def __init__(self, groups: int, channels: int, eps: float = 1e-5):
        super().__init__()
        _check_groups(groups, channels)
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Returns each group normalised."""
        return F.group_norm(images, self.groups, self.weight, self.bias, self.eps)


OVER_BATCH = (BatchNorm, BatchNorm2d, nn.modules.batchnorm._BatchNorm)
"""The norms whose statistics in training are those of the batch."""


def _recomputes() -> bool:
    """Tells whether this forward pass runs inside a backward pass: it must not count a batch for a second time."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _check_groups(groups: int, dim: int) -> None:
    if dim % groups:
        raise UsageError(f"groups must divide the width, but {dim} % {groups} is {dim % groups}. Choose a divisor.")
