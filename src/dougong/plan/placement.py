"""The layouts of a recipe over some devices: all sensible ones, those that fit best first, and why the others do not.

Of layouts that differ only in microbatch, interleaving and recomputation the quickest that fits stands for all. Knows
recipes; what a layout costs, `layout.py` knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from dougong.core.errors import UsageError
from dougong.plan.cost import Cost, cost_of
from dougong.plan.count import known_model, task_of
from dougong.plan.hardware import Hardware
from dougong.plan.layout import (
    EFFICIENCY,
    DeviceMemory,
    Layout,
    StepTime,
    Workload,
    as_values,
    memory,
    sent,
    step_time,
)
from dougong.recipe import Recipe

MICROBATCHES = (1, 2, 4, 8, 16, 32, 64)
PIECES = (1, 2, 3, 4, 6, 8)
EQUAL = 0.02  # times that differ by less are taken for equal
SHORTEST = 512  # tokens of a row that one device of context parallelism has at least


@dataclass(frozen=True)
class Placed:
    """A layout that fits.

    Attributes:
        layout: The degrees.
        memory: What the fullest device holds.
        time: The seconds of a step.
        sent: Bytes that a device sends per step, by axis.
        medium: Whether that goes over the link inside a node or over the network, by axis.
        samples_per_second: Of all devices together.
        tokens_per_second: The same in tokens, where examples are rows of them.
        utilization: The model's own operations per second over the peak (without recomputation).
    """

    layout: Layout
    memory: DeviceMemory
    time: StepTime
    sent: dict[str, float]
    medium: dict[str, str]
    samples_per_second: float
    tokens_per_second: float | None
    utilization: float


@dataclass(frozen=True)
class Refused:
    """A layout that does not fit, and why, in one sentence."""

    layout: Layout
    reason: str


@dataclass(frozen=True)
class Layouts:
    """What became of all layouts.

    Attributes:
        count: How many devices.
        hardware: Which.
        batch_size: Examples per step.
        efficiency: The share of the peak that products are taken to reach.
        fitting: Those that fit, the quickest first; of those that are as good as equal, first what sends least.
        refused: The others, the nearest to fitting first.
    """

    count: int
    hardware: Hardware
    batch_size: int
    efficiency: float
    fitting: tuple[Placed, ...]
    refused: tuple[Refused, ...]

    @property
    def best(self) -> Placed | None:
        """The quickest that fits."""
        return self.fitting[0] if self.fitting else None

    def as_dict(self, most: int = 20) -> dict[str, Any]:
        """Returns all of it as JSON values, of either list the first so many."""
        return {
            "count": self.count,
            "hardware": {**asdict(self.hardware), "flops": dict(self.hardware.flops)},
            "batch_size": self.batch_size,
            "efficiency": self.efficiency,
            "fitting": [_placed_values(placed) for placed in self.fitting[:most]],
            "fitting_count": len(self.fitting),
            "refused": [{**asdict(r.layout), "reason": r.reason} for r in self.refused[:most]],
            "refused_count": len(self.refused),
        }


def layouts(recipe: Recipe, count: int, hardware: Hardware, efficiency: float = EFFICIENCY) -> Layouts:
    """Returns which layouts of a recipe fit some devices, and how long a step of each takes.

    Raises:
        UsageError: The size of the vocabulary or of the batch is not known before the data is read.
    """
    job = workload(recipe, hardware, efficiency)
    return searched(job, count)


def workload(recipe: Recipe, hardware: Hardware, efficiency: float = EFFICIENCY) -> Workload:
    """Returns what a recipe asks of each device.

    Raises:
        UsageError: The size of the vocabulary or of the batch is not known before the data is read.
    """
    train = recipe.train
    if not isinstance(train.batch_size, int):
        raise UsageError(
            f"train.batch_size must be a number to plan for many devices, but is {train.batch_size}. Set it."
        )
    model = known_model(recipe)
    mixed = train.precision != "fp32"
    dtype = torch.bfloat16 if mixed else torch.float32
    length = getattr(recipe.data, "seq_len", None)
    cost = cost_of(model, task_of(recipe, model), train.optimizer, dtype, length)
    return Workload(cost, hardware, train.batch_size, mixed, train.ema is not None, efficiency)


def searched(job: Workload, count: int) -> Layouts:
    """Returns all layouts of a workload over so many devices."""
    fitting: list[Placed] = []
    refused: list[tuple[float, Refused]] = []
    for group in candidates(job.cost, job.hardware, count):
        if job.batch_size % group.replicas:
            reason = f"cannot deal a batch of {job.batch_size} evenly to {group.replicas} replicas"
            refused.append((float("inf"), Refused(group, reason)))
            continue
        held = [(layout, memory(job, layout)) for layout in _choices(job, group)]
        fit = [(step_time(job, layout), layout, m) for layout, m in held if m.total <= job.hardware.memory_bytes]
        if fit:
            seconds, layout, found = min(fit, key=lambda item: item[0].total)
            fitting.append(_placed(job, layout, found, seconds))
        else:
            layout, found = min(held, key=lambda item: item[1].total)
            refused.append((found.total, Refused(layout, found.reason(job.hardware.memory_bytes))))
    fitting.sort(key=_rank)
    refused.sort(key=lambda item: item[0])
    nearest = tuple(refusal for _, refusal in refused)
    return Layouts(count, job.hardware, job.batch_size, job.efficiency, tuple(fitting), nearest)


def candidates(cost: Cost, hardware: Hardware, count: int) -> Iterator[Layout]:
    """Yields the sensible degrees: tensor inside a node and dividing the heads, equal pipeline stages, whole tokens.

    ZeRO-2 is left out beside pipelines, which need the gradients of all microbatches where they are.
    """
    for tensor in _divisors(count):
        if tensor > 1 and not _splits(cost, tensor, hardware):
            continue
        for pipeline in _divisors(count // tensor):
            if pipeline > 1 and (not cost.order or len(cost.order) % pipeline):
                continue
            for context in _divisors(count // tensor // pipeline):
                if context == 1 or _cuts(cost, context):
                    left = count // tensor // pipeline // context
                    yield from _dealt(hardware, left, Layout(tensor=tensor, pipeline=pipeline, context=context))


def _splits(cost: Cost, tensor: int, hardware: Hardware) -> bool:
    """Tells whether a model can be split by so many, and a node has so many devices."""
    divides = all(heads % tensor == 0 for heads in cost.tensor_degrees)
    return bool(cost.tensor_degrees) and divides and tensor <= hardware.devices_per_node


def _cuts(cost: Cost, context: int) -> bool:
    """Tells whether rows can be cut for so many devices: what mixes tokens is attention that passes keys around."""
    rings = bool(cost.kinds) and all(kind.ring_bytes for kind in cost.kinds)
    return rings and cost.length is not None and not cost.length % context and cost.length // context >= SHORTEST


def _dealt(hardware: Hardware, left: int, base: Layout) -> Iterator[Layout]:
    """Yields the ways to use what is left of the devices as replicas and shards."""
    yield replace(base, data=left)
    if left * base.context == 1:
        return
    for stage in (1, 2, 3):
        if stage != 2 or base.pipeline == 1:
            yield replace(base, shard=left, stage=stage)
    node = hardware.devices_per_node // (base.tensor * base.context)
    if 1 < node < left and not left % node:
        yield replace(base, data=left // node, shard=node, stage=3)


def _choices(job: Workload, group: Layout) -> Iterator[Layout]:
    """Yields a layout with all sensible microbatches, pieces and either kind of keeping activations."""
    share = job.batch_size // group.replicas
    blocks = len(job.cost.order) // group.pipeline
    for microbatch in MICROBATCHES:
        if share % microbatch:
            break
        for pieces in PIECES if group.pipeline > 1 else (1,):
            if pieces > 1 and (blocks % pieces or (share // microbatch) % group.pipeline):
                continue
            for recompute in (False, True) if job.cost.order else (False,):
                yield replace(group, interleave=pieces, microbatch=microbatch, recompute=recompute)


def _placed(job: Workload, layout: Layout, found: DeviceMemory, seconds: StepTime) -> Placed:
    rate = job.batch_size / seconds.total
    bytes_sent = sent(job, layout)
    passes = job.passes(layout)
    by_step = {axis: size * (1 if axis == "data" else passes) for axis, size in bytes_sent.items()}
    groups = {**layout.groups(), "data": layout.groups()["gradients"]}
    medium = {axis: groups[axis].medium(job.hardware) for axis in by_step}
    tokens = rate * job.cost.length if job.cost.length else None
    peak = job.speed / job.efficiency * layout.devices
    return Placed(layout, found, seconds, by_step, medium, rate, tokens, rate * job.cost.flops() / peak)


def _rank(placed: Placed) -> tuple[int, float, float]:
    """Returns the order: by time in steps of a fiftieth, which is less than a plan can tell, then by bytes sent."""
    return round(math.log(placed.time.total) / math.log1p(EQUAL)), sum(placed.sent.values()), placed.time.total


def _placed_values(placed: Placed) -> dict[str, Any]:
    return {
        "layout": str(placed.layout),
        **asdict(placed.layout),
        "memory": as_values(placed.memory),
        "seconds": as_values(placed.time),
        "sent_bytes": placed.sent,
        "medium": placed.medium,
        "samples_per_second": placed.samples_per_second,
        "tokens_per_second": placed.tokens_per_second,
        "utilization": placed.utilization,
    }


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
