"""Which calibrated kernel an operation of a trace is most like, and at which sizes.

What is like none is taken as a sum of tensors of as many bytes. Knows operations by torch's names; knows no model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch

from dougong.plan.tables import Calibration
from dougong.plan.trace import Operation

_VIEWS = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "t",
        "transpose",
        "permute",
        "expand",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "detach",
        "alias",
        "as_strided",
        "diagonal",
        "unfold",
        "view_as_real",
        "view_as_complex",
        "movedim",
        "narrow",
        "real",
        "imag",
        "lift_fresh",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "_reshape_alias",
        "t_",
        "transpose_",
        "squeeze_",
        "unsqueeze_",
        "detach_",
        "set_",
        "resize_",
        "unsafe_split",
        "_local_scalar_dense",
        "is_same_size",
    ]
)

# What an operation without products is like, by the first pattern that its name holds whole.
_STREAMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), kernel)
    for pattern, kernel in (
        (r"_fused_(adamw?|sgd|adagrad)_?", "update"),
        (r"_foreach_norm|linalg_vector_norm|norm", "norm"),
        (r"gelu", "gelu"),
        (r"gelu_backward", "gelu_backward"),
        (r"gelu_tanh", "gelu_tanh"),
        (r"gelu_tanh_backward", "gelu_tanh_backward"),
        (r"_?log_softmax", "log_softmax"),
        (r"_?softmax", "softmax"),
        (r"_?log_softmax_backward(_data)?", "log_softmax_backward"),
        (r"_?softmax_backward(_data)?", "softmax_backward"),
        (r"native_(layer|group)_norm|_fused_rms_norm", "layer_norm"),
        (r"native_(layer|group)_norm_backward|_fused_rms_norm_backward", "layer_norm_backward"),
        (r"_?(native_|cudnn_)?batch_norm(_legit.*|_with_update.*)?", "batch_norm"),
        (r"_?(native_|cudnn_)?batch_norm_backward", "batch_norm_backward"),
        (r".*max_pool[123]d(_with_indices)?", "largest"),
        (r".*max_pool[123]d(_with_indices)?_backward", "largest_backward"),
        (r".*avg_pool[123]d", "mean"),
        (r".*avg_pool[123]d_backward", "mean_backward"),
        (r"masked_fill_?|where", "masked"),
        (r"embedding|gather|index|index_select|take|nll_loss(2d)?_forward", "lookup"),
        (r"embedding_dense_backward|(_?index_put|scatter|scatter_add|index_add|_unsafe_index_put)_?", "scatter"),
        (r"(zeros|ones|full|new_\w+|fill|zero|arange|scalar_tensor|empty)(_like)?_?|\w+_scatter", "fill"),
        (r"(select|slice|nll_loss(2d)?)_backward", "fill"),
        (r"clone|copy_?|contiguous|constant_pad_nd|flip|roll|repeat", "copy"),
        (r"cat|stack", "join"),
        (r"sum|mean|amax|amin|max|min|var|std|var_mean|prod|any|all|argmax|argmin|logsumexp|cumsum|topk|sort", "sum"),
        (
            r"(exp|exp2|expm1|log|log2|log1p|sigmoid|log_sigmoid_forward|log_sigmoid|tanh|erf|pow|sin|cos|rsqrt|sqrt|"
            r"softplus|silu|mish|elu|reciprocal)_?|(silu|mish|elu|softplus|log_sigmoid)_backward",
            "power",
        ),
    )
)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

_HEAVY = ("products", "attention", "convolutions", "recurrence")
_CROWDED_BYTES = 16e6
"""From so many bytes on an operation is alone with the memory, in a step as well."""


def plain(name: str) -> str:
    """Returns `mm` for `aten.mm.default`, `aten::mm` and `mm`."""
    words = name.replace("::", ".").split(".")
    return words[1] if len(words) > 1 else words[0]


def is_view(operation: Operation) -> bool:
    """Tells whether an operation merely looks at what is there, or makes a tensor without filling it."""
    return plain(operation.name) in _VIEWS


def calibrated(operation: Operation, machine: Calibration) -> tuple[str, float]:
    """Returns what kind of operation it is, and its seconds on a calibrated processor."""
    name = plain(operation.name)
    if name in _VIEWS:
        return "views", machine.overheads["view"] * machine.crowding
    for pattern, seconds in _WORKS:
        if pattern.fullmatch(name):
            kind, value = seconds(operation, machine)
            return kind, value + _overhead(operation, machine)
    return _stream(name, operation, machine)


def is_crowded(kind: str) -> bool:
    """Tells whether operations of a kind take longer in a step than alone: those that merely move numbers."""
    return kind not in _HEAVY


def _overhead(operation: Operation, machine: Calibration) -> float:
    """Returns what the interpreter and autograd add; recomputation is a forward pass."""
    phase = "forward" if operation.phase == "recompute" else operation.phase
    return machine.overheads[phase] if phase in ("forward", "backward") else 0.0


def _stream(name: str, operation: Operation, machine: Calibration) -> tuple[str, float]:
    kernel = next((kernel for pattern, kernel in _STREAMS if pattern.fullmatch(name)), "")
    if not kernel:
        whole = operation.dtype in _INTEGERS
        kinds = ("sum_in_place", "in_place") if name.endswith("_") else ("add", "scale")
        kernel = "integers" if whole else kinds[len(operation.shapes) < 2 or not all(operation.shapes)]
    size = operation.read_bytes + operation.written_bytes
    if kernel in ("lookup", "fill"):
        size = operation.written_bytes * (2 if kernel == "lookup" else 1)  # of a table, what is looked up is read
    elif name in ("scatter_", "scatter_add_"):
        size = 16 * math.prod(operation.shapes[1])  # a place, and a number read and written there
    seconds = machine.tables[f"bytes/{kernel}"].at(max(1.0, size))
    if operation.phase == "update":
        kernel, seconds = "update", seconds + machine.overheads["update"] * _parameters(kernel, operation)
    else:
        seconds += _overhead(operation, machine)
    return kernel, seconds * (machine.crowding if size < _CROWDED_BYTES else 1.0)


def _parameters(kernel: str, operation: Operation) -> float:
    """Returns over how many parameters an operation of the update goes, beyond the first: AdamW's has four of each."""
    return max(0.0, len(operation.shapes) / (4 if kernel == "update" else 8) - 1)


