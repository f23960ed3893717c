"""Products are counted as on paper, and what nobody can count is named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dougong.plan import formulas
from dougong.plan.trace import Recorder, Trace

ATEN = torch.ops.aten


def traced(call: Any, *inputs: Tensor, slopes: bool = True) -> Trace:
    """A call and, unless told otherwise, its gradient, on the meta device."""
    recorder = Recorder()
    with recorder:
        output = call(*inputs)
        recorder.phase = "backward"
        if slopes:
            output.sum().backward()
    return recorder.trace()


def blank(*shape: int, wanted: bool = True) -> Tensor:
    return torch.empty(shape, device="meta", requires_grad=wanted)


@pytest.mark.parametrize(
    ("given", "weight", "options"),
    [
        ((2, 3, 8, 8), (4, 3, 3, 3), {"padding": 1}),
        ((2, 8, 9, 9), (6, 4, 3, 3), {"groups": 2, "stride": 2}),
        ((2, 8, 9, 9), (8, 1, 3, 3), {"groups": 8, "padding": 1}),
        ((2, 5, 20), (7, 5, 4), {"dilation": 2}),
        ((1, 2, 5, 6, 7), (3, 2, 1, 2, 3), {}),
    ],
)
def test_a_convolution_has_a_product_for_each_number_of_each_window(
    given: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any]
) -> None:
    call = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[len(given)]
    inputs = (blank(*given), blank(*weight))
    output = call(*inputs, **options)
    products = output.numel() * math.prod(weight[1:])
    found = traced(lambda *each: call(*each, **options), *inputs)
    assert found.flops("forward") == 2 * products
    assert found.flops("backward") == 4 * products
    frozen = (blank(*given, wanted=False), blank(*weight))
    assert traced(lambda *each: call(*each, **options), *frozen).flops("backward") == 2 * products


def test_a_transposed_convolution_has_a_product_for_each_number_it_reads() -> None:
    given, weight = blank(2, 6, 5, 5), blank(6, 4, 3, 3)
    found = traced(lambda *each: F.conv_transpose2d(*each, stride=2), given, weight)
    products = given.numel() * 4 * 3 * 3
    assert (found.flops("forward"), found.flops("backward")) == (2 * products, 4 * products)


def test_a_matrix_times_a_vector_counts() -> None:
    matrix, vector, added = blank(5, 7), blank(7), blank(5)
    assert traced(torch.mv, matrix, vector, slopes=False).flops() == 2 * 5 * 7
    assert traced(torch.addmv, added, matrix, vector, slopes=False).flops() == 2 * 5 * 7


def test_attention_counts_scores_and_their_sums_and_twice_that_backward() -> None:
    query, key, value = blank(2, 3, 10, 8), blank(2, 3, 12, 8), blank(2, 3, 12, 8)
    forward = 2 * (2 * 3 * 10 * 12) * (8 + 8)
    assert formulas._attention(query, key, value) == forward
    found = [
        (one.name, one.flops)
        for one in real_attention().operations
        if "attention" in one.name or one.name.startswith("aten.bmm")
    ]
    assert sum(flops for _, flops in found) == 3 * forward, found


def real_attention() -> Trace:
    inputs = [torch.rand(2, 3, time, 8, requires_grad=True) for time in (10, 12, 12)]
    return traced(F.scaled_dot_product_attention, *inputs)


def test_without_grouped_convolutions_it_is_torchs_own_count() -> None:
    def network(given: Tensor, kernel: Tensor, weight: Tensor) -> Tensor:
        return F.linear(F.conv2d(given, kernel, padding=1).flatten(2), weight) @ weight

    inputs = [torch.rand(shape, requires_grad=True) for shape in ((2, 3, 4, 4), (5, 3, 3, 3), (7, 16))]
    with FlopCounterMode(display=False) as counter:
        network(*inputs).sum().backward()
    assert traced(network, *inputs).flops() == counter.get_total_flops()


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.linalg.solve(x, x),
        lambda x: torch.fft.fft(x).real,
        lambda x: torch.cdist(x, x),
        torch.linalg.svdvals,
        torch.linalg.inv,
    ],
)
def test_what_no_formula_counts_is_named(call: Any) -> None:
    found = traced(call, torch.rand(6, 6) + torch.eye(6), slopes=False)
    assert found.unknown, [one.name for one in found.operations]
    assert all(name.startswith("aten.") for name in found.unknown)


@pytest.mark.parametrize(
    "call",
    [
        torch.relu,
        lambda x: x.t().reshape(-1).cumsum(0),
        lambda x: F.layer_norm(x, (6,)),
        lambda x: F.cross_entropy(x, torch.arange(6)),
        lambda x: F.embedding(torch.arange(6), x),
        lambda x: F.max_pool2d(x[None, None], 2),
        lambda x: torch.where(x > 0, x, 0).sort().values,
        lambda x: x @ x,
    ],
)
def test_what_moves_and_sums_is_not(call: Any) -> None:
    assert not traced(call, torch.rand(6, 6, requires_grad=True)).unknown
