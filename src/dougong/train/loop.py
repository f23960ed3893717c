"""The one training loop: steps, evaluations, checkpoints and reports, in the order in which they are written here.

Knows state, task and batches through their contracts; knows no model, dataset, recipe or command line.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from dougong.core import log
from dougong.core.contracts import Batch, Task
from dougong.core.device import choose_device, choose_precision, matmul_peak
from dougong.core.errors import Preempted
from dougong.core.every import Every
from dougong.core.heap import keep_freed_memory
from dougong.core.injection import strike
from dougong.data.loader import BatchSizes
from dougong.train.blocks import choose_compile, prepared_blocks
from dougong.train.checkpointer import Checkpointer
from dougong.train.config import TrainConfig
from dougong.train.evaluate import Evaluator
from dougong.train.interrupt import Interruption
from dougong.train.nonfinite import NonFiniteStep, require_finite_weights
from dougong.train.profile import Profiler
from dougong.train.report import Recorder, versions
from dougong.train.resume import Resume, resume_of
from dougong.train.rewind import Rewinder
from dougong.train.state import State
from dougong.train.step import Report, optimizer_step


@runtime_checkable
class Batches(Protocol):
    """The training batches: batch `k` is a function of `k`."""

    def __getitem__(self, number: int) -> Batch: ...


@runtime_checkable
class Attachment(Protocol):
    """Something that is asked after each step, such as a sampler.

    It looks at the model inside `with state.shown():`, and leaves the model in training mode.
    """

    def maybe_run(self, state: State, report: Report) -> None:
        """Does its work, if it is due."""


@dataclass(frozen=True)
class Job:
    """All that one call of `fit` needs.

    Attributes:
        config: How to train.
        model: Initialised, on any device; `fit` moves it and leaves the final weights in it.
        task: The objective.
        batches: The training batches. If it has `prefetching(start)`, a context manager, the loop enters it.
        folder: The run folder, which exists; the caller holds its lock.
        validation: Gives a fresh iterator over the validation batches, in order; None skips evaluation.
        resume: Go on from the newest checkpoint in the folder, if there is one; True is with nothing allowed.
        flops_per_sample: Floating point operations of forward and backward over one sample, for the MFU.
        facts: What the report shows beside the curves, by name; for people.
        identity: What must be equal when resuming, by name (model, data fingerprint, ...); JSON values.
        observers: Called with the report of every step. They only read.
        attachments: Asked after each step, before the observers.
    """

    config: TrainConfig
    model: nn.Module
    task: Task
    batches: Batches
    folder: Path
    validation: Callable[[], Iterable[Batch]] | None = None
    resume: Resume | bool | None = None
    flops_per_sample: float | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    observers: Sequence[Callable[[Report], None]] = ()
    attachments: Sequence[Attachment] = ()


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        steps: Updates done, over all resumptions.
        reason: Why it ended: "done" or "early stopping".
        last: The figures of the last evaluation, by name; empty without validation.
        best: The figures of the evaluation with the lowest loss.
        seconds: Of this call.
    """

    steps: int
    reason: str
    last: Mapping[str, float]
    best: Mapping[str, float]
    seconds: float


def fit(job: Job) -> Outcome:
    """Trains until the last step, or until early stopping; leaves the final weights in the model.

    The final weights are the best evaluated ones with early stopping, the averaged ones with EMA. Writes `run.jsonl`,
    the trackers' files and the checkpoints into the run folder; `page.write_page` makes `report.html` of them.

    Raises:
        Preempted: SIGINT, SIGTERM or SIGUSR1 arrived; the state is saved.
        NonFiniteError: The loss or a gradient is NaN or infinite, and the run does not skip or go back for it, or has
            done so too often; no weight was changed by it.
        ResourceError: The disk is full; older checkpoints are intact.
        UsageError: A resumed run was changed in what must be equal.
    """
    begin, config = time.perf_counter(), job.config
    keep_freed_memory()
    device = choose_device(config.device)
    checkpointer = Checkpointer(config, job.folder, resume_of(job.resume), job.identity)
    decided = checkpointer.find()
    precision = choose_precision(config.precision, device, decided.get("precision"))
    state = State.create(config, job.model.to(device), precision.dtype)
    checkpointer.open(state)
    meter = Meter(job, state)
    compiled, reason = choose_compile(config, job.model, meter.predicted_seconds(state), decided.get("compile"))
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption(config.grace))
        item = getattr(job.task, "item", "items")
        recorder = stack.enter_context(Recorder(job.folder, config.steps, config.log.every, config.log.trackers, item))
        notes = {"precision": f"{str(precision.dtype).removeprefix('torch.')}: {precision.reason}"}
        notes |= {"compile": f"{'yes' if compiled else 'no'}: {reason}", "device": str(device)}
        notes |= {"guarantee": checkpointer.settle(state, compiled)}
        _say_start(recorder, job, state, notes)
        checkpointer.note(state, recorder)
        stack.callback(checkpointer.close)
        stack.enter_context(prepared_blocks(job.model, compiled, config.recompute))
        stack.enter_context(_prefetching(job.batches, state.batch_number))
        profiler = stack.enter_context(Profiler(config.profile, job.folder / "profile.json"))
        evaluator = Evaluator(
            Every(config.evaluate.every),
            job.task,
            job.validation,
            config.evaluate.batches,
            lambda: interruption.asked is None,
        )
        rewinder = Rewinder(config, checkpointer, recorder)
        _run(job, state, _Parts(interruption, recorder, profiler, evaluator, checkpointer, meter, rewinder))
    state.place_final_weights()
    reason = "early stopping" if state.stopping.stopped else "done"
    return Outcome(state.step, reason, state.last, state.best, time.perf_counter() - begin)


