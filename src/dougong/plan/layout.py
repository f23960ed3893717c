"""Many devices: what each holds and sends, how long a step takes, and which layouts fit.

Axes: data (replicas), shard (ZeRO's stages 1 to 3, Rajbhandari et al. 2020), tensor and pipeline (Narayanan et al.
2021) and context (Liu et al. 2023). Assumed, and said in `docs/planning.md`: the share of the peak that products reach,
ring collectives without latency, gradients that are sent while the backward pass computes, equal pipeline stages. Knows
costs and hardware; knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from dougong.plan.communication import Group, all_gather, all_reduce, point_to_point_bandwidth, reduce_scatter
from dougong.plan.cost import Cost, Part
from dougong.plan.hardware import Hardware

EFFICIENCY = 0.6


@dataclass(frozen=True)
class Layout:
    """Degrees of parallelism, whose product is the number of devices, and what goes with them.

    Attributes:
        data: Replicas of what `shard` devices hold together.
        shard: Devices over which ZeRO spreads state.
        stage: What it spreads: 0 nothing, 1 the optimizer's state, 2 also gradients, 3 also weights (FSDP).
        tensor: Devices that share each product.
        pipeline: Stages of blocks.
        context: Devices that share each row's tokens; sharding also spreads over them.
        interleave: How many separate pieces of the model each pipeline stage has; 1 is plain 1F1B.
        microbatch: Examples of one pass on one replica.
        recompute: Whether blocks are computed again in the backward pass.
    """

    data: int = 1
    shard: int = 1
    stage: int = 0
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    interleave: int = 1
    microbatch: int = 1
    recompute: bool = False

    @property
    def devices(self) -> int:
        """How many devices it takes."""
        return self.data * self.shard * self.tensor * self.pipeline * self.context

    @property
    def replicas(self) -> int:
        """Into how many parts the batch is dealt."""
        return self.data * self.shard

    @property
    def degrees(self) -> tuple[int, ...]:
        """What stays when only microbatch, interleaving and recomputation are chosen otherwise."""
        return self.data, self.shard, self.stage, self.tensor, self.pipeline, self.context

    def groups(self) -> dict[str, Group]:
        """Returns the devices that talk to one another, by axis; tensor is innermost, pipeline outermost.

        `gradients` are all that hold the same weights or shards of them, `shard` those that hold different shards.
        """
        inner = self.tensor * self.context
        return {
            "tensor": Group(self.tensor, 1),
            "context": Group(self.context, self.tensor),
            "shard": Group(self.context * self.shard, self.tensor),
            "gradients": Group(self.context * self.shard * self.data, self.tensor),
            "data": Group(self.data, inner * self.shard),
            "pipeline": Group(self.pipeline, inner * self.shard * self.data),
        }

    def __str__(self) -> str:
        named = {"tensor": self.tensor, "pipeline": self.pipeline, "context": self.context, "data": self.data}
        parts = [f"{name} {degree}" for name, degree in named.items() if degree > 1]
        if self.stage:
            parts.append(f"ZeRO-{self.stage} over {self.shard * self.context}")
        parts.append(f"microbatch {self.microbatch}")
        parts += [f"{self.interleave} pieces per stage"] * (self.interleave > 1) + ["recomputed"] * self.recompute
        return ", ".join(parts)


@dataclass(frozen=True)
class DeviceMemory:
    """The bytes that the fullest device holds, by what they are for.

    Attributes:
        weights: Parameters, in the type of products.
        gradients: Their gradients, in the same.
        optimizer: Its state, the fp32 weights it updates, and averaged weights.
        activations: What is kept for the backward passes that are still to come.
        workspace: What is being made: one block's activations when recomputed, gathered weights, the largest tensors.
        staging: The copy from which checkpoints are written, which is in the host's memory and not in the device's.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    workspace: float
    staging: float

    @property
    def total(self) -> float:
        """The bytes on the device."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.workspace

    def reason(self, there: float) -> str:
        """Returns in one sentence that this is more than there is, the largest part first."""
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "staging"}
        parts = sorted(held.items(), key=lambda item: -item[1])
        text = ", ".join(f"{name} {_gigabytes(size)}" for name, size in parts if size >= 0.05e9)
        return f"needs {_gigabytes(self.total)} of {_gigabytes(there)}: {text}"


@dataclass(frozen=True)
class StepTime:
    """The seconds of a step, none of them counted twice; communication as far as computing does not hide it."""

    compute: float
    bubble: float
    tensor: float
    context: float
    pipeline: float
    data: float
    update: float

    @property
    def total(self) -> float:
        """The seconds of a step."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Workload:
    """What is to be trained on what.

    Attributes:
        cost: Of one example, traced in the type of products.
        hardware: One of the devices.
        batch_size: Examples per step, over all devices.
        mixed: Whether products run in 16 bits beside fp32 weights.
        averaged: Whether averaged weights are kept.
        efficiency: The share of the peak that products reach.
    """

    cost: Cost
    hardware: Hardware
    batch_size: int
    mixed: bool = True
    averaged: bool = False
    efficiency: float = EFFICIENCY

    @property
    def width(self) -> int:
        """Bytes of a weight and of a gradient while computing."""
        return 2 if self.mixed else 4

    @property
    def speed(self) -> float:
        """The FLOP/s that are assumed of one device."""
        return self.hardware.peak("bf16" if self.mixed else "fp32") * self.efficiency

    @cached_property
    def block(self) -> Part | None:
        """The mean of all blocks; None where there are none."""
        return mean(self.cost.blocks) if self.cost.order else None

    def passes(self, layout: Layout) -> int:
        """Returns how many microbatches each replica computes in a step."""
        return self.batch_size // (layout.replicas * layout.microbatch)

    def state(self, parameters: float, optimizer: float) -> tuple[float, float, float]:
        """Returns the bytes of weights, gradients and optimizer of so many parameters, with fp32 weights and average.

        In mixed precision with Adam these are the 2, 2 and 12 bytes of Rajbhandari et al. 2020, section 3.1.
        """
        kept = 4 * parameters * (self.mixed + self.averaged)
        return self.width * parameters, self.width * parameters, optimizer + kept


