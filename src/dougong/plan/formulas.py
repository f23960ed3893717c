"""How many products an operation has, by torch's own formulas; what has none by its nature; and what nobody knows.

Counted is what takes a model's time: matrix products, convolutions, attention and recurrences, two operations for a
product and its sum. An operation for which there is neither a formula nor a reason to have none is never taken for
nothing in silence: it is named (`unknown`). Knows operations by torch's names; knows no model.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

# Operations that look at tensors, move, sum, normalize or draw them: bytes are what they take. By whole names, without
# `_` at the end; what torch tags as pointwise or as a reduction need not be here.
_BYTES_ALONE = re.compile(
    r"view|_unsafe_view|reshape|_reshape_alias|_reshape_copy|t|transpose|permute|expand|slice|select|unsqueeze|squeeze|"
    r"split|split_with_sizes|unsafe_split|chunk|unbind|detach|alias|as_strided|diagonal|unfold|narrow|movedim|"
    r"view_as_real|view_as_complex|real|imag|lift_fresh|lift_fresh_copy|set|resize|is_same_size|is_pinned|"
    r"empty|empty_like|empty_strided|new_\w+|zeros|zeros_like|ones|ones_like|full|full_like|fill|zero|arange|"
    r"scalar_tensor|linspace|eye|tril|triu|tril_indices|triu_indices|rand\w*|normal|uniform|bernoulli|native_dropout|"
    r"_local_scalar_dense|item|equal|nonzero|sort|argsort|topk|argmax|argmin|max|min|any|all|sum|mean|prod|median|"
    r"logsumexp|cumsum|cumprod|_?log_softmax\w*|_?(safe_)?softmax\w*|native_layer_norm\w*|native_group_norm\w*|"
    r"_?fused_rms_norm\w*|_?(native_|cudnn_)?batch_norm\w*|native_batch_norm\w*|linalg_vector_norm|norm|var|std|"
    r"var_mean|std_mean|clone|copy|_to_copy|contiguous|constant_pad_nd|(reflection|replication)_pad\w*|flip|roll|"
    r"repeat|repeat_interleave|cat|stack|embedding|embedding_dense_backward|gather|index|index_select|index_put|"
    r"_?index_put(_impl)?|_unsafe_index\w*|index_add|index_fill|index_copy|scatter\w*|masked_scatter|masked_select|"
    r"take|bucketize|searchsorted|one_hot|bincount|(nll|mse|l1|smooth_l1|huber)_loss\w*|log_sigmoid\w*|"
    r"binary_cross_entropy\w*|\w*pool[123]d\w*|pixel_(un)?shuffle|channel_shuffle|"
    r"(select|slice|diagonal|unfold|as_strided|gather)_(backward|scatter)|slice_scatter|select_scatter|"
    r"upsample_nearest\w*|_foreach_\w+|_fused_(adamw?|sgd|adagrad)|_amp_\w+|_assert\w*|_ctc_loss\w*|"
    r"dot|vdot|isnan|isinf|isfinite|unique\w*|_unique2|alias_copy|view_copy|dropout|_fill_mem_eff_dropout_mask|sym_\w+|"
    r"wait_tensor|record_stream|_conj|conj|resolve_conj|resolve_neg|_neg_view|meshgrid|broadcast_to|im2col|col2im"
)
QUESTIONS = ("prim", "profiler")
"""Namespaces of what asks for a device or marks a place, and computes nothing."""

_LIGHT_TAGS = frozenset({torch.Tag.pointwise, torch.Tag.reduction})


def flops(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Returns how many operations a call had, 0 where no formula tells of any (see `unknown`).

    Args:
        func: The operation, as `__torch_dispatch__` is given it.
        args: What it was called with.
        kwargs: The same by name.
        result: What it gave.
    """
    formula = _formula(func._overloadpacket)
    return int(formula(*args, **kwargs, out_val=result)) if formula else 0


def unknown(func: Any) -> bool:
    """Tells whether an operation may have products that no formula counts."""
    if func.namespace in QUESTIONS or _formula(func._overloadpacket) or _LIGHT_TAGS & set(func.tags):
        return False
    return not _BYTES_ALONE.fullmatch(func._overloadpacket.__name__.rstrip("_"))


@functools.cache
def _formula(operation: Any) -> Any:
    """Returns what counts an operation; torch's table has no products that are added in place."""
    plain = getattr(torch.ops.aten, operation.__name__.removesuffix("_"), None)
    return _OWN.get(operation.__name__) or flop_registry.get(operation) or flop_registry.get(plain)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Scores and their sums over the values; a causal half that is left out counts as well."""
    scores = query.numel() // query.shape[-1] * key.shape[-2]
    return 2 * scores * (query.shape[-1] + value.shape[-1])


def _attention_backward(slope: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Twice the forward pass: that a kernel computes the scores again is not counted."""
    return 2 * _attention(query, key, value)


def _matrix_vector(matrix: Tensor, *_: Any, **__: Any) -> int:
    return 2 * matrix.numel()


def _added_matrix_vector(_: Tensor, matrix: Tensor, *__: Any, **___: Any) -> int:
    return 2 * matrix.numel()


def _convolution(given: Tensor, weight: Tensor, *rest: Any, out_val: Tensor, **_: Any) -> int:
    """Two for each number made and each number of its window; transposed, for each number given."""
    transposed = len(rest) > 4 and rest[4] is True
    return 2 * (given if transposed else out_val).numel() * weight[0].numel()


def _convolution_backward(slope: Tensor, given: Tensor, weight: Tensor, *rest: Any, **_: Any) -> int:
    """As much for the slope of what is given, if that is wanted, and for that of the weight."""
    transposed, wanted = rest[4], rest[-1]
    return 2 * (given if transposed else slope).numel() * weight[0].numel() * sum(wanted[:2])


# What torch's table lacks or counts otherwise: it takes a grouped convolution's slope of the weight for that of a whole
# one, and counts the backward pass of fused attention in another way for each kernel.
_OWN: dict[str, Any] = {
    "mv": _matrix_vector,
    "addmv": _added_matrix_vector,
    "convolution": _convolution,
    "_convolution": _convolution,
    "convolution_backward": _convolution_backward,
    **{
        f"_scaled_dot_product_{kind}{way}": count
        for kind in ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
        for way, count in (("", _attention), ("_backward", _attention_backward))
    },
}
