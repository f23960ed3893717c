"""The operations that a calibration times, each at a few sizes: what most of a training step's time goes into.

A kernel is made for a point of its axes and then called again and again. Knows torch; knows no model and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.nn.scan import GATES, Kind

Call = Callable[[], object]
_ATEN, _OWN = torch.ops.aten, torch.ops.dougong

SIDES = (4.0, 32.0, 192.0, 1024.0)
BYTES = (4096.0, 65536.0, 524288.0, 4194304.0, 33554432.0, 100663296.0)
TYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ROW = 256


@dataclass(frozen=True)
class Kernel:
    """An operation to be timed.

    Attributes:
        axes: The sizes of each axis at which it is timed, rising.
        make: Returns what is timed, for one size of each axis.
        calls: How many operations it is.
        touched: Gives the bytes that it reads and writes, for one size of each axis; None where what it takes does not
            depend on where they are.
        turns: Over how many calls' tensors it takes turns at most.
    """

    axes: tuple[tuple[float, ...], ...]
    make: Callable[..., Call]
    calls: int = 1
    touched: Callable[..., float] | None = None
    turns: int = 8


def kernels() -> Mapping[str, Kernel]:
    """Returns all kernels by name; `/` stands before a variant: `product/fp32/backward`."""
    found = {f"bytes/{name}": Kernel((BYTES,), make, 1, float, 64) for name, make in _STREAMS.items()}
    for phase, calls in (("forward", 1), ("backward", 2)):
        for kind, dtype in TYPES.items():
            found[f"product/{kind}/{phase}"] = Kernel((SIDES, SIDES, SIDES), _product(dtype, phase), calls, _of_product)
            axes: tuple[tuple[float, ...], ...] = ((4.0, 64.0), (32.0, 128.0, 512.0), (16.0, 64.0))
            found[f"attention/{kind}/{phase}"] = Kernel(axes, _attention(dtype, phase))
            axes = ((3.0, 16.0, 64.0, 256.0), (16.0, 256.0), (32.0, 256.0, 4096.0))
            for name in ("1x1", "3x3", "1d"):
                make = _convolution(name, dtype, phase)
                found[f"convolution/{name}/{kind}/{phase}"] = Kernel(axes, make, 1, _of_maps, 5)
            axes = ((16.0, 64.0, 256.0), (256.0, 4096.0))
            for name, make in (("depthwise", _depthwise(dtype, phase)), ("depthwise-1d", _depthwise_1d(dtype, phase))):
                found[f"convolution/{name}/{kind}/{phase}"] = Kernel(axes, make, 1, _of_depthwise, 2)
        recurrences: tuple[Kind, ...] = ("rnn", "gru", "lstm")
        for cell in recurrences:
            axes = ((8.0, 64.0), (4.0, 32.0), (32.0, 128.0, 512.0))
            found[f"recurrence/{cell}/{phase}"] = Kernel(axes, _recurrence(cell, phase))
    for kind, dtype in TYPES.items():
        axes = ((4.0, 64.0), (16.0, 64.0, 256.0), (16.0, 64.0, 256.0), (16.0, 64.0, 256.0))
        found[f"batched/{kind}"] = Kernel(axes, _batched(dtype))
    return found


def _product(dtype: torch.dtype, phase: str) -> Callable[..., Call]:
    """A linear layer's product; backward, the two products that give the slopes of input and weight."""

    def make(rows: float, columns: float, inner: float) -> Call:
        m, n, k = int(rows), int(columns), int(inner)
        if phase == "forward":
            left, right = torch.ones(m, k, dtype=dtype), torch.ones(n, k, dtype=dtype)
            return lambda: torch.mm(left, right.t())
        first, second = (torch.ones(m, k, dtype=dtype), torch.ones(k, n, dtype=dtype)), torch.ones(k, m, dtype=dtype)
        return lambda: (torch.mm(*first), torch.mm(second.t(), first[1]))

    return make


def _of_product(rows: float, columns: float, inner: float) -> float:
    return 4 * (rows * inner + inner * columns + rows * columns)


def _of_maps(given: float, made: float, positions: float) -> float:
    return 4 * (positions * (given + made) + 9 * given * made)


