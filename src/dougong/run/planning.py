"""The verb `plan`: what a recipe will take, told before any data is read and with nothing executed.

Knows which questions are asked of a recipe; the answers, the files of `plan/` know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dougong.core import files
from dougong.core.config import Config
from dougong.core.device import choose_device, choose_precision
from dougong.core.errors import UsageError
from dougong.plan.advise import Largest, Lever, Setting, largest_batch, levers, longest_context
from dougong.plan.calibrate import calibration
from dougong.plan.count import build_on_meta, known_model, state_bytes, staying_bytes, task_of
from dougong.plan.diagram import diagram
from dougong.plan.hardware import HARDWARE, Hardware, parse_devices
from dougong.plan.history import Interval, interval
from dougong.plan.inference import Inference, inference
from dougong.plan.machine import machine_name
from dougong.plan.memory import Memory
from dougong.plan.placement import Layouts, searched, workload
from dougong.plan.scaling import bill, optimum, tokens_needed
from dougong.plan.tables import Calibration
from dougong.plan.time import Estimate, step_time
from dougong.plan.trace import PHASES, trace_loss
from dougong.plan.tree import Block, tree
from dougong.recipe import Recipe, load, name_of
from dougong.recipe.sources import Source
from dougong.run.measuring import measured_here
from dougong.run.memory import memory_of, staging_of
from dougong.train.adapter.lora import all_used
from dougong.train.rates import freeze

TABLE = ("a100-80gb", "h100", "h200", "b200")


@dataclass(frozen=True)
class Here:
    """A step on this machine.

    Attributes:
        machine: Which it is.
        device: Where it would run.
        dtype: The type of products.
        memory: The peak of a step, by what it is for.
        memory_interval: Where measured over predicted will lie.
        there: The bytes of memory; None where that cannot be told.
        time: Seconds of a step; `low` and `high` as earlier runs on this machine say.
        time_interval: Where measured over predicted will lie.
        calibrated: Whether this machine was measured for it (`dougong plan --calibrate`).
    """

    machine: str
    device: str
    dtype: str
    memory: Memory
    memory_interval: Interval
    there: int | None
    time: Estimate
    time_interval: Interval
    calibrated: bool


@dataclass(frozen=True)
class OnDevice:
    """The whole training on one accelerator of a kind, by its data sheet.

    Attributes:
        name: Which.
        fits: Whether a step fits its memory.
        bytes: The peak of a step, in the type of products.
        seconds: Of a step.
        hours: Of the training.
        dollars: At the assumed price.
        kilowatt_hours: At the most power it takes.
    """

    name: str
    fits: bool
    bytes: int
    seconds: float
    hours: float
    dollars: float
    kilowatt_hours: float


@dataclass(frozen=True)
class Advice:
    """What fits this machine's memory, and what each change buys."""

    batch: Largest
    context: Largest | None
    levers: tuple[Lever, ...]


@dataclass(frozen=True)
class Plan:
    """What a recipe will take.

    Attributes:
        recipe: Its name.
        parameters: Learnable numbers, those of an adapter among them.
        trained: Those of them that train.
        tree: The model as a tree of blocks.
        flops_per_sample: Operations of one example by phase: `forward`, `backward`, `recompute`.
        flops_per_step: The same of a step, without what is computed again.
        uncounted: Operations that may have products which no formula counts.
        state_bytes: Weights, gradients and the optimizer's state.
        steps: Updates of the training.
        batch_size: Examples of each.
        items: What the whole training takes in, in items of the task.
        item: What the task's items are called.
        inference: What using the model takes, in fp32 and bf16.
        here: A step on this machine; None where its state alone does not fit, or other devices are asked for.
        devices: The training on one device of a kind each; empty where other devices are asked for.
        layouts: What becomes of it over many devices, where they are asked for.
        scaling: The compute-optimal size and tokens; of language models alone that are trained whole.
        advice: What fits, where it is asked for.
    """

    recipe: str
    parameters: int
    trained: int
    tree: Block
    flops_per_sample: Mapping[str, int]
    flops_per_step: int
    uncounted: tuple[str, ...]
    state_bytes: int
    steps: int
    batch_size: int
    items: int
    item: str
    inference: tuple[Inference, ...]
    here: Here | None = None
    devices: tuple[OnDevice, ...] = ()
    layouts: Layouts | None = None
    scaling: Mapping[str, Any] | None = None
    advice: Advice | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        values = {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name != "layouts"
        }
        return {**values, "layouts": self.layouts.as_dict() if self.layouts else None}


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if isinstance(value, Memory):
        return {**dataclasses.asdict(value), "peak": value.peak}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (tuple, list)) else value


