"""Pooling: many places become one, over all of a row's time, over windows of it, or over space. Knows no model.

Masked places are absent: they are in no mean and no maximum. A row without any item gives zeros.
"""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dougong.core.errors import UsageError
from dougong.nn.convolution import check_room, check_spatial
from dougong.nn.lengths import Window
from dougong.nn.mask import at, blanked, lengths_of, mask_of

Kind = Literal["mean", "max"]
Reduction = Literal["mean", "max", "last", "first"]


def pool_time(
    kind: Reduction, hidden: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
) -> Float[Tensor, "batch dim"]:
    """Returns one vector per row: the mean, the maximum of each element, or the last or first valid place."""
    if kind == "first":
        return hidden[:, 0] if mask is None else blanked(hidden[:, :1], mask[:, :1])[:, 0]
    if mask is None:
        if kind == "mean":
            return hidden.mean(dim=1)
        return hidden.amax(dim=1) if kind == "max" else hidden[:, -1]
    lengths = lengths_of(mask)
    if kind == "mean":
        return blanked(hidden, mask).sum(dim=1) / lengths.clamp(min=1)[:, None]
    if kind == "max":
        return blanked(hidden, mask, -math.inf).amax(dim=1).masked_fill((lengths == 0)[:, None], 0.0)
    return at(blanked(hidden, mask), (lengths - 1).clamp(min=0))


def pool_windows(
    kind: Kind,
    hidden: Float[Tensor, "batch time dim"],
    window: Window,
    mask: Bool[Tensor, "batch time"] | None = None,
) -> Float[Tensor, "batch out_time dim"]:
    """Returns the mean or maximum of the valid places in each window; places beyond a row's outputs are zero.

    Raises:
        UsageError: A mean is asked for over a window with gaps, or the window does not fit.
    """
    check_room(window, hidden.shape[1])
    absent = -math.inf if kind == "max" else 0.0
    channels = F.pad(blanked(hidden, mask, absent).transpose(1, 2), (window.before, window.after), value=absent)
    if kind == "max":
        pooled = F.max_pool1d(channels, window.kernel, window.stride, dilation=window.dilation).transpose(1, 2)
    else:
        _check_solid(window)
        pooled = F.avg_pool1d(channels, window.kernel, window.stride).transpose(1, 2)
        pooled = pooled / _share(hidden, window, mask)
    if mask is None:
        return pooled
    return blanked(pooled, mask_of(window.length(lengths_of(mask)), pooled.shape[1]))


def pool_space(
    kind: Kind, images: Float[Tensor, "batch channels height width"], window: Window
) -> Float[Tensor, "batch channels out_height out_width"]:
    """Returns the mean or maximum of each square window; what lies beyond the borders is in neither.

    Raises:
        UsageError: The window is causal or does not fit, or a mean is asked for over a window with gaps.
    """
    check_spatial(window)
    check_room(window, *images.shape[2:])
    even = window.before == window.after and 2 * window.before <= window.kernel
    if not even:
        return _pool_uneven(kind, images, window)
    if kind == "max":
        return F.max_pool2d(images, window.kernel, window.stride, window.before, window.dilation)
    _check_solid(window)
    return F.avg_pool2d(images, window.kernel, window.stride, window.before, count_include_pad=False)


def mean_of_space(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels"]:
    """Returns the mean of all places of each channel (global average pooling, Lin et al. 2014)."""
    return images.mean(dim=(2, 3))


def _pool_uneven(kind: Kind, images: Tensor, window: Window) -> Tensor:
    """Pools with more padding on one side than on the other, which torch's kernels do not offer."""
    sides = (window.before, window.after) * 2
    if kind == "max":
        padded = F.pad(images, sides, value=-math.inf)
        return F.max_pool2d(padded, window.kernel, window.stride, dilation=window.dilation)
    _check_solid(window)
    inside = F.pad(images.new_ones(1, 1, *images.shape[2:]), sides)
    mean = F.avg_pool2d(F.pad(images, sides), window.kernel, window.stride)
    return mean / F.avg_pool2d(inside, window.kernel, window.stride)


def _share(hidden: Tensor, window: Window, mask: Tensor | None) -> Tensor:
    """Returns which part of each window is valid, at least one place (an empty window has the sum 0)."""
    valid = hidden.new_ones(1, hidden.shape[1]) if mask is None else mask.to(hidden.dtype)
    part = F.avg_pool1d(F.pad(valid, (window.before, window.after))[:, None], window.kernel, window.stride)
    return part.transpose(1, 2).clamp(min=1 / window.kernel)


def _check_solid(window: Window) -> None:
    if window.dilation != 1:
        raise UsageError(f"the dilation of a mean over windows must be 1, but is {window.dilation}. Remove it.")