def _product(operation: Operation, machine: Calibration) -> tuple[str, float]:
    (*count, rows, inner), (*_, columns) = operation.shapes[-2:]
    if count:
        table = machine.tables[f"batched/{_type(operation)}"]
        return "products", table.at(math.prod(count), rows, columns, inner)
    return "products", machine.tables[f"product/{_type(operation)}/{_phase(operation)}"].at(rows, columns, inner)


def _grouped(operation: Operation, machine: Calibration) -> tuple[str, float]:
    """The products of a mixture's experts, each of which has an equal part of the rows."""
    (rows, outer), second, (groups,) = operation.shapes
    table = machine.tables[f"product/{_type(operation)}/{_phase(operation)}"]
    if len(second) == 2:  # the slope of the weights
        return "products", groups * table.at(outer, second[1], rows / groups)
    return "products", groups * table.at(rows / groups, second[1], outer)


def _type(operation: Operation) -> str:
    return "bf16" if operation.dtype == torch.bfloat16 else "fp32"


def _phase(operation: Operation) -> str:
    return "backward" if operation.phase == "backward" else "forward"


def _attention(operation: Operation, machine: Calibration) -> tuple[str, float]:
    back = "backward" in operation.name
    (*count, time, dim), (*_, others, _) = operation.shapes[back], operation.shapes[back + 1]
    table = machine.tables[f"attention/{_type(operation)}/{'backward' if back else 'forward'}"]
    return "attention", table.at(math.prod(count), math.sqrt(time * others), dim)


def _convolution(operation: Operation, machine: Calibration) -> tuple[str, float]:
    back = "backward" in operation.name
    made, given, *kernel = operation.shapes[1 + back]
    window, image = math.prod(kernel), operation.shapes[back]
    if back:
        positions = operation.shapes[0][0] * math.prod(operation.shapes[0][2:])
    else:
        positions = operation.flops // (2 * made * given * window) or image[0] * math.prod(image[2:])
    kind = f"{_type(operation)}/{'backward' if back else 'forward'}"
    over_time = len(kernel) == 1 or (image[2] == kernel[0] == 1)
    if given == 1 and image[1] > 1:
        name, usual = ("depthwise-1d", 3) if over_time else ("depthwise", 9)
        return "convolutions", machine.tables[f"convolution/{name}/{kind}"].at(made, positions) * window / usual
    groups = image[1] // given
    name, usual = ("1d", 3) if over_time else ("1x1", 1) if window == 1 else ("3x3", 9)
    seconds = machine.tables[f"convolution/{name}/{kind}"].at(given, made / groups, positions) * groups * window / usual
    whole = 4 * made * given * window * positions
    share = operation.flops / whole if back and operation.flops else 1.0
    return "convolutions", seconds * min(1.0, max(0.5, share))  # of pictures themselves no slope is wanted


def _lstm(operation: Operation, machine: Calibration) -> tuple[str, float]:
    """The LSTM's, ours and torch's; its first tensor is what it reads, but backward ours is the slope."""
    shapes = operation.shapes
    own_back = plain(operation.name) == "lstm_backward"
    (time, batch, width), hidden_dim = shapes[own_back], shapes[2 + own_back][1]
    table = machine.tables[f"recurrence/lstm/{'backward' if 'backward' in operation.name else 'forward'}"]
    return "recurrence", table.at(time, batch, hidden_dim) * (width + hidden_dim) / (2 * hidden_dim)


def _recurrence(operation: Operation, machine: Calibration) -> tuple[str, float]:
    back = "backward" in operation.name
    (time, batch, *_), (rows, hidden_dim) = operation.shapes[:2]
    kind = "rnn" if rows == hidden_dim else "gru"
    return "recurrence", machine.tables[f"recurrence/{kind}/{'backward' if back else 'forward'}"].at(
        time, batch, hidden_dim
    )


_Work = Callable[[Operation, Calibration], tuple[str, float]]
_WORKS: tuple[tuple[re.Pattern[str], _Work], ...] = tuple(
    (re.compile(pattern), work)
    for pattern, work in (
        (r"mm|addmm|bmm|baddbmm", _product),
        (r"grouped_linear|grouped_outer", _grouped),
        (r"_scaled_dot_product_\w+", _attention),
        (r"(mkldnn_|cudnn_|_)?convolution(_overrideable)?(_backward)?", _convolution),
        (r"(mkldnn_rnn_layer|lstm)(_backward)?", _lstm),
        (r"recurrence(_backward)?", _recurrence),
    )
)
