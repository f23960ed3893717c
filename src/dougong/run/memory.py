"""Memory: whether a run can fit this machine at all, what a step of it will take, and what to say when it is full.

Knows how much memory there is and what was predicted; what a step takes, `plan/memory.py` knows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

from dougong.core import log
from dougong.core.contracts import Batch
from dougong.core.device import choose_device, choose_precision
from dougong.core.errors import DougongError, ResourceError, is_memory
from dougong.plan.count import state_bytes, staying_bytes
from dougong.plan.memory import Memory, enlarged, step_memory
from dougong.recipe import Recipe
from dougong.run.parts import Parts
from dougong.train.config import TrainConfig
from dougong.train.step import Report


def require_memory(recipe: Recipe) -> None:
    """Sees that weights, gradients and the optimizer's state fit the device's memory.

    Raises:
        ResourceError: They do not.
    """
    needed, there = state_bytes(recipe), memory_of(choose_device(recipe.train.device))
    if there is not None and needed > there:
        raise ResourceError(
            f"the memory must hold {needed / 1e9:,.1f} GB of weights, gradients and optimizer state, but has "
            f"{there / 1e9:,.1f} GB. Take a smaller model, or an optimizer with less state (adafactor, sgd).",
            name="E-MEMORY",
        )


def memory_of(device: torch.device) -> int | None:
    """Returns the bytes of memory that a process may have on a device, or None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return physical if limit == resource.RLIM_INFINITY else min(physical, limit)


def predicted_memory(parts: Parts) -> Memory:
    """Returns the peak memory of a step of the recipe at its largest batch, and saving; warns if there is less."""
    train = parts.recipe.train
    device = choose_device(train.device)
    kind = device if device.type == "cuda" else torch.device("cpu")  # of other devices' kernels too little is known
    batch = largest_batch(parts, kind)
    dtype = choose_precision(train.precision, device).dtype
    found = step_memory(parts.network, parts.task, batch, train, dtype)
    found = dataclasses.replace(found, staging=staging_of(train, found, device, staying_bytes(parts.network)))
    there = memory_of(device)
    if there is not None and found.peak > there:
        log.warn(f"a step will take {found}, but there are {there / 1e6:,.0f} MB. {_knobs(parts.recipe)}")
    return found


def largest_batch(parts: Parts, device: torch.device) -> Batch:
    """Returns a batch as large as any of the training: its longest example, as often as the largest step has some."""
    dataset = parts.data.train[0][0]
    batches = parts.batches()
    longest = dataset[dataset.longest] if hasattr(dataset, "longest") else batches.examples[0]
    return enlarged(batches.collate([longest], [0]).to(device), parts.sizes().sizes[-1])


def staging_of(train: TrainConfig, found: Memory, device: torch.device, staying: int = 0) -> int:
    """Returns the bytes of the copy from which checkpoints are written, where it is in the memory of training.

    Args:
        train: Says whether there is one.
        found: What a step takes.
        device: Where it is trained.
        staying: The bytes of the weights that are not in checkpoints.
    """
    copied = train.checkpoint.asynchronous and 0 < train.checkpoint.every < train.steps
    return found.weights - staying + found.optimizer + found.average if copied and device.type == "cpu" else 0


class MemoryWatch:
    """While in this context, a memory that is full is told of with the step and the prediction; it hears each step."""

    def __init__(self, parts: Parts):
        self.recipe, self.step = parts.recipe, 0
        self.predicted = _predicted(parts)
        held = state_bytes(parts.recipe) / 1e6
        self.estimate = (
            str(self.predicted)
            if self.predicted
            else (f"{held:,.0f} MB of weights, gradients and optimizer state, and activations on top")
        )

    def figures(self) -> dict[str, int]:
        """Returns the peak of a step by the name of `plan.json`, without the copy that checkpoints are written from."""
        return {"memory_bytes": self.predicted.peak - self.predicted.staging} if self.predicted else {}

    def observe(self, report: Report) -> None:
        """Takes note of a step that is done."""
        self.step = report.step

    def __enter__(self) -> MemoryWatch:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not is_memory(error):
            return
        when = f"step {self.step + 1}" if self.step else "before the first step was done"
        raise ResourceError(
            f"{when}: the memory must hold about {self.estimate}, but is full ({_first_line(error)}). "
            f"{_knobs(self.recipe)} Checkpoints that were saved are whole.",
            name="E-MEMORY",
        ) from error


@contextlib.contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Within this context, a memory that is full is told of with what the weights of a model folder take.

    Raises:
        ResourceError: It is.
    """
    try:
        yield
    except Exception as error:
        if not is_memory(error):
            raise
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        raise ResourceError(
            f"the memory must hold the model of {folder}, whose weights have {size / 1e6:,.0f} MB on the disk, but is "
            f"full ({_first_line(error)}). End what else runs here, take a smaller model, or one with fewer bits "
            "(--precision bf16).",
            name="E-MEMORY",
        ) from error


def _predicted(parts: Parts) -> Memory | None:
    """Returns the prediction; None of a model that cannot be run without numbers."""
    try:
        return predicted_memory(parts)
    except Exception as error:  # a prediction is no condition: the run may go on without one
        if isinstance(error, DougongError):
            raise
        log.warn(f"the memory of a step could not be predicted ({type(error).__name__}: {_first_line(error)})")
        return None


def _knobs(recipe: Recipe) -> str:
    """Returns three things that make a step take less, of those that the recipe does not use yet."""
    train = recipe.train
    size = train.microbatch_size or train.batch_size
    advice = []
    if size != 1:
        half = f"={size // 2}" if isinstance(size, int) else ""
        advice.append(f"lower train.microbatch_size (--set train.microbatch_size{half or '=8'})")
    if not train.recompute:
        advice.append("recompute activations (--set train.recompute=true)")
    advice.append("shorten the context (--set data.seq_len)")
    advice.append("take a smaller model, or an optimizer with less state (adafactor)")
    text = ", ".join(advice[:2]) + f", or {advice[2]}"
    return f"{text[0].upper()}{text[1:]}."


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__)[:200]