def mean(parts: list[Part]) -> Part:
    """Returns a part with the mean figures of some."""
    names = [field.name for field in fields(Part) if field.name != "name"]
    return Part("mean", **{name: round(sum(getattr(part, name) for part in parts) / len(parts)) for name in names})


def sharded(state: tuple[float, float, float], stage: int, degree: int) -> tuple[float, float, float]:
    """Returns what of weights, gradients and optimizer is left on a device at a stage of ZeRO.

    Rajbhandari et al. 2020, section 5 (figure 1).
    """
    weights, gradients, optimizer = state
    return (
        weights / (degree if stage >= 3 else 1),
        gradients / (degree if stage >= 2 else 1),
        optimizer / (degree if stage >= 1 else 1),
    )


def in_flight(rank: int, stages: int, microbatches: int, pieces: int = 1) -> float:
    """Returns how many microbatches' activations a pipeline stage holds at most, in units of all its blocks.

    1F1B holds as many as there are stages from here to the end; interleaved, a first stage holds
    `1 + (stages - 1) / (stages * pieces)` of what all stages together hold of one (Korthikanti et al. 2022, section 4).
    """
    warmup = stages - rank if pieces == 1 else 2 * (stages - rank - 1) + (pieces - 1) * stages + 1
    return min(microbatches * pieces, warmup) / pieces


def bubble(stages: int, microbatches: int, pieces: int = 1) -> float:
    """Returns the idle time of a pipeline over its busy time (Narayanan et al. 2021, section 2.2)."""
    return (stages - 1) / (pieces * microbatches)


def memory(job: Workload, layout: Layout) -> DeviceMemory:
    """Returns what the fullest device holds."""
    ends = {0, layout.pipeline - 1}
    return max((_memory_at(job, layout, rank) for rank in ends), key=lambda found: found.total)