def _of_depthwise(channels: float, positions: float) -> float:
    return 8 * positions * channels


def _batched(dtype: torch.dtype) -> Callable[..., Call]:
    def make(count: float, rows: float, columns: float, inner: float) -> Call:
        left = torch.rand(int(count), int(rows), int(inner)).to(dtype)
        right = torch.rand(int(count), int(inner), int(columns)).to(dtype)
        return lambda: torch.bmm(left, right)

    return make


def _differentiated(inputs: tuple[Tensor, ...], call: Callable[..., Tensor], phase: str) -> Call:
    """Returns the forward pass, which keeps what the backward pass needs, or the backward pass alone."""
    inputs = tuple(t.requires_grad_() if t.is_floating_point() else t for t in inputs)
    if phase == "forward":
        return lambda: call(*inputs)
    output = call(*inputs)
    slope, wanted = torch.rand_like(output), [t for t in inputs if t.requires_grad]
    return lambda: torch.autograd.grad(output, wanted, slope, retain_graph=True)


def _attention(dtype: torch.dtype, phase: str) -> Callable[..., Call]:
    """Causal or not: torch's kernel takes as long either way."""

    def make(count: float, time: float, dim: float) -> Call:
        heads = 4
        shape = (int(count) // heads, heads, int(time), int(dim))
        inputs = tuple(torch.rand(shape).to(dtype) for _ in range(3))
        return _differentiated(inputs, F.scaled_dot_product_attention, phase)

    return make


def _convolution(name: str, dtype: torch.dtype, phase: str) -> Callable[..., Call]:
    def make(given: float, made: float, positions: float) -> Call:
        if name == "1d":
            shape: tuple[int, ...] = (8, int(positions) // 8, int(given))
            weight: tuple[int, ...] = (int(made), int(given), 3)
            inputs = (torch.rand(shape).to(dtype), torch.rand(weight).to(dtype))
            return _differentiated(inputs, _over_time, phase)
        size = 3 if name == "3x3" else 1
        inputs = (_pictures(given, positions).to(dtype), torch.rand(int(made), int(given), size, size).to(dtype))
        return _differentiated(inputs, lambda x, w: F.conv2d(x, w, padding=size // 2), phase)

    return make


def _over_time(hidden: Tensor, weight: Tensor) -> Tensor:
    """As `nn.convolution` has it, an image one row high with its channels last."""
    channels = hidden.transpose(1, 2).unsqueeze(2)
    groups = channels.shape[1] // weight.shape[1]
    return F.conv2d(channels, weight.unsqueeze(2), padding=(0, 1), groups=groups).squeeze(2).transpose(1, 2)


def _depthwise(dtype: torch.dtype, phase: str) -> Callable[..., Call]:
    def make(channels: float, positions: float) -> Call:
        inputs = (_pictures(channels, positions).to(dtype), torch.rand(int(channels), 1, 3, 3).to(dtype))
        return _differentiated(inputs, lambda x, w: F.conv2d(x, w, padding=1, groups=int(channels)), phase)

    return make


def _depthwise_1d(dtype: torch.dtype, phase: str) -> Callable[..., Call]:
    def make(channels: float, positions: float) -> Call:
        hidden = torch.rand(4, int(positions) // 4, int(channels)).to(dtype)
        return _differentiated((hidden, torch.rand(int(channels), 1, 3).to(dtype)), _over_time, phase)

    return make


def _pictures(channels: float, positions: float) -> Tensor:
    """Returns some eight pictures with so many places, their channels last, as `nn.convolution` has it.

    Of small pictures it is their edges that take long.
    """
    side = min(32, max(2, int((positions / 8) ** 0.5)))
    pictures = torch.rand(max(1, int(positions) // side**2), int(channels), side, side)
    return pictures.contiguous(memory_format=torch.channels_last)


def _recurrence(kind: Kind, phase: str) -> Callable[..., Call]:
    """What `nn.scan` makes of a layer: the LSTM as one kernel, the others without the product of what they read."""

    def make(time: float, batch: float, hidden_dim: float) -> Call:
        steps, width, rows = (int(time), int(batch)), int(hidden_dim), GATES[kind] * int(hidden_dim)
        if kind == "lstm":
            shapes: tuple[tuple[int, ...], ...] = ((*steps, width), (rows, width), (rows, width), (rows,), (rows,))
            call = lambda *inputs: _OWN.lstm(*inputs, True)[0]  # noqa: E731
        else:
            shapes = ((*steps, rows), (rows, width), (rows,))
            call = lambda *inputs: _OWN.recurrence(*inputs, kind)[0]  # noqa: E731
        return _differentiated(tuple(torch.rand(shape) * 0.1 for shape in shapes), call, phase)

    return make


def _floats(size: float, tensors: int) -> Tensor:
    """Returns a tensor of rows such that so many tensors of its size have the bytes."""
    count = max(1, int(size / 4 / tensors))
    return torch.full((max(1, count // _ROW), min(_ROW, count)), 0.1)


def _one(call: Callable[[Tensor], object]) -> Callable[..., Call]:
    """One tensor read and one of its size written."""

    def make(size: float) -> Call:
        tensor = _floats(size, 2)
        return lambda: call(tensor)

    return make


def _two(call: Callable[[Tensor, Tensor], object]) -> Callable[..., Call]:
    """Two read, and one written."""

    def make(size: float) -> Call:
        first, second = _floats(size, 3), _floats(size, 3)
        return lambda: call(first, second)

    return make


def _transposed(size: float) -> Call:
    """As attention puts the heads before time: rows of 32 numbers stay together."""
    tensor = _floats(size, 2)
    tensor = tensor.view(len(tensor), -1, min(32, tensor.shape[1])).transpose(0, 1)
    return lambda: tensor.contiguous()


def _reduced(size: float) -> Call:
    tensor = _floats(size, 1)
    return lambda: tensor.sum(0)


def _norm(size: float) -> Call:
    tensor = _floats(size, 1)
    return lambda: torch.linalg.vector_norm(tensor)


def _layer_norm(size: float) -> Call:
    tensor = _floats(size, 2)
    weight, bias = torch.ones(tensor.shape[-1]), torch.zeros(tensor.shape[-1])
    return lambda: _ATEN.native_layer_norm(tensor, [len(weight)], weight, bias, 1e-5)


def _layer_norm_backward(size: float) -> Call:
    tensor, slope = _floats(size, 3), _floats(size, 3)
    weight, bias = torch.ones(tensor.shape[-1]), torch.zeros(tensor.shape[-1])
    _, mean, scale = _ATEN.native_layer_norm(tensor, [len(weight)], weight, bias, 1e-5)
    rest = (mean, scale, weight, bias, [True, True, True])
    return lambda: _ATEN.native_layer_norm_backward(slope, tensor, [len(weight)], *rest)


def _picture(size: float, tensors: float | int) -> Tensor:
    """Returns features as a convolution leaves them: how long the largest takes to find depends on what there is."""
    count = max(1024, int(size / 4 / tensors))
    shape = (max(1, count // 16384), min(16, count // 64), *((32, 32) if count >= 16384 else (8, 8)))
    sample = torch.randn(min(64, shape[0] * shape[1]), *shape[2:])
    smooth = (sample + sample.roll(1, -1) + sample.roll(1, -2)).relu_()
    return smooth.repeat(-(-shape[0] * shape[1] // len(smooth)), 1, 1)[: shape[0] * shape[1]].view(shape)


def _batch_norm(size: float) -> Call:
    tensor = _picture(size, 2)
    ones, zeros = torch.ones(tensor.shape[1]), torch.zeros(tensor.shape[1])
    return lambda: _ATEN.native_batch_norm(tensor, ones, zeros, zeros.clone(), ones.clone(), True, 0.1, 1e-5)


def _batch_norm_backward(size: float) -> Call:
    tensor, slope = _picture(size, 3), _picture(size, 3)
    ones, zeros = torch.ones(tensor.shape[1]), torch.zeros(tensor.shape[1])
    _, mean, scale = _ATEN.native_batch_norm(tensor, ones, zeros, None, None, True, 0.1, 1e-5)
    rest = (ones, None, None, mean, scale, True, 1e-5, [True, True, True])
    return lambda: _ATEN.native_batch_norm_backward(slope, tensor, *rest)


_WINDOW = ([2, 2], [2, 2], [0, 0])


def _largest(size: float) -> Call:
    tensor = _picture(size, 1.75)  # a number and a place of 8 bytes for each four that are read
    return lambda: _ATEN.max_pool2d_with_indices(tensor, *_WINDOW)


def _largest_backward(size: float) -> Call:
    tensor = _picture(size, 2.75)
    pooled, places = _ATEN.max_pool2d_with_indices(tensor, *_WINDOW)
    return lambda: _ATEN.max_pool2d_with_indices_backward(pooled, tensor, *_WINDOW, [1, 1], False, places)


def _mean(size: float) -> Call:
    tensor = _picture(size, 1.25)
    return lambda: _ATEN.avg_pool2d(tensor, *_WINDOW)


def _mean_backward(size: float) -> Call:
    tensor = _picture(size, 2.25)
    pooled = _ATEN.avg_pool2d(tensor, *_WINDOW)
    return lambda: _ATEN.avg_pool2d_backward(pooled, tensor, *_WINDOW, False, True, None)


def _masked(size: float) -> Call:
    """As padding is blanked: one mark for a row of channels."""
    tensor = _floats(size, 2)
    mask = torch.rand(len(tensor), 1) < 0.5
    return lambda: tensor.masked_fill(mask, 0.0)


def _lookup(size: float) -> Call:
    rows = _floats(size, 2)
    places = torch.randint(0, 4 * len(rows), (len(rows),))
    table = rows.repeat(4, 1)
    return lambda: F.embedding(places, table)


def _scatter(size: float) -> Call:
    """The gradient of a table as large as what is looked up."""
    rows = _floats(size, 2)
    places = torch.randint(0, len(rows), (len(rows),))
    return lambda: _ATEN.embedding_dense_backward(rows, places, len(rows), -1, False)


def _integers(size: float) -> Call:
    tensor = torch.randint(0, 1 << 20, (max(1, int(size / 16)),))
    return lambda: tensor * 7


def _update(size: float) -> Call:
    """AdamW's: weights, gradients and two moments read, and all but the gradients written."""
    parameter = torch.nn.Parameter(_floats(size, 7))
    parameter.grad = torch.full_like(parameter, 0.1)
    optimizer = torch.optim.AdamW([parameter], lr=1e-4, fused=True)
    return optimizer.step


def _fill(size: float) -> Call:
    count = max(1, int(size / 4))
    return lambda: torch.zeros(count)


_STREAMS: dict[str, Callable[..., Call]] = {
    "add": _two(torch.add),
    "scale": _one(lambda x: x * 0.5),
    "power": _one(torch.exp),
    "gelu": _one(F.gelu),
    "gelu_backward": _two(_ATEN.gelu_backward),
    "gelu_tanh": _one(lambda x: F.gelu(x, approximate="tanh")),
    "gelu_tanh_backward": _two(lambda a, b: _ATEN.gelu_backward(a, b, approximate="tanh")),
    "in_place": _one(lambda x: x.mul_(1.0)),
    "sum_in_place": _two(lambda a, b: a.add_(b, alpha=0.0)),
    "copy": _transposed,
    "join": _two(lambda a, b: torch.cat((a, b))),
    "sum": _reduced,
    "norm": _norm,
    "softmax": _one(lambda x: torch.softmax(x, -1)),
    "log_softmax": _one(lambda x: torch.log_softmax(x, -1)),
    "softmax_backward": _two(lambda a, b: _ATEN._softmax_backward_data(a, b, -1, torch.float32)),
    "log_softmax_backward": _two(lambda a, b: _ATEN._log_softmax_backward_data(a, b, -1, torch.float32)),
    "layer_norm": _layer_norm,
    "layer_norm_backward": _layer_norm_backward,
    "batch_norm": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "largest": _largest,
    "largest_backward": _largest_backward,
    "mean": _mean,
    "mean_backward": _mean_backward,
    "masked": _masked,
    "lookup": _lookup,
    "scatter": _scatter,
    "integers": _integers,
    "update": _update,
    "fill": _fill,
}
