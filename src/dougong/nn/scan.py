"""The loop of a recurrence over time, as one operation for torch: its shapes, its memory and its FLOPs are known ahead.

A loop of torch's own operations takes seconds to plan and to compile, as each step is an operation; torch's fused LSTM
keeps memory that a fake tensor does not show. Here the LSTM is oneDNN's kernel on a CPU in fp32, the others are loops
whose gradient is written out (Werbos 1990), and on an accelerator all are torch's. Knows no parameters and no mask.
"""

from __future__ import annotations

import contextlib
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

Kind = Literal["rnn", "gru", "lstm"]
GATES: dict[Kind, int] = {"rnn": 1, "gru": 3, "lstm": 4}
_ATEN = torch.ops.aten
_ONEDNN = torch.backends.mkldnn.is_available()
_PROBE = (2, 18)


def scan(
    kind: Kind, hidden: Float[Tensor, "batch time dim"], weights: list[Tensor]
) -> Float[Tensor, "batch time hidden_dim"]:
    """Returns the states of one layer in one direction, from a state of zero, in the weights' precision.

    Args:
        kind: Which recurrence.
        hidden: What it reads.
        weights: Of the input and of the state, then, if there are any, their two biases: as `torch.nn.LSTM` has them.
    """
    of_input, of_state, *biases = weights
    kind_of_device = hidden.device.type
    available = torch.amp.is_autocast_available(kind_of_device)
    with torch.autocast(kind_of_device, enabled=False) if available else contextlib.nullcontext():
        hidden = hidden.to(of_input.dtype)
        if hidden.device.type not in ("cpu", "meta") or (kind == "lstm" and not _by_onednn(hidden)):
            return _by_torch(kind, hidden, weights)
        if kind == "lstm":
            both = biases or [of_input.new_zeros(len(of_input))] * 2
            turned = hidden.transpose(0, 1).contiguous()
            return _lstm(turned, of_input, of_state, *both, torch.is_grad_enabled())[0].transpose(0, 1)
        first, second = biases or (None, of_state.new_zeros(len(of_state)))
        if kind == "rnn" and first is not None:
            first, second = first + second, torch.zeros_like(second)
        given = F.linear(hidden.transpose(0, 1), of_input, first)
        return _loop(given, of_state, second, kind)[0].transpose(0, 1)


def _by_torch(kind: Kind, hidden: Tensor, weights: list[Tensor]) -> Tensor:
    """Runs torch's own recurrence: cuDNN's on a GPU."""
    start = hidden.new_zeros(1, len(hidden), weights[1].shape[1])
    settings = (len(weights) == 4, 1, 0.0, torch.is_grad_enabled(), False, True)
    if kind == "lstm":
        return torch._VF.lstm(hidden, (start, start), weights, *settings)[0]
    return (torch._VF.gru if kind == "gru" else torch._VF.rnn_tanh)(hidden, start, weights, *settings)[0]


def _by_onednn(hidden: Tensor) -> bool:
    return hidden.is_meta or (hidden.dtype == torch.float32 and _ONEDNN)


_LSTM = "(Tensor given, Tensor of_input, Tensor of_state, Tensor first, Tensor second, bool keeps) -> "
_GRADIENT = "(Tensor slope, Tensor[] kept) -> "


@torch.library.custom_op("dougong::lstm", mutates_args=(), schema=_LSTM + "(Tensor, Tensor, Tensor, Tensor)")
def _lstm(given, of_input, of_state, first, second, keeps):  # type: ignore[no-untyped-def]
    start = given.new_zeros(given.shape[1], of_state.shape[1])
    weights = (of_input, of_state, first, second)
    with torch.set_grad_enabled(keeps):  # oneDNN keeps what its backward pass wants only where there may be one
        settings = _settings(of_state.shape[1], keeps)
        states, state, cell, workspace = _ATEN.mkldnn_rnn_layer(given, *weights, start, start, *settings)
    return states, state, cell, given.new_empty(0, dtype=torch.uint8) if workspace is None else workspace


@torch.library.custom_op("dougong::lstm_backward", mutates_args=(), schema=_GRADIENT + "Tensor[]")
def _lstm_backward(slope, kept):  # type: ignore[no-untyped-def]
    given, *weights, states, state, cell, workspace = kept
    start = torch.zeros_like(state)
    settings: tuple[Any, ...] = (False, 2, weights[1].shape[1], 1, True, True, False, [], False, workspace)
    ends = (states, state, cell, slope, None, None)
    return list(_ATEN.mkldnn_rnn_layer_backward(given, *weights, start, start, *ends, *settings)[:5])


