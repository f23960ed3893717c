"""The seconds of a training step, from a trace of its operations and what a device takes for each.

This machine's processor is known by its calibration: each operation is looked up in the table of what is most like it.
An accelerator is known by its data sheet: an operation takes what its products or its bytes take (Williams et al. 2009,
the roofline), at a share of the peak that is said below. Knows no model; runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from dougong.plan.hardware import Hardware
from dougong.plan.match import calibrated, is_view
from dougong.plan.tables import Calibration
from dougong.plan.trace import Operation, Trace


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step.

    Attributes:
        low: Hardly less.
        middle: What is expected.
        high: Hardly more.
        parts: What the expected seconds are made of, by kind of operation, the largest first.
    """

    low: float
    middle: float
    high: float
    parts: Mapping[str, float] = field(default_factory=dict)


CALIBRATED = (0.8, 1.25)
"""How far a measured step was from the expected one on a calibrated processor, low and high."""

SHEET = (0.6, 1.8)
"""The same where only the data sheet is known: no accelerator was measured."""

PRODUCTS_REACH, BYTES_REACH, LAUNCH = 0.6, 0.8, 5e-6
"""Shares of an accelerator's peaks that large operations reach, and the seconds that each takes at least."""


def step_time(trace: Trace, machine: Calibration | Hardware) -> Estimate:
    """Returns how long a traced step takes.

    Args:
        trace: The operations of one step: forward, backward, recomputation and update.
        machine: This one's calibration, or an accelerator by its data sheet.
    """
    kinds: dict[str, float] = {}
    for operation in trace.operations:
        kind, seconds = (
            _on_sheet(operation, machine) if isinstance(machine, Hardware) else calibrated(operation, machine)
        )
        kinds[kind] = kinds.get(kind, 0.0) + seconds
    low, high = SHEET if isinstance(machine, Hardware) else CALIBRATED
    middle = sum(kinds.values())
    parts = dict(sorted(kinds.items(), key=lambda item: -item[1]))
    return Estimate(low * middle, middle, high * middle, parts)


def _on_sheet(operation: Operation, machine: Hardware) -> tuple[str, float]:
    if is_view(operation):
        return "views", 0.0
    by_bytes = (operation.read_bytes + operation.written_bytes) / (BYTES_REACH * machine.bandwidth)
    if not operation.flops:
        return "memory", max(by_bytes, LAUNCH)
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(operation.dtype, "fp32")
    by_flops = operation.flops / (PRODUCTS_REACH * machine.peak(precision))
    return "products", max(by_flops, by_bytes, LAUNCH)
