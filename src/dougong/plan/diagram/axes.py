"""What each axis of a tensor means, in a word, as far as annotations and functions tell; windows over axes, in words.

Knows torch; knows no model.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

MOVING = {
    *("transpose", "transpose_", "permute", "swapaxes", "movedim", "t", "squeeze", "unsqueeze", "select", "unbind"),
    *("__getitem__", "mean", "sum", "amax", "max", "min", "argmax", "norm", "logsumexp"),
}
RESHAPING = {"reshape", "view", "flatten", "unflatten", "expand"}
Axes = tuple[str | None, ...]


@runtime_checkable
class Named(Protocol):
    """A tensor of which the words of its axes are known."""

    shape: tuple[int, ...]
    axes: Axes


SAME = {"channels": "channel"}  # what annotations call otherwise
WINDOWS = {f"{kind}_pool{dims}d": dims for kind in ("max", "avg") for dims in (1, 2, 3)}
ADAPTIVE = {f"adaptive_{name}": dims for name, dims in WINDOWS.items()}


def stated_axes(module: nn.Module) -> dict[str, str]:
    """Returns the axes that a module's `forward` states in words, by argument and for `return`."""
    given = getattr(type(module).forward, "__annotations__", {})
    found = {}
    for name, annotation in given.items():
        text = annotation if isinstance(annotation, str) else getattr(annotation, "dim_str", "")
        match = re.search(r"\[(?:torch\.)?Tensor,\s*['\"]([^'\"]*)['\"]\]", text)
        if match or not isinstance(annotation, str):
            found[name] = match[1] if match else text
    return found


def as_named(words: str | None, shape: tuple[int, ...]) -> Axes | None:
    """Returns one word an axis from an annotation, or None where it leaves the number of axes open."""
    parts = (words or "").split()
    if not parts or len(parts) != len(shape) or any(part.startswith(("*", "...")) for part in parts):
        return None
    plain = [part.lstrip("#_?").removeprefix("out_") for part in parts]
    return tuple(SAME.get(part, part) if re.fullmatch(r"[A-Za-z_]\w*", part) else None for part in plain)


def guessed(tensor: Tensor) -> Axes:
    """Returns the words for the axes of an input that nothing else says."""
    if tensor.ndim == 4 and tensor.is_floating_point():
        return ("batch", "channel", "height", "width")
    if tensor.ndim == 2 and not tensor.is_floating_point():
        return ("batch", "time")
    return ("batch", *(None,) * (tensor.ndim - 1)) if tensor.ndim else ()


def followed(axes: Axes, before: tuple[int, ...], after: tuple[int, ...]) -> Axes:
    """Returns the words for the axes of a tensor that was computed from another.

    With as many axes they keep their meaning; one more is the width of an embedding; else only the first can be told.
    """
    if len(axes) != len(before) or not axes:
        return (None,) * len(after)
    if len(after) == len(before):
        return axes
    if after[:-1] == before:
        return (*axes, "dim")
    return (axes[0] if after[:1] == before[:1] else None, *(None,) * (len(after) - 1)) if after else ()


def carried(func: Any, value: Named, args: Any, kwargs: Any, after: tuple[int, ...]) -> Axes | None:
    """Returns the words after a function that moves, drops or merges axes; None for any other.

    It is asked: done to a tensor whose axes all have different lengths, it shows where each of them went.
    """
    name = func.__name__
    if name in RESHAPING:
        front = 0
        while front < min(len(after), len(value.shape)) and after[front] == value.shape[front]:
            front += 1
        rest = value.axes[front:]
        if (
            len(after) == front + 1
            and len(rest) > 1
            and None not in rest
            and after[-1] == math.prod(value.shape[front:])
        ):
            return (*value.axes[:front], "×".join(map(str, rest)))
        kept = len(value.shape) == len(after) and front == len(after)
        return value.axes if kept else (*value.axes[: min(front, len(after))], *(None,) * (len(after) - front))
    if name not in MOVING and not (name == "__get__" and len(value.shape) > 1):
        return None
    lengths = (1009, 1013, 1019, 1021, 1031, 1033)[: len(value.shape)]
    with contextlib.suppress(RuntimeError, IndexError, TypeError, ValueError):
        result = func(torch.empty(lengths, device="meta"), *args, **kwargs)
        result = result if isinstance(result, Tensor) else result[0]
        words = dict(zip(lengths, value.axes, strict=False))
        if result.ndim == len(after):
            kept = result.ndim == len(lengths) and name == "__getitem__"
            return value.axes if kept else tuple(words.get(length) for length in result.shape)
    return (None,) * len(after)


def told_of(name: str, axes: Axes, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Returns what a function was told beside its tensor, in words: `3 × 3, stride 2`, or `over time`; or nothing."""
    if name in WINDOWS:
        given = [*args, None, None]
        kernel, stride = kwargs.get("kernel_size", given[0]), kwargs.get("stride", given[1])
        return ", ".join(window_words(WINDOWS[name], kernel, kernel if stride in (None, [], ()) else stride))
    if name in ADAPTIVE:
        return f"to {times(kwargs.get('output_size', args[0] if args else 1), ADAPTIVE[name])}"
    if name not in ("mean", "sum", "amax", "softmax"):
        return ""
    dims = kwargs.get("dim", args[0] if args else None)
    places = [dim for dim in (dims if isinstance(dims, tuple | list) else (dims,)) if isinstance(dim, int)]
    found = [(axes[dim] if dim < len(axes) else None) or f"axis {dim}" for dim in places]
    return f"over {', '.join(map(str, found))}" if found else ""


def times(size: Any, dims: int) -> str:
    """Returns `3 × 3` for 3 by 3, however torch holds it: one number may stand for all dims."""
    return " × ".join(str(part) for part in (size if isinstance(size, tuple | list) else (size,) * dims))


def window_words(dims: int, kernel: Any, stride: Any = 1, dilation: Any = 1, groups: int = 1) -> Iterator[str]:
    """Yields what a moving window is like, where it is not the usual."""
    shown = times(kernel, dims)
    yield shown if "×" in shown else f"kernel {shown}"
    for name, value in (("stride", stride), ("dilation", dilation), ("groups", groups)):
        sizes = set(value) if isinstance(value, tuple | list) else {value}
        if sizes - {1}:
            yield f"{name} {times(value, dims) if len(sizes) > 1 else sizes.pop()}"
