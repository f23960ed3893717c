"""What a kernel holds inside one operation is as much as torch really allocates there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dougong.nn.scan import scan
from dougong.plan import memory
from dougong.plan.memory import Ledger
from dougong.train.measure import allocations, highest

SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3 x 3 of many channels": ((32, 32, 16, 16), (64, 32, 3, 3), {"padding": 1}),
    "3 x 3 of a picture": ((32, 3, 32, 32), (32, 3, 3, 3), {"padding": 1}),
    "1 x 1": ((32, 64, 16, 16), (64, 64, 1, 1), {}),
    "strided": ((16, 48, 32, 32), (64, 48, 3, 3), {"stride": 2, "padding": 1}),
    "dilated": ((16, 32, 32, 32), (32, 32, 3, 3), {"dilation": 2, "padding": 2}),
    "depthwise": ((32, 64, 16, 16), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    "over time": ((50, 128, 48), (112, 128, 3), {"padding": 1}),
}


def inputs(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    given, weight, _ = SHAPES[name]
    return (
        torch.empty(given, dtype=dtype).requires_grad_("picture" not in name),
        torch.empty(weight, dtype=dtype).requires_grad_(),
    )


def convolved(name: str, given: Tensor, weight: Tensor) -> Tensor:
    call = F.conv1d if weight.dim() == 3 else F.conv2d
    return call(given, weight, **SHAPES[name][2])


def predicted(work: Any) -> int:
    """The peak that is booked for some work on fake tensors, beyond what is there before."""
    ledger = Ledger()
    with FakeTensorMode(allow_non_fake_inputs=True), ledger:
        call = work(ledger)
        ledger.begin()
        call()
    before = sum(size for _, size in ledger._entries[: ledger._start])
    return sum(ledger.at_peak().values()) - before


def backward(call: Any) -> Any:
    """Forward is done before, backward is what is measured."""

    def work(ledger: Any) -> Any:
        output = call()
        slope = torch.empty_like(output)
        return lambda: output.backward(slope)

    return work


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_a_convolution_takes_what_is_booked(name: str, dtype: torch.dtype) -> None:
    def forward(ledger: Any) -> Any:
        given, weight = inputs(name, dtype)
        return lambda: convolved(name, given, weight)

    call = forward(None)
    call()
    assert predicted(forward) == pytest.approx(highest(allocations(call)), rel=0.05)
    backwards = backward(lambda: convolved(name, *inputs(name, dtype)))
    backwards(None)()
    assert predicted(backwards) == pytest.approx(highest(allocations(backwards(None))), rel=0.1)


def test_what_does_not_lie_contiguous_is_copied_first() -> None:
    def forward(ledger: Any) -> Any:
        given, weight = torch.empty(50, 48, 128).transpose(1, 2), torch.empty(112, 128, 3)
        return lambda: F.conv1d(given, weight, padding=1)

    assert predicted(forward) == pytest.approx(highest(allocations(forward(None))), rel=0.02)


def test_channels_last_nothing_is_copied() -> None:
    def forward(ledger: Any) -> Any:
        given = torch.empty(32, 64, 16, 16).to(memory_format=torch.channels_last)
        weight = torch.empty(64, 64, 3, 3)
        return lambda: F.conv2d(given, weight, padding=1)

    call = forward(None)
    call()
    assert predicted(forward) == pytest.approx(highest(allocations(call)), rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_channels_last_the_weight_is_turned_and_put_in_blocks(kernel: int, dtype: torch.dtype) -> None:
    """Over few places and many channels the weight is what takes memory: as in the last stage of a ResNet."""

    def call() -> Tensor:
        given = torch.empty(16, 512, 8, 8, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
        weight = torch.empty(512, 512, kernel, kernel, dtype=dtype, requires_grad=True)
        return F.conv2d(given, weight, padding=kernel // 2)

    for work in (lambda ledger: call, backward(call)):
        work(None)()
        assert predicted(work) == pytest.approx(highest(allocations(work(None))), rel=0.1)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize(("time", "batch", "width", "hidden_dim"), [(48, 50, 128, 128), (64, 32, 100, 96)])
def test_an_lstm_takes_what_is_booked(time: int, batch: int, width: int, hidden_dim: int) -> None:
    def call() -> Tensor:
        rows = 4 * hidden_dim
        shapes = ((rows, width), (rows, hidden_dim), (rows,), (rows,))
        weights = [torch.zeros(shape, requires_grad=True) for shape in shapes]
        return scan("lstm", torch.zeros(batch, time, width, requires_grad=True), weights)

    work = backward(call)
    work(None)()
    assert predicted(work) == pytest.approx(highest(allocations(work(None))), rel=0.1)


def test_without_it_a_convolution_seems_to_take_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    work = backward(lambda: convolved("1 x 1", *inputs("1 x 1", torch.float32)))
    with_it = predicted(work)
    monkeypatch.setattr(memory, "workspace", lambda func, args: 0)
    assert predicted(work) < 0.55 * with_it


def test_elsewhere_than_on_a_processor_nothing_is_known() -> None:
    weight = torch.empty(64, 64, 1, 1, device="meta")
    work = lambda ledger: lambda: F.conv2d(torch.empty(32, 64, 16, 16, device="meta"), weight)  # noqa: E731
    assert predicted(work) == 2 * 32 * 64 * 16 * 16 * 4  # what goes in and what comes out


def test_gradients_that_autograd_adds_up_are_added_in_place() -> None:
    def call() -> Tensor:
        hidden = torch.zeros(512, 512, requires_grad=True) * 1.0
        return hidden.exp() + hidden.sin() + hidden.cos()

    work = backward(call)
    assert predicted(work) == pytest.approx(highest(allocations(work(None))), abs=64)


def test_what_two_hold_is_not_added_in_place() -> None:
    """The control of the one before: the slope of a sum is one tensor for both, which nobody may change."""

    def call() -> Tensor:
        hidden = torch.zeros(512, 512, requires_grad=True) * 1.0
        return hidden + hidden

    work = backward(call)
    assert predicted(work) == pytest.approx(highest(allocations(work(None))), abs=64)