@_lstm.register_fake
def _(given, of_input, of_state, first, second, keeps):  # type: ignore[no-untyped-def]
    time, batch, width = given.shape
    hidden_dim = of_state.shape[1]
    size = _workspace(time, batch, width, hidden_dim) if keeps and given.device.type == "cpu" else 0
    states, ends = given.new_empty(time, batch, hidden_dim), [given.new_empty(batch, hidden_dim) for _ in range(2)]
    return states, *ends, given.new_empty(size, dtype=torch.uint8)


@_lstm_backward.register_fake
def _(slope, kept):  # type: ignore[no-untyped-def]
    return [torch.empty_like(tensor) for tensor in kept[:5]]


def _workspace(time: int, batch: int, width: int, hidden_dim: int) -> int:
    """Returns the bytes that oneDNN keeps for the backward pass: asked of short rows, as each step adds as much."""
    if time <= _PROBE[1]:
        return _asked(time, batch, width, hidden_dim)
    short, long = (_asked(steps, batch, width, hidden_dim) for steps in _PROBE)
    return long + (long - short) * (time - _PROBE[1]) // (_PROBE[1] - _PROBE[0])


@functools.lru_cache(maxsize=256)
def _asked(time: int, batch: int, width: int, hidden_dim: int) -> int:
    rows = 4 * hidden_dim
    weights = ((rows, width), (rows, hidden_dim), (rows,), (rows,))
    shapes = ((time, batch, width), *weights, (batch, hidden_dim), (batch, hidden_dim))

    def ask() -> int:
        tensors = [torch.zeros(shape, device="cpu") for shape in shapes]
        return _ATEN.mkldnn_rnn_layer(*tensors, *_settings(hidden_dim, True))[3].numel()

    with ThreadPoolExecutor(1) as pool:  # a thread of its own, where tensors are real whatever they are in this one
        return pool.submit(ask).result()


def _settings(hidden_dim: int, keeps: bool) -> tuple[Any, ...]:
    """Returns direction, sizes of packed rows, LSTM, width, layers, biases, bidirectional, batch first, training."""
    return False, [], 2, hidden_dim, 1, True, False, False, keeps