@dataclass(frozen=True)
class _Parts:
    """What stands beside the step in the loop."""

    interruption: Interruption
    recorder: Recorder
    profiler: Profiler
    evaluator: Evaluator
    checkpointer: Checkpointer
    meter: Meter
    rewinder: Rewinder


def _run(job: Job, state: State, parts: _Parts) -> None:
    """The loop. An evaluation that an interruption cut short is made up for before the next step."""
    job.model.train()
    _make_up_evaluation(state, parts)
    while not state.done:
        report = _step(job, state, parts)
        if report is None:
            _make_up_evaluation(state, parts)
            continue
        report = replace(report, evaluation=parts.evaluator.maybe_run(state))
        parts.recorder.write(report)
        for attachment in job.attachments:
            attachment.maybe_run(state, report)
        for observer in job.observers:
            observer(report)
        strike("step", state.step)
        parts.checkpointer.maybe_save(state, parts.recorder)
        if parts.interruption.asked is not None:
            _save_and_leave(state, parts)
    parts.checkpointer.save(state, parts.recorder)
    reason = "early stopping" if state.stopping.stopped else "done"
    parts.recorder.event("end", state.step, reason=reason, **_measured_bytes(state))


def _step(job: Job, state: State, parts: _Parts) -> Report | None:
    """Does a step and returns its report, timed; None where the run went back to a checkpoint instead.

    Raises:
        NonFiniteError: A number was not finite, or a loss was a spike, and the run is not to go on from there.
    """
    number = state.batch_number
    parts.meter.start()
    batch = job.batches[number]
    parts.meter.got_batch()
    try:
        report = optimizer_step(state, batch, job.task)
        if Every(job.config.checkpoint.every).due(state.step, job.config.steps):
            require_finite_weights(state)
    except NonFiniteStep as error:
        parts.rewinder.after_nonfinite(state, number, error)
        return None
    report = parts.meter.timed(report, len(batch))
    parts.profiler.step()
    if report.reason:
        log.warn(f"{report.reason} The update is left out, as train.on_nonfinite says.")
    if parts.rewinder.after_spike(state, number, report):
        return None
    return report


def _make_up_evaluation(state: State, parts: _Parts) -> None:
    if (figures := parts.evaluator.maybe_run(state)) is not None:
        parts.recorder.event("evaluation", state.step, evaluation=figures)


def _save_and_leave(state: State, parts: _Parts) -> None:
    """Saves, and ends the run as one that can be gone on with.

    Raises:
        Preempted: Always.
        NonFiniteError: There is nothing that may be saved.
    """
    require_finite_weights(state)
    parts.checkpointer.save(state, parts.recorder)
    raise Preempted(
        f"{parts.interruption.asked} asked the run to stop; its state is saved at step {state.step}. "
        "The same command with --resume goes on from there."
    )


def _measured_bytes(state: State) -> dict[str, int]:
    """Returns what the weights and the optimizer's state really take, and the most memory the process had."""
    sizes = {
        name: sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        for name, tensors in {
            "weight_bytes": state.parameters.values(),
            "optimizer_bytes": state.tensors()["optimizer"].values(),
        }.items()
    }
    if state.device.type == "cuda":
        return {**sizes, "peak_memory_bytes": torch.cuda.max_memory_allocated(state.device)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**sizes, "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024}


class Meter:
    """The clock of the loop: seconds, items per second, and the share of the machine's measured peak."""

    def __init__(self, job: Job, state: State):
        self.flops, self.batch_size, self.steps = job.flops_per_sample, job.config.batch_size, job.config.steps
        self.peak = matmul_peak(state.device, state.dtype) if self.flops else None
        self._start = self._batch = 0.0

    def start(self) -> None:
        """A step begins."""
        self._start = time.perf_counter()

    def got_batch(self) -> None:
        """Its batch is there."""
        self._batch = time.perf_counter()

    def timed(self, report: Report, samples: int) -> Report:
        """Returns the report of the step that has just ended, with its timings."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        return replace(
            report,
            seconds=seconds,
            data_seconds=self._batch - self._start,
            items_per_second=report.items / seconds,
            mfu=None if self.peak is None or self.flops is None else self.flops * samples / seconds / self.peak,
        )

    def predicted_seconds(self, state: State) -> float | None:
        """Returns how long the remaining steps compute at half of the peak, if that can be told."""
        if self.peak is None or self.flops is None or not isinstance(self.batch_size, int):
            return None
        return (self.steps - state.step) * self.batch_size * self.flops / (self.peak / 2)


def _prefetching(batches: Batches, start: int) -> contextlib.AbstractContextManager[Any]:
    ahead = getattr(batches, "prefetching", None)
    return contextlib.nullcontext() if ahead is None else ahead(start)


def _say_start(recorder: Recorder, job: Job, state: State, notes: Mapping[str, str]) -> None:
    count = sum(p.numel() for p in state.parameters.values())
    recorder.event("start", state.step, parameters=count, versions=versions(), **notes, facts=dict(job.facts))
    went_on = f", from step {state.step:,}" if state.step else ""
    log.say(f"training {count:,} parameters for {job.config.steps:,} steps{went_on}")
    for name, note in notes.items():
        log.say(f"{name}: {note}")


def batch_sizes(config: TrainConfig, examples: int) -> BatchSizes:
    """Returns how many examples each step takes.

    Args:
        examples: How many training examples there are, for `batch_size: all`.
    """
    if config.batch_size == "all":
        return BatchSizes.constant(examples)
    if config.batch_ramp is not None:
        return BatchSizes.ramp(config.batch_ramp.start, config.batch_size, config.batch_ramp.steps)
    return BatchSizes.constant(config.batch_size)
