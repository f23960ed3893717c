"""Shapes of what common operations make, without asking torch, whose own answer loads its compiler (a second, 100 MB).

On the meta device torch computes many shapes in Python, through wrappers that import `torch._dynamo` on their first
call. For the operations below the shape is plain, so it is told here; a test compares each with torch's answer. Knows
operations; knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_ATEN = torch.ops.aten
_SAME_KIND = (
    *("add", "sub", "mul", "rsub", "neg", "abs", "clamp", "pow", "bitwise_and", "bitwise_or"),
    *("gelu", "gelu_backward", "silu", "silu_backward", "relu", "threshold_backward"),
    *("tanh_backward", "sigmoid_backward"),
)
_REAL = ("div", "sin", "cos", "tanh", "sigmoid", "exp", "log", "rsqrt", "sqrt", "reciprocal")
_HARMLESS = {"approximate", "alpha", "out"}  # options that change values, never shapes
_TRUTH = ("ge", "gt", "le", "lt", "eq", "ne")


def made(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns what an operation makes of tensors on the meta device, or None where torch must be asked."""
    rule = _RULES.get(func._overloadpacket)
    first = args[0] if args else None
    if rule is None or (isinstance(first, Tensor) and not first.is_meta) or _said(kwargs) - _HARMLESS:
        return None
    if kwargs.get("out") is not None:
        return kwargs["out"]
    if func._overloadpacket.__name__.endswith("_"):
        return first
    return rule(*args)


def _pointwise(kind: Callable[[torch.dtype], torch.dtype]) -> Callable[..., Any]:
    def rule(*args: Any) -> Any:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if not tensors or len(tensors) > 2:
            return None
        pair: list[Any] = [arg for arg in args if isinstance(arg, Tensor | int | float) and not isinstance(arg, bool)][
            :2
        ]
        dtype = torch.result_type(*pair) if len(pair) == 2 else tensors[0].dtype
        shape = _broadcast(tensors)
        like = next((tensor for tensor in tensors if tensor.shape == shape), None)
        if like is None or not all(t.is_contiguous() or t is like for t in tensors):
            return torch.empty(shape, dtype=kind(dtype), device="meta")
        return _like(like, kind(dtype))

    return rule


def _said(options: dict[str, Any]) -> set[str]:
    """Returns the options that are not left as they are by default."""
    usual = (None, False, torch.preserve_format)
    return {name for name, value in options.items() if not any(value is one for one in usual)}


def _like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns what `torch.empty_like` makes, which loads sympy (half a second): dims laid out in the same order."""
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda dim: (-strides[dim], dim))
    stride, step = [0] * tensor.ndim, 1
    for dim in reversed(order):
        stride[dim], step = step, step * max(1, tensor.shape[dim])
    return torch.empty_strided(tensor.shape, stride, dtype=dtype, device=tensor.device)


def _broadcast(tensors: list[Tensor]) -> tuple[int, ...]:
    """Returns the shape that tensors have together; torch's own answer loads sympy (half a second)."""
    rank = max(tensor.ndim for tensor in tensors)
    every = [(1,) * (rank - tensor.ndim) + tuple(tensor.shape) for tensor in tensors]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*every, strict=True))


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.get_default_dtype()


def _addmm(_: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


def arange(*numbers: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor | None:
    """Returns whole numbers on the meta device, or None where that is not what is asked for."""
    if device is None or torch.device(device).type != "meta" or not all(isinstance(n, int) for n in numbers):
        return None
    start, end, step = ((0, *numbers, 1) if len(numbers) == 1 else (*numbers, 1))[:3]
    return torch.empty(math.ceil((end - start) / step), dtype=dtype or torch.int64, device=device)


def _mean(tensor: Tensor, dims: Any = None, keepdim: bool = False) -> Tensor:
    places = {dim % tensor.ndim for dim in dims} if dims else set(range(tensor.ndim))
    kept = [1 if dim in places else size for dim, size in enumerate(tensor.shape) if keepdim or dim not in places]
    return tensor.new_empty(kept)


def _cat(tensors: list[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    if not all(t.is_meta and t.ndim == first.ndim and t.dtype == first.dtype for t in tensors) or not first.ndim:
        return None
    shape = list(first.shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return first.new_empty(shape)


def _layer_norm(tensor: Tensor, shape: Any, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = [*tensor.shape[: tensor.ndim - len(shape)], *[1] * len(shape)]
    half = tensor.dtype in (torch.bfloat16, torch.float16)  # whose statistics are kept in fp32
    mean, deviation = (tensor.new_empty(rows, dtype=torch.float32 if half else tensor.dtype) for _ in range(2))
    return tensor.new_empty(tensor.shape), mean, deviation


def _layer_norm_backward(gradient: Tensor, tensor: Tensor, *rest: Any) -> tuple[Tensor | None, ...]:
    weight, bias, wanted = rest[3], rest[4], rest[5]
    sources = (tensor, weight, bias)
    return tuple(
        _like(source, source.dtype) if want and source is not None else None
        for source, want in zip(sources, wanted, strict=True)
    )


_RULES: dict[Any, Callable[..., Any]] = {
    **{getattr(_ATEN, name): _pointwise(lambda dtype: dtype) for name in _SAME_KIND},
    **{getattr(_ATEN, name): _pointwise(_real) for name in _REAL},
    **{getattr(_ATEN, name): _pointwise(lambda _: torch.bool) for name in _TRUTH},
    **{getattr(_ATEN, f"{name}_"): _pointwise(_real) for name in ("log", "add", "mul", "sub", "div", "exp")},
    _ATEN.mm: lambda left, right: left.new_empty(left.shape[0], right.shape[1]),
    _ATEN.addmm: _addmm,
    _ATEN.addmm_: _addmm,
    _ATEN._softmax: lambda tensor, _, wide: _like(tensor, torch.float32 if wide else tensor.dtype),
    _ATEN.dot: lambda left, _: left.new_empty(()),
    _ATEN.mean: _mean,
    _ATEN.amax: _mean,
    _ATEN.sum: lambda tensor, *rest: _mean(tensor, *rest) if tensor.is_floating_point() else None,
    **{
        getattr(_ATEN, f"{name}_like"): lambda tensor: _like(tensor, tensor.dtype)
        for name in ("empty", "zeros", "ones")
    },
    _ATEN.embedding: lambda table, places, *_: table.new_empty(*places.shape, table.shape[1]),
    _ATEN.embedding_dense_backward: lambda slope, _, count, *__: slope.new_empty(count, slope.shape[-1]),
    _ATEN.gather: lambda tensor, _, places: tensor.new_empty(places.shape),
    _ATEN.scatter_add_: lambda tensor, *_: tensor,
    _ATEN.cat: _cat,
    _ATEN.native_layer_norm: _layer_norm,
    _ATEN.native_layer_norm_backward: _layer_norm_backward,
}
