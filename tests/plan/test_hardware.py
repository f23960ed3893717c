"""Devices by name: as the data sheets have them, and found from what a person types."""

from __future__ import annotations

import dataclasses

import pytest

from dougong.core.errors import UsageError
from dougong.plan.hardware import HARDWARE, parse_devices


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("1024xa100-80gb", 1024, "a100-80gb"),
        ("8 x H100", 8, "h100"),
        ("a100_40gb", 1, "a100-40gb"),
        ("3072xA100-80GB", 3072, "a100-80gb"),
        ("64", 64, None),
    ],
)
def test_devices_are_a_count_a_name_or_both(text: str, count: int, name: str | None) -> None:
    found, hardware = parse_devices(text)
    assert (found, hardware and hardware.name) == (count, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8xa100-80g", "Did you mean a100-80gb?"),
        ("h10", "Did you mean h100?"),
        ("0xh100", "devices must be at least 1"),
        ("", "devices must be a count, a name or both"),
        ("8x h100 now", "devices must be a count, a name or both"),
        ("tpu", "Known: a100-40gb, a100-80gb, b200"),
    ],
)
def test_what_is_no_device_is_refused_with_the_nearest(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="devices must be") as caught:
        parse_devices(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("hardware", HARDWARE.values(), ids=list(HARDWARE))
def test_figures_are_of_one_order_with_each_other(hardware: object) -> None:
    """A figure entered in the wrong unit, for both directions, or with sparsity would leave these bounds."""
    device = HARDWARE[hardware.name]  # type: ignore[attr-defined]
    assert "data sheet" in device.source
    assert 100 < device.peak("bf16") / device.bandwidth < 420  # operations per byte
    assert 4 < device.bandwidth / device.link < 12
    assert 8 < device.link / device.network < 25
    assert 0.1e12 < device.peak("bf16") / device.watts < 2.5e12
    assert device.flops["fp32"] < device.peak("bf16") / 3


def test_a_device_without_bf16_computes_in_fp16() -> None:
    v100 = HARDWARE["v100-32gb"]
    assert v100.peak("bf16") == v100.peak("fp16")
    with pytest.raises(UsageError, match="must compute fp8, but has fp32, fp16"):
        v100.peak("fp8")


def test_the_price_is_an_assumption_that_can_be_changed() -> None:
    cheap = HARDWARE["h100"].priced(1.0)
    assert cheap.dollars_per_hour == 1.0
    assert dataclasses.replace(cheap, dollars_per_hour=HARDWARE["h100"].dollars_per_hour) == HARDWARE["h100"]
