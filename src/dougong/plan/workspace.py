"""The memory that a kernel takes for itself inside one operation, which no tensor of the program shows.

Only of oneDNN on a processor, found by looking at what it allocates. A convolution computes on copies whose channels
lie in blocks, and first makes contiguous what is not; where the channels of the picture lie last, that goes for the
weight alone. An LSTM, backward, holds the slopes of all gates and its weights once more. Knows operations by torch's
names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BLOCK = 16
"""So many channels lie together in a block; fewer than that are read as they are."""


def workspace(func: Any, args: Any) -> int:
    """Returns the bytes that an operation holds at its most, beyond what goes in and what comes out.

    Args:
        func: The operation, as `__torch_dispatch__` is given it.
        args: What it was called with, by place.
    """
    taken = _TAKEN.get(func._overloadpacket.__name__)
    return taken(args) if taken and args[0].device.type == "cpu" else 0


def _lstm_backward(args: Any) -> int:
    slope, (_, of_input, of_state, *_) = args
    return 4 * slope.nbytes + of_input.nbytes + of_state.nbytes


def _convolution_backward(args: Any) -> int:
    slope, given, weight, _, stride = args[:5]
    copied = _copied(slope) + _copied(given)
    if not (_plain(given) and _plain(slope)):
        return copied + _turned(weight) + 2 * weight.nbytes  # the weight in blocks, and its slope in blocks
    twice = max(stride) > 1 and args[-1][0]  # the slope of what is given is turned back over another copy
    return copied + _blocked(given) + max(_blocked(slope), _blocked(given) * twice)


def _convolution(args: Any) -> int:
    given, weight = args[:2]
    if not _plain(given):
        return _copied(given) + _turned(weight) + weight.nbytes
    places = [_places(args, axis) for axis in range(weight.dim() - 2)]
    made = _rounded(weight.shape[0]) * given.shape[0] * math.prod(places) * given.element_size()
    return _copied(given) + max(made, _blocked(given) + _blocked_weight(weight))


def _places(args: Any, axis: int) -> int:
    """Returns how many numbers come out along an axis."""
    given, weight, _, stride, padding, dilation = args[:6]
    reach = dilation[axis % len(dilation)] * (weight.shape[2 + axis] - 1)
    room = given.shape[2 + axis] + 2 * padding[axis % len(padding)] - reach - 1
    return int(room) // int(stride[axis % len(stride)]) + 1


def _plain(tensor: Tensor) -> bool:
    """Tells whether a tensor does not lie channels last, in which form nothing is copied."""
    if tensor.dim() != 4 or tensor.is_contiguous():
        return True
    return not tensor.is_contiguous(memory_format=torch.channels_last)


def _copied(tensor: Tensor) -> int:
    return 0 if tensor.is_contiguous() or not _plain(tensor) else tensor.nbytes


def _turned(weight: Tensor) -> int:
    """Returns the bytes of a copy of the weight whose channels lie last, as those of the picture do, if it is none."""
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return 0 if last else weight.nbytes


def _blocked(tensor: Tensor) -> int:
    """Returns the bytes of a copy whose channels lie in blocks."""
    channels = tensor.shape[1]
    return 0 if channels < BLOCK else tensor.nbytes // channels * _rounded(channels)


def _blocked_weight(weight: Tensor) -> int:
    made, given = weight.shape[:2]
    return weight.nbytes // (made * given) * _rounded(made) * (given if given < BLOCK else _rounded(given))


def _rounded(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK


_TAKEN: dict[str, Callable[[Any], int]] = {
    "convolution": _convolution,
    "_convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "lstm_backward": _lstm_backward,
}