def plan(
    source: Source,
    *,
    devices: str | None = None,
    advise: bool = False,
    overrides: Sequence[str] = (),
    **options: Any,
) -> Plan:
    """Returns what a recipe will take: `plan("gpt3-175b", devices="1024xa100-80gb").layouts.best`.

    Args:
        source: A recipe's name, a file, a run folder, inline YAML, values, or a recipe.
        devices: How many of which accelerator, as `8xh100`; absent: this machine, and one of each kind.
        advise: Also search for the largest batch and the longest context, and what each lever buys (up to a minute).
        overrides: `path=value` texts, as `--set` takes them.
        options: Values by path; a name without a section means `train.<name>`.

    Raises:
        RecipeError: The recipe has faults.
        UsageError: A number of the model or the batch is decided by the data, or there is no such device; or an adapter
            is to be planned over many.
    """
    asked = None if devices is None else _devices(devices)
    recipe = load(source, overrides, options)
    batch_size = recipe.train.batch_size
    if not isinstance(batch_size, int):
        raise UsageError("train.batch_size must be a number to plan, but is all of the data. Set train.batch_size.")
    model = known_model(recipe)
    if asked and recipe.adapter is not None:
        raise UsageError(
            "devices has no effect on an adapter: what is planned over many is the training of all weights."
        )
    if asked:
        return _over(recipe, model, name_of(source), *asked)
    network, task = build_on_meta(recipe.trained(model)), task_of(recipe, model)
    freeze(network, recipe.train)
    with all_used(network):
        trace = trace_loss(network, task, task.example_batch(2, "meta"), recipe.train.recompute)
    found = Plan(
        recipe=name_of(source),
        tree=tree(network, {name: flops // 2 for name, flops in trace.flops_by_block().items()}),
        flops_per_sample={phase: trace.flops(phase) // 2 for phase in PHASES if phase != "update"},
        flops_per_step=trace.flops("forward", "backward") // 2 * batch_size,
        uncounted=tuple(trace.unknown),
        inference=tuple(inference(model, task, dtype) for dtype in (torch.float32, torch.bfloat16)),
        state_bytes=state_bytes(recipe),
        trained=sum(p.numel() for p in network.parameters() if p.requires_grad),
        **_facts(recipe, model, sum(p.numel() for p in network.parameters())),
    )
    device = choose_device(recipe.train.device)
    there = memory_of(device)
    if there is not None and found.state_bytes > there:
        return found
    setting = _setting(recipe, model)
    here = _here(recipe, setting, device)
    found = dataclasses.replace(found, here=here, devices=tuple(_table(recipe, setting)))
    if not advise:
        return found
    fitting = there if there is not None else here.memory.peak
    return dataclasses.replace(found, advice=_advice(_typed(setting, here.dtype), fitting))


def _setting(recipe: Recipe, model: Any) -> Setting:
    task: Any = recipe.task
    return Setting(
        recipe.trained(model), task.build, recipe.train, torch.float32, getattr(recipe.data, "seq_len", None)
    )


def _devices(text: str) -> tuple[int, Hardware]:
    count, hardware = parse_devices(text)
    if hardware is None:
        raise UsageError(f"devices must name a kind, but are {text!r}. Try {text}xh100.")
    return count, hardware


def _facts(recipe: Recipe, model: Config, parameters: int) -> dict[str, Any]:
    """Returns what is known of a training without running a step of it."""
    train = recipe.train
    assert isinstance(train.batch_size, int)
    task = task_of(recipe, model)
    counted = getattr(task, "per_example", 1)
    length = _length(recipe, model) if task.item == "tokens" else counted  # type: ignore[attr-defined]
    items = train.steps * train.batch_size * length
    scaling = None
    if task.item == "tokens" and recipe.adapter is None:  # type: ignore[attr-defined]
        best = optimum(6.0 * parameters * items)
        scaling = {"tokens": items, "tokens_needed": tokens_needed(parameters), "optimum": best.as_dict()}
    return {
        "parameters": parameters,
        "steps": train.steps,
        "batch_size": train.batch_size,
        "items": items,
        "item": task.item,  # type: ignore[attr-defined]
        "scaling": scaling,
    }


def _length(recipe: Recipe, model: Any) -> int:
    return getattr(recipe.data, "seq_len", None) or model.max_seq_len


def _over(recipe: Recipe, model: Config, name: str, count: int, hardware: Hardware) -> Plan:
    """Returns the plan over many devices: from one traced block of each kind, which takes no time for any size."""
    job, train = workload(recipe, hardware), recipe.train
    cost = job.cost
    parts = {phase: cost.total(f"{phase}_flops") for phase in ("forward", "backward")}
    again = cost.flops(recompute=True) - cost.flops() if train.recompute else 0
    assert isinstance(train.batch_size, int)
    return Plan(
        recipe=name,
        tree=tree(build_on_meta(model), {}),
        flops_per_sample={**parts, "recompute": again},
        flops_per_step=cost.flops() * train.batch_size,
        uncounted=cost.unknown,
        inference=(),
        trained=cost.parameters,
        layouts=searched(job, count),
        state_bytes=8 * cost.parameters + cost.total("optimizer_bytes"),
        **_facts(recipe, model, cost.parameters),
    )


def _typed(setting: Setting, dtype: str) -> Setting:
    return dataclasses.replace(setting, dtype=getattr(torch, dtype))


def _here(recipe: Recipe, setting: Setting, device: torch.device) -> Here:
    train = recipe.train
    assert isinstance(train.batch_size, int)
    dtype = choose_precision(train.precision, device).dtype
    setting = dataclasses.replace(setting, dtype=dtype)
    memory = setting.memory(train.batch_size)
    memory = dataclasses.replace(memory, staging=staging_of(train, memory, device, staying_bytes(setting.model)))
    known = calibration() if device.type == "cpu" else None
    family = recipe.model.name  # type: ignore[attr-defined]
    of_time = interval("seconds", family)
    seconds = step_time(setting.trace(train.batch_size), known or measured_here(device))
    if known:
        low, high = seconds.middle * of_time.low, seconds.middle * of_time.high
        seconds = Estimate(low, seconds.middle * of_time.middle, high, seconds.parts)
    return Here(
        machine=machine_name(),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        memory=memory,
        memory_interval=interval("memory", family),
        there=memory_of(device),
        time=seconds,
        time_interval=of_time,
        calibrated=known is not None,
    )


def _table(recipe: Recipe, setting: Setting) -> Iterator[OnDevice]:
    """Yields the training on one accelerator of each kind, in bf16 unless the recipe asks for fp32."""
    train = recipe.train
    assert isinstance(train.batch_size, int)
    setting = dataclasses.replace(setting, dtype=torch.float32 if train.precision == "fp32" else torch.bfloat16)
    peak, trace = setting.memory(train.batch_size).peak, setting.trace(train.batch_size)
    for name in TABLE:
        device = HARDWARE[name]
        seconds = step_time(trace, device).middle
        cost = bill(seconds * train.steps, 1, device)
        fits = peak <= device.memory_bytes
        yield OnDevice(name, fits, peak, seconds, cost.seconds / 3600, cost.dollars, cost.kilowatt_hours)


def _advice(setting: Setting, there: float | int) -> Advice:
    train = setting.train
    assert isinstance(train.batch_size, int)
    piece = train.microbatch_size or train.batch_size
    most = largest_batch(setting, there)
    model: Any = setting.model
    long = model.takes("max_seq_len") and model.max_seq_len is not None
    context = longest_context(setting, there, piece) if long else None
    return Advice(most, context, tuple(levers(setting, there, train.batch_size, most.value)))


def calibrated(seconds: float = 20.0) -> Calibration:
    """Measures this machine for plans, and keeps what is found."""
    from dougong.plan.calibrate import calibrate

    return calibrate(seconds)


def draw(source: Source, path: str | Path, *, overrides: Sequence[str] = (), **options: Any) -> Path:
    """Draws the architecture of a recipe's model into an SVG file, and returns its path.

    Raises:
        UsageError: The file's name does not end in .svg, or a number of the model is decided by the data.
        ResourceError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".svg":
        raise UsageError(f"a diagram's file must end in .svg, but is {path}. Try {path.with_suffix('.svg')}.")
    recipe = load(source, overrides, options)
    model = known_model(recipe)
    drawn = diagram(model, task_of(recipe, model), name_of(source))
    with files.explained(path, "written"):
        files.write_whole(path, drawn)
    return path
