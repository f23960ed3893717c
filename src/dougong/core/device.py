"""What this machine can compute, and with what: device, precision, measured matmul peak and memory bandwidth.

Figures are measured on the spot, never looked up. Knows no model.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import torch

from dougong.core.errors import UsageError

_LEAST = 12
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


def choose_device(name: str = "auto") -> torch.device:
    """Returns the device for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        UsageError: The device is not present.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = name.split(":")[0]
    if not present.get(kind, False):
        have = ", ".join(k for k, there in present.items() if there)
        raise UsageError(f"device must be one this machine has ({have}), but is {name!r}. Try device: auto.")
    return torch.device(name)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all it was asked to, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@functools.cache
def matmul_peak(device: torch.device, dtype: torch.dtype, size: int = 0, seconds: float = 0.15, turn: int = 0) -> float:
    """Returns the best measured FLOP/s of a square matrix product (2 n^3 operations), over about `seconds`.

    Measured once for each set of arguments.

    Args:
        turn: Another one is measured anew.
        size: The side of the matrices; 0 takes 1024 on a CPU, 8192 on an accelerator.
    """
    side = size or (1024 if device.type == "cpu" else 8192)
    left = torch.ones(side, side, dtype=dtype, device=device)
    right = torch.ones(side, side, dtype=dtype, device=device)
    best, started, done = float("inf"), time.perf_counter(), 0
    while time.perf_counter() - started < seconds or done < _LEAST:  # a few, or a busy neighbour decides
        done += 1
        synchronize(device)
        begin = time.perf_counter()
        torch.mm(left, right)
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


def _in_turns(device: torch.device, dtypes: tuple[torch.dtype, ...], size: int) -> list[float]:
    """Returns the peak of each type, measured in turns, so that a busy neighbour slows none of them alone."""
    rounds = [[matmul_peak(device, dtype, size, 0.015, turn) for dtype in dtypes] for turn in range(4)]
    return [max(peaks) for peaks in zip(*rounds, strict=True)]


@functools.cache
def memory_bandwidth(device: torch.device, megabytes: int = 256) -> float:
    """Returns the best measured bytes/s of reading a large tensor once."""
    tensor = torch.ones(megabytes * 250_000, device=device)
    best = float("inf")
    for _ in range(5):
        synchronize(device)
        begin = time.perf_counter()
        tensor.sum()
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return tensor.numel() * 4 / best


@dataclass(frozen=True)
class Precision:
    """The type in which products are computed, and why it was chosen."""

    dtype: torch.dtype
    reason: str


def choose_precision(name: str, device: torch.device, before: str | None = None) -> Precision:
    """Returns the precision for `auto`, `fp32`, `bf16` or `fp16`; `auto` takes bf16 where it is measured faster.

    Args:
        name: What is asked for.
        device: Where it is computed.
        before: What `auto` gave when the run began, if it goes on: a measurement may turn out otherwise now.

    Raises:
        UsageError: The name is unknown.
    """
    if name in DTYPES:
        return Precision(DTYPES[name], "asked for")
    if name != "auto":
        raise UsageError(f"precision must be auto, fp32, bf16 or fp16, but is {name!r}.")
    if before in DTYPES:
        return Precision(DTYPES[before], "as when the run began")
    probe = 256 if device.type == "cpu" else 0
    slow, fast = _in_turns(device, (torch.float32, torch.bfloat16), probe)
    chosen = torch.bfloat16 if fast > 1.2 * slow else torch.float32
    return Precision(chosen, f"bf16 matrix products run {fast / slow:.2g} times as fast as fp32 here")