def _keep_lstm(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.set_materialize_grads(False)  # only the states have a gradient; zeros for the rest would cost as much as they
    ctx.save_for_backward(*inputs[:5], *output)


def _lstm_gradient(ctx, slope, *_):  # type: ignore[no-untyped-def]
    return *_lstm_backward(slope.contiguous(), list(ctx.saved_tensors)), None


_lstm.register_autograd(_lstm_gradient, setup_context=_keep_lstm)


@torch.library.custom_op(
    "dougong::recurrence",
    mutates_args=(),
    schema="(Tensor given, Tensor of_state, Tensor bias, str kind) -> (Tensor, Tensor)",
)
def _loop(given, of_state, bias, kind):  # type: ignore[no-untyped-def]
    time, batch, _ = given.shape
    hidden_dim = of_state.shape[1]
    states = given.new_empty(time, batch, hidden_dim)
    state, turned = given.new_zeros(batch, hidden_dim), of_state.T
    if kind == "rnn":
        for now, out in zip(given.unbind(0), states.unbind(0), strict=True):
            state = torch.addmm(now, state, turned, out=out).tanh_()
        return states, given.new_empty(0)
    kept = given.new_empty(time, batch, 4 * hidden_dim)  # reset, update, new, and what the state brings to new
    parts = (
        given,
        *given.split(hidden_dim, -1)[2:],
        kept,
        kept[..., : 2 * hidden_dim],
        *kept.split(hidden_dim, -1),
        states,
    )
    products = given.new_empty(batch, 3 * hidden_dim)
    both, third = products[:, : 2 * hidden_dim], products[:, 2 * hidden_dim :]
    for now, now_new, _all, gates, reset, update, new, brings, out in zip(*(p.unbind(0) for p in parts), strict=True):
        torch.addmm(bias, state, turned, out=products)
        torch.add(now[:, : 2 * hidden_dim], both, out=gates).sigmoid_()
        brings.copy_(third)
        torch.addcmul(now_new, reset, brings, out=new).tanh_()
        state = torch.lerp(new, state, update, out=out)
    return states, kept


@torch.library.custom_op("dougong::recurrence_backward", mutates_args=(), schema=_GRADIENT + "Tensor[]")
def _loop_backward(slope, kept):  # type: ignore[no-untyped-def]
    of_state, states, gates = kept
    time, batch, hidden_dim = states.shape
    rows = len(of_state)
    back, zero = slope.new_zeros(batch, hidden_dim), states.new_zeros(batch, hidden_dim)
    of_given = slope.new_empty(time, batch, rows)
    if rows == hidden_dim:
        for slopes, state, out in zip(*(reversed(p.unbind(0)) for p in (slope, states, of_given)), strict=True):
            _ATEN.tanh_backward.grad_input(back.add_(slopes), state, grad_input=out)
            torch.mm(out, of_state, out=back)
        of_products, unshared = of_given, slope.new_empty(0)
    else:
        of_products = unshared = slope.new_empty(time, batch, rows)
        before = (zero, *states.unbind(0)[:-1])
        parts = (
            slope,
            *gates.split(hidden_dim, -1),
            *of_products.split(hidden_dim, -1),
            of_products,
            of_given[..., 2 * hidden_dim :],
        )
        for slopes, reset, update, new, brings, d_reset, d_update, d_brings, d_all, d_new, last in zip(
            *(reversed(p.unbind(0)) for p in parts), reversed(before), strict=True
        ):
            back += slopes
            _ATEN.sigmoid_backward.grad_input(back * (last - new), update, grad_input=d_update)
            _ATEN.tanh_backward.grad_input(back - back * update, new, grad_input=d_new)
            _ATEN.sigmoid_backward.grad_input(d_new * brings, reset, grad_input=d_reset)
            torch.mul(d_new, reset, out=d_brings)
            back = torch.addmm(back * update, d_all, of_state)
        of_given[..., : 2 * hidden_dim] = of_products[..., : 2 * hidden_dim]
    flat = of_products.flatten(0, 1)
    of_weight = flat[batch:].T @ states[:-1].flatten(0, 1)
    return [of_given, of_weight, flat.sum(0), unshared]


@_loop.register_fake
def _(given, of_state, bias, kind):  # type: ignore[no-untyped-def]
    time, batch, _ = given.shape
    hidden_dim = of_state.shape[1]
    kept = given.new_empty(0) if kind == "rnn" else given.new_empty(time, batch, 4 * hidden_dim)
    return given.new_empty(time, batch, hidden_dim), kept


@_loop_backward.register_fake
def _(slope, kept):  # type: ignore[no-untyped-def]
    of_state, states, _ = kept
    rows = len(of_state)
    shape = (*states.shape[:2], rows)
    unshared = slope.new_empty(0 if rows == of_state.shape[1] else shape)
    return [slope.new_empty(shape), torch.empty_like(of_state), slope.new_empty(rows), unshared]


def _keep_loop(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[1], *output)


def _loop_gradient(ctx, slope, *_):  # type: ignore[no-untyped-def]
    return *_loop_backward(slope, list(ctx.saved_tensors))[:3], None


_loop.register_autograd(_loop_gradient, setup_context=_keep_loop)


@register_flop_formula(torch.ops.dougong.lstm)
def _lstm_flops(given, of_input, of_state, *_, out_shape=None, **__):  # type: ignore[no-untyped-def]
    return 2 * given[0] * given[1] * of_input[0] * (of_input[1] + of_state[1])


@register_flop_formula(torch.ops.dougong.lstm_backward)
def _lstm_backward_flops(slope, kept, out_shape=None, **__):  # type: ignore[no-untyped-def]
    return 2 * _lstm_flops(*kept[:3])


@register_flop_formula(torch.ops.dougong.recurrence)
def _loop_flops(given, of_state, *_, out_shape=None, **__):  # type: ignore[no-untyped-def]
    return 2 * given[0] * given[1] * of_state[0] * of_state[1]


@register_flop_formula(torch.ops.dougong.recurrence_backward)
def _loop_backward_flops(slope, kept, out_shape=None, **__):  # type: ignore[no-untyped-def]
    return 2 * _loop_flops(kept[1], kept[0])