def step_time(job: Workload, layout: Layout) -> StepTime:
    """Returns the time of a step; the slowest pipeline stage sets the pace."""
    count = job.passes(layout)
    busy, tensor, context = (max(times) for times in zip(*_pass_times(job, layout), strict=True))
    pace = busy + tensor + context
    waiting = bubble(layout.pipeline, count, layout.interleave) * count * pace if layout.pipeline > 1 else 0.0
    held = memory(job, layout)
    return StepTime(
        compute=count * busy,
        bubble=waiting,
        tensor=count * tensor,
        context=count * context,
        pipeline=count * sent(job, layout)["pipeline"] / _send_speed(job, layout),
        data=_data_time(job, layout, count, busy),
        update=2 * (held.weights + held.gradients + held.optimizer) / job.hardware.bandwidth,
    )


def sent(job: Workload, layout: Layout) -> dict[str, float]:
    """Returns the bytes that a device sends, by axis: of tensor, context and pipeline per microbatch, of data per step.

    A pipeline stage passes each microbatch on, and its gradient back, once per piece; devices that hold the same send a
    share each, which the receivers gather (Narayanan et al. 2021, section 4.1).
    """
    blocks = _blocks(job, layout)
    block, outside = job.block or Part("none"), max((job.cost.before, job.cost.after), key=_reduced)
    share = layout.microbatch / layout.context
    again = 1 + layout.recompute
    summed = blocks * (block.reduced_forward_bytes * again + block.reduced_backward_bytes) + _reduced(outside)
    passed = blocks * block.ring_bytes / layout.tensor * (2 + again)
    boundary = 2 * layout.interleave * block.boundary_bytes if layout.pipeline > 1 else 0
    return {
        "tensor": all_reduce(summed * share, layout.tensor),
        "context": all_gather(passed * layout.microbatch, layout.context),
        "pipeline": boundary * share / layout.tensor,
        "data": sum(size for size, _ in _data_sends(job, layout)),
    }


def _memory_at(job: Workload, layout: Layout, rank: int) -> DeviceMemory:
    """Returns what a device of one pipeline stage holds."""
    parameters, optimizer = _owned(job, layout, rank)
    whole = job.state(parameters, optimizer)
    weights, gradients, state = sharded(whole, layout.stage, layout.shard * layout.context)
    share = layout.microbatch / layout.context
    count = job.passes(layout)
    block, around = job.block or Part("none"), _around(job, layout, rank)
    kept = block.boundary_bytes if layout.recompute else _local(block, "saved_bytes", layout.tensor)
    one = _blocks(job, layout) * kept + sum(_local(part, "saved_bytes", layout.tensor) for part in around)
    work = _local(block, "saved_bytes", layout.tensor) * layout.recompute
    work += 2 * max(part.largest_bytes for part in (block, *around))
    gathered = max(_local(part, "parameters", layout.tensor) for part in (block, *around)) * job.width
    return DeviceMemory(
        weights=weights,
        gradients=gradients,
        optimizer=state,
        activations=one * share * in_flight(rank, layout.pipeline, count, layout.interleave),
        workspace=work * share + gathered * (2 * (layout.stage >= 3) + (layout.stage >= 2)),
        staging=state + (0 if job.mixed else weights),
    )


def _pass_times(job: Workload, layout: Layout) -> list[tuple[float, float, float]]:
    """Returns for the first and the last stage the seconds of a microbatch: computing, and two waits for others."""
    found = []
    groups, bytes_sent = layout.groups(), sent(job, layout)
    for rank in {0, layout.pipeline - 1}:
        one = _blocks(job, layout) * _busy(job, job.block or Part("none"), layout, layout.recompute)
        one += sum(_busy(job, part, layout, False) for part in _around(job, layout, rank))
        busy = one * layout.microbatch / layout.context
        tensor = bytes_sent["tensor"] / groups["tensor"].bandwidth(job.hardware)
        context = bytes_sent["context"] / groups["context"].bandwidth(job.hardware)
        found.append((busy, tensor, max(0.0, context - busy)))
    return found


