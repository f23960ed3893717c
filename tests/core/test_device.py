"""Devices are the ones present; precision is chosen by measuring."""

from __future__ import annotations

import pytest
import torch

from dougong.core import device
from dougong.core.errors import UsageError


def test_an_absent_device_is_refused() -> None:
    with pytest.raises(
        UsageError, match="device must be one this machine has .*cpu.*, but is 'tpu'. Try device: auto."
    ):
        device.choose_device("tpu")
    assert device.choose_device("cpu") == torch.device("cpu")


def test_figures_are_measured_and_positive() -> None:
    cpu = torch.device("cpu")
    assert device.matmul_peak(cpu, torch.float32, 64, 0.001) > 0
    assert device.memory_bandwidth(cpu, 1) > 0


def test_precision_is_the_one_asked_for_or_the_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert device.choose_precision("fp16", cpu).dtype == torch.float16
    for ratio, dtype in ((0.5, torch.float32), (1.1, torch.float32), (3.0, torch.bfloat16)):
        speeds = {torch.float32: 1.0, torch.bfloat16: ratio}
        monkeypatch.setattr(device, "matmul_peak", lambda _, kind, *__, speeds=speeds: speeds[kind])
        chosen = device.choose_precision("auto", cpu)
        assert chosen.dtype == dtype
        assert f"{ratio:.2g} times" in chosen.reason
    with pytest.raises(UsageError, match="precision must be"):
        device.choose_precision("int3", cpu)
