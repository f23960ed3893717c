"""Norms and ReLUs that a compiler leaves whole: the values and slopes of torch's own, bit by bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.nn.whole import batch_norm_whole, relu_whole

SHAPES = {"sequence": (12, 5), "images": (3, 5, 4, 6)}


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    source = torch.Generator().manual_seed(0)
    items = torch.randn(shape, generator=source).to(dtype).requires_grad_()
    mean, variance = torch.zeros(5), torch.ones(5)
    weight, bias = (torch.randn(5, generator=source).requires_grad_() for _ in range(2))
    return [items, mean, variance, weight, bias]


@pytest.mark.parametrize("of_batch", [True, False], ids=["batch", "running"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_norm_left_whole_equals_torchs(shape: tuple[int, ...], dtype: torch.dtype, of_batch: bool) -> None:
    results = []
    for normalise in (F.batch_norm, batch_norm_whole):
        given = inputs(shape, dtype)
        made = normalise(*given, of_batch, 0.1, 1e-5)
        made.backward(torch.linspace(-1, 1, made.numel(), dtype=dtype).reshape(shape))
        results.append([made, given[1], given[2], *(given[index].grad for index in (0, 3, 4))])
    for expected, found in zip(*results, strict=True):
        assert torch.equal(expected, found)
    moved = not torch.equal(results[1][1], torch.zeros(5))
    assert moved == of_batch, "the running statistics follow a batch, and nothing else"


def test_relu_left_whole_equals_torchs() -> None:
    hidden = torch.tensor([-1.0, -0.0, 0.0, 2.0, float("nan")])
    results = []
    for rectify in (F.relu, relu_whole):
        given = hidden.clone().requires_grad_()
        made = rectify(given)
        made.backward(torch.arange(1.0, 6.0))
        results.append((made, given.grad))
    for expected, found in zip(*results, strict=True):
        assert torch.equal(expected.nan_to_num(7.0), found.nan_to_num(7.0))


def test_relu_left_whole_keeps_what_it_returns_and_no_mask() -> None:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        made = relu_whole(torch.randn(4, requires_grad=True) * 2)
    assert [tensor.data_ptr() for tensor in kept if tensor.dtype == torch.float32 and tensor.ndim] == [made.data_ptr()]
    assert all(tensor.dtype != torch.bool for tensor in kept)
