"""Shapes that are told without torch are torch's: of each operation, and of whole models."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dougong.core.config import find_part, validate
from dougong.plan.cost import cost_of
from dougong.plan.shapes import arange, made
from dougong.train.config import AdamWConfig

ATEN = torch.ops.aten
GPT = find_part("models", "gpt")


def blank(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


WHOLE = blank(3, 4, dtype=torch.int64)
CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (ATEN.add.Tensor, (blank(2, 3, 4), blank(4)), {"alpha": 2}),
    (ATEN.mul.Tensor, (blank(2, 1, 4), blank(3, 1)), {}),
    (ATEN.mul.Tensor, (blank(2, 3), blank(2, 3, dtype=torch.float32)), {}),
    (ATEN.mul.Tensor, (blank(2, 3), blank(dtype=torch.float32)), {}),
    (ATEN.mul.Tensor, (blank(2, 3).t(), blank(3, 2).contiguous()), {}),
    (ATEN.add.Tensor, (blank(2, 3).t(), 1), {}),
    (ATEN.mul.Tensor, (WHOLE, 0.5), {}),
    (ATEN.div.Tensor, (WHOLE, 2), {}),
    (ATEN.sub.Tensor, (blank(4), 1), {}),
    (ATEN.rsub.Scalar, (blank(4), 1), {}),
    (ATEN.neg.default, (blank(4),), {}),
    (ATEN.gelu.default, (blank(4, 4),), {"approximate": "tanh"}),
    (ATEN.pow.Tensor_Scalar, (blank(4, 4), 2), {}),
    (ATEN.pow.Scalar, (10000.0, blank(4, dtype=torch.float32)), {}),
    (ATEN.rsqrt.default, (blank(4, 1),), {}),
    (ATEN.cos.default, (blank(4, 2, dtype=torch.float32),), {}),
    (ATEN.clamp.default, (WHOLE, 0), {}),
    (ATEN.ge.Scalar, (WHOLE, 0), {}),
    (ATEN.lt.Tensor, (WHOLE, blank(4, dtype=torch.int64)), {}),
    (ATEN.bitwise_and.Tensor, (blank(3, 4, dtype=torch.bool), blank(4, dtype=torch.bool)), {}),
    (ATEN.mm.default, (blank(2, 3), blank(3, 5)), {}),
    (ATEN._softmax.default, (blank(2, 3), -1, False), {}),
    (ATEN.amax.default, (blank(2, 3, 4), [-1]), {}),
    (ATEN.amax.default, (blank(2, 3, 4), [0], True), {}),
    (ATEN.sum.default, (blank(2, 3),), {}),
    (ATEN.sum.dim_IntList, (blank(2, 3, 4), [0, 1], True), {}),
    (ATEN.gather.default, (blank(2, 3), -1, WHOLE[:2, :1]), {}),
    (ATEN.scatter_add_.default, (blank(2, 3), -1, WHOLE[:2, :1], blank(2, 1)), {}),
    (ATEN.ones_like.default, (blank(2, 3).t(),), {"memory_format": torch.preserve_format}),
    (ATEN.mm.out, (blank(2, 3), blank(3, 5)), {"out": blank(2, 5)}),
    (ATEN.addmm.default, (blank(5), blank(2, 3), blank(3, 5)), {}),
    (ATEN.dot.default, (blank(5), blank(5)), {}),
    (ATEN.mean.dim, (blank(2, 3, 4), [-1], True), {}),
    (ATEN.zeros_like.default, (blank(2, 3),), {"pin_memory": False}),
    (ATEN.ones_like.default, (blank(2, 3),), {}),
    (ATEN.empty_like.default, (blank(2, 3, 4).transpose(0, 2),), {"pin_memory": False}),
    (ATEN.embedding.default, (blank(7, 5), blank(2, 3, dtype=torch.int64), -1, False, False), {}),
    (ATEN.embedding_dense_backward.default, (blank(2, 3, 5), blank(2, 3, dtype=torch.int64), 7, -1, False), {}),
    (ATEN.mean.dim, (blank(2, 3, 4), [0, 2]), {}),
    (ATEN.cat.default, ([blank(2, 3), blank(2, 5)], -1), {}),
    (ATEN.native_layer_norm.default, (blank(2, 3, 8), [8], blank(8), blank(8), 1e-5), {}),
    (ATEN.native_layer_norm.default, (blank(2, 8, dtype=torch.float32), [8], None, None, 1e-5), {}),
    (
        ATEN.native_layer_norm_backward.default,
        (
            *(blank(2, 3, 8), blank(2, 3, 8), [8], *[blank(2, 3, 1, dtype=torch.float32)] * 2),
            blank(8),
            blank(8),
            [True] * 3,
        ),
        {},
    ),
]


def described(found: Any) -> list[Any]:
    return [(t.shape, t.dtype, t.stride()) if isinstance(t, Tensor) else t for t in tree_leaves(found)]


@pytest.mark.parametrize(("operation", "args", "options"), CALLS, ids=[str(call[0]) for call in CALLS])
def test_a_shape_is_the_one_torch_gives(operation: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    told = made(operation, args, options)
    assert told is not None
    assert described(told) == described(operation(*args, **options))


def test_in_place_operations_give_their_own_tensor() -> None:
    total = blank(2, 5)
    assert made(ATEN.addmm_.default, (total, blank(2, 3), blank(3, 5)), {}) is total
    assert made(ATEN.log_.default, (total,), {}) is total


def test_what_is_not_known_is_left_to_torch() -> None:
    assert made(ATEN.bmm.default, (blank(1, 2, 3), blank(1, 3, 4)), {}) is None
    assert made(ATEN.sum.default, (WHOLE,), {}) is None
    assert made(ATEN.ones_like.default, (blank(2, 3),), {"memory_format": torch.channels_last}) is None
    assert made(ATEN.add.Tensor, (torch.ones(2), torch.ones(2)), {}) is None
    assert made(ATEN.mean.dim, (blank(2, 3), [0]), {"dtype": torch.float32}) is None
    assert arange(4) is None
    assert described(arange(2, 9, 2, device="meta")) == described(torch.arange(2, 9, 2, device="meta"))


@pytest.mark.parametrize("name", ["gpt3-small", "qwen3-0.6b", "llama3.2-1b"])
def test_a_model_costs_the_same_when_torch_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = validate(GPT.PART, {"name": "gpt", **GPT.VARIANTS[name]}).replace(max_seq_len=64)
    task = validate(find_part("tasks", "language_modeling").PART, {}).build(config)
    told = cost_of(config, task, AdamWConfig(), torch.bfloat16)
    monkeypatch.setattr("dougong.plan.cost.made", lambda *_: None)
    monkeypatch.setattr("dougong.plan.cost.arange", lambda *_, **__: None)
    assert cost_of(config, task, AdamWConfig(), torch.bfloat16) == told


def test_torchs_compiler_is_not_loaded() -> None:
    code = (
        "import sys; from dougong.plan.hardware import HARDWARE; from dougong.plan.placement import layouts\n"
        "from dougong.recipe import load; layouts(load('gpt3-175b'), 1024, HARDWARE['a100-80gb'])\n"
        "assert not {'torch._dynamo', 'sympy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
