"""What a step takes is measured to the byte, and nothing is said on the way."""

from __future__ import annotations

import pytest
import torch

from dougong.train.measure import allocations, highest


def test_allocations_are_measured_to_the_byte(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        one = torch.ones(1000)
        two = one + one
        del one, two
        torch.ones(500)

    changes = allocations(work)
    assert highest(changes) == 8000
    assert sum(changes) == 0
    assert capfd.readouterr().err == ""