def _data_sends(job: Workload, layout: Layout) -> list[tuple[float, Group]]:
    """Returns what a device sends of gradients and weights in a step, and to whom."""
    groups = layout.groups()
    size = job.width * max(_owned(job, layout, rank)[0] for rank in {0, layout.pipeline - 1})
    shards, count = groups["shard"], job.passes(layout)
    if layout.stage == 0:
        return [(all_reduce(size, groups["gradients"].degree), groups["gradients"])]
    scatters, gathers = {1: (1, 1), 2: (count, 1), 3: (count, 2 * count)}[layout.stage]
    within = reduce_scatter(size, shards.degree) * scatters + all_gather(size, shards.degree) * gathers
    return [(within, shards), (all_reduce(size / shards.degree, layout.data), groups["data"])]


def _data_time(job: Workload, layout: Layout, count: int, busy: float) -> float:
    """Returns what of that is not hidden: behind the last backward pass, or behind all passes from ZeRO-2 on."""
    seconds = sum(size / group.bandwidth(job.hardware) for size, group in _data_sends(job, layout))
    hidden = count * busy if layout.stage >= 2 else busy * 2 / 3
    return max(0.0, seconds - hidden)


def _owned(job: Workload, layout: Layout, rank: int) -> tuple[float, float]:
    """Returns the parameters of a stage's device before sharding, and the bytes of their optimizer's state."""
    parameters = optimizer = 0.0
    blocks, around = _blocks(job, layout), _around(job, layout, rank)
    for part, times in [(part, 1.0) for part in around] + ([(job.block, blocks)] if job.block else []):
        local = times * _local(part, "parameters", layout.tensor)
        parameters += local
        optimizer += local * part.optimizer_bytes / max(1, part.parameters)
    if layout.pipeline == 1 and parameters:
        tied = min(job.cost.tied_parameters, job.cost.before.split_parameters) / layout.tensor
        tied += max(0, job.cost.tied_parameters - job.cost.before.split_parameters)
        optimizer -= tied * optimizer / parameters
        parameters -= tied
    return parameters, optimizer


def _around(job: Workload, layout: Layout, rank: int) -> list[Part]:
    """Returns what a stage has besides blocks: the first what is before them, the last what is after."""
    first = [job.cost.before] if rank == 0 else []
    return first + ([job.cost.after] if rank == layout.pipeline - 1 else [])


def _blocks(job: Workload, layout: Layout) -> float:
    return len(job.cost.order) / layout.pipeline


def _busy(job: Workload, part: Part, layout: Layout, recompute: bool) -> float:
    """Returns the seconds of a device for one example of a part, all its tokens: products, then all that moves memory.

    The backward pass is taken to move twice what the forward pass does.
    """
    whole = part.forward_flops * (1 + recompute) + part.backward_flops
    flops = whole * (1 - part.split_share + part.split_share / layout.tensor)
    moved = _local(part, "moved_bytes", layout.tensor) * (3 + recompute)
    return flops / job.speed + moved / job.hardware.bandwidth


def _local(part: Part, name: str, tensor: int) -> float:
    """Returns what of a figure is on one of the devices that tensor parallelism divides it over."""
    divided = getattr(part, f"split_{name}")
    return getattr(part, name) - divided + divided / tensor


def _reduced(part: Part) -> int:
    return part.reduced_forward_bytes + part.reduced_backward_bytes


def _send_speed(job: Workload, layout: Layout) -> float:
    return point_to_point_bandwidth(layout.groups()["pipeline"], job.hardware)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.0f} GB" if size >= 10e9 else f"{size / 1e9:,.1f} GB"


def as_values(found: Any) -> dict[str, Any]:
    """Returns a dataclass's fields, and its total where it has one, as JSON values."""
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    return {**values, "total": found.total} if hasattr(found, "total") else values
