"""A step takes the sum of its operations: by a calibration's tables, or by what an accelerator's peaks allow."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dougong.plan.hardware import HARDWARE
from dougong.plan.match import calibrated
from dougong.plan.time import BYTES_REACH, LAUNCH, PRODUCTS_REACH, step_time
from dougong.plan.trace import Operation, Trace
from tests.plan.calibrated import made

H100 = HARDWARE["h100"]


def operation(
    flops: int = 0, size: int = 0, name: str = "aten.mm.default", dtype: torch.dtype = torch.bfloat16
) -> Operation:
    return Operation(name, "forward", "", flops, size, 0, ((8, 8), (8, 8)), dtype)


def seconds(*operations: Operation) -> float:
    return step_time(Trace(operations, {}), H100).middle


def test_an_accelerator_takes_what_its_products_or_its_bytes_take() -> None:
    peak, bandwidth = H100.flops["bf16"], H100.bandwidth
    assert seconds(operation(10**12)) == pytest.approx(10**12 / (PRODUCTS_REACH * peak))
    assert seconds(operation(10**6, 10**9)) == pytest.approx(10**9 / (BYTES_REACH * bandwidth))
    assert seconds(operation(0, 10**9, "aten.add.Tensor")) == pytest.approx(10**9 / (BYTES_REACH * bandwidth))
    assert seconds(operation(1, 1)) == LAUNCH
    assert seconds(operation(0, 10**9, "aten.view.default")) == 0.0


def test_fp32_products_run_at_their_own_peak() -> None:
    slow, fast = (seconds(operation(10**12, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert slow / fast == pytest.approx(H100.flops["bf16"] / H100.flops["fp32"])


def test_half_the_peak_takes_twice_as_long() -> None:
    half = dataclasses.replace(H100, flops={name: peak / 2 for name, peak in H100.flops.items()})
    trace = Trace((operation(10**12),), {})
    assert step_time(trace, half).middle == pytest.approx(2 * step_time(trace, H100).middle)


def test_parts_add_up_and_the_largest_comes_first() -> None:
    trace = Trace((operation(10**12), operation(0, 10**9, "aten.add.Tensor"), operation(10**12)), {})
    for machine in (H100, made()):
        found = step_time(trace, machine)
        assert sum(found.parts.values()) == pytest.approx(found.middle)
        assert list(found.parts.values()) == sorted(found.parts.values(), reverse=True)
        assert found.low < found.middle < found.high


def test_a_calibrated_processor_is_told_more_narrowly_than_a_data_sheet() -> None:
    trace, machine = Trace((operation(10**12),), {}), made()
    known, sheet = step_time(trace, machine), step_time(trace, H100)
    assert known.high / known.low < sheet.high / sheet.low
    assert known.middle == calibrated(trace.operations[0], machine)[1]
