"""After a run: what a step was predicted to take beside what it takes, and the ratio kept for the next plan.

Measured on the model that the run leaves in memory, once its weights are written. Knows a run's parts and its folder.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dougong.core import files, log
from dougong.core.device import choose_device, choose_precision, matmul_peak, memory_bandwidth
from dougong.core.errors import DougongError
from dougong.plan.calibrate import calibration
from dougong.plan.hardware import Hardware
from dougong.plan.history import Kind, record
from dougong.plan.time import step_time
from dougong.plan.trace import Recorder, trace_step
from dougong.run.memory import largest_batch, memory_of
from dougong.run.parts import Parts
from dougong.train.blocks import prepared_blocks
from dougong.train.measure import step_peak
from dougong.train.report import read_run
from dougong.train.state import State

PATIENCE = 60.0  # seconds that measuring may take: three steps
KINDS: dict[str, Kind] = {
    "parameters": "parameters",
    "flops_per_step": "flops",
    "memory_bytes": "memory",
    "seconds_per_step": "seconds",
}


def predicted_step(parts: Parts) -> dict[str, Any]:
    """Returns what a step is predicted to take, by the names of `plan.json`, and whether the machine was calibrated."""
    train, device = parts.recipe.train, choose_device(parts.recipe.train.device)
    if device.type != "cpu":
        return {}
    batch = largest_batch(parts, device)
    trace = trace_step(parts.network, parts.task, batch, train, choose_precision(train.precision, device).dtype)
    known = calibration()
    return {
        "flops_per_step": trace.flops("forward", "backward"),
        "seconds_per_step": step_time(trace, known or measured_here(device)).middle,
        "calibrated": known is not None,
    }


def measured_here(device: torch.device) -> Hardware:
    """Returns this machine as a device with two measured figures, its peak of products and its bandwidth."""
    peaks = {"fp32": matmul_peak(device, torch.float32)}
    probe = matmul_peak(device, torch.bfloat16, 256 if device.type == "cpu" else 0, 0.02)
    peaks["bf16"] = max(probe, matmul_peak(device, torch.bfloat16)) if probe > peaks["fp32"] / 4 else probe
    return Hardware(
        name="this machine",
        memory_bytes=float(memory_of(device) or 0),
        flops=peaks,
        bandwidth=memory_bandwidth(device),
        link=1.0,
        network=1.0,
        devices_per_node=1,
        watts=0.0,
        dollars_per_hour=0.0,
        source="measured",
    )


def measured_step(parts: Parts, model: nn.Module, seconds: float) -> dict[str, Any]:
    """Returns what a step of the largest batch takes; nothing where it cannot be told, or only by waiting long.

    Args:
        parts: The run's.
        model: Its model, whose weights change here.
        seconds: What a step takes.
    """
    device = choose_device(parts.recipe.train.device)
    if device.type != "cpu" or 3 * seconds > PATIENCE:
        return {}
    train = parts.recipe.train
    with contextlib.suppress(DougongError):  # a step that finds no finite number tells nothing
        state = State.create(train, model.train(), choose_precision(train.precision, device).dtype)
        batch, recorder = largest_batch(parts, device), Recorder()
        pieces = batch.split(train.microbatch_size or len(batch))
        with recorder, prepared_blocks(model, False, False), state.autocast():
            for piece in pieces:
                parts.task.loss(model, piece).sum.backward()
        model.zero_grad(set_to_none=True)
        return {"flops_per_step": recorder.trace().flops(), "memory_bytes": step_peak(state, batch, parts.task)}
    return {}


def compare(parts: Parts, model: nn.Module, folder: Path) -> None:
    """Measures a step, writes it into `run.jsonl`, and keeps measured over predicted for this machine's next plan."""
    steps, events = read_run(folder)
    times = sorted(step["seconds"] for step in steps if step.get("seconds"))
    if not times:
        return
    median = times[len(times) // 2]
    measured = measured_step(parts, model, median)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    values = {"event": "measured", "step": steps[-1]["step"], "time": now, **measured}
    with files.open_binary(folder / "run.jsonl", "ab") as file, files.explained(folder / "run.jsonl", "written"):
        file.write(json.dumps(values).encode() + b"\n")
    plan = files.read_json(folder / "plan.json")
    measured |= {"parameters": sum(p.numel() for p in model.parameters())}
    starts = [event for event in events if event["event"] == "start"]
    compiled = bool(starts) and str(starts[-1].get("compile", "")).startswith("yes")
    if plan.get("calibrated") and not compiled:  # what is planned is a step that is not compiled
        measured["seconds_per_step"] = median
    _keep(parts.recipe.model.name, plan, measured)  # type: ignore[attr-defined]


def _keep(family: str, plan: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Notes the ratios; a folder that cannot be written to costs the run nothing."""
    try:
        for name, kind in KINDS.items():
            if plan.get(name) and measured.get(name):
                record(kind, family, float(plan[name]), float(measured[name]))
    except DougongError as error:
        log.warn(f"what the plan was worth could not be kept: {error}")
