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

from dougong.checkpoint.store import Store, checkpoint_bytes, load
from dougong.core import log
from dougong.core.contracts import Batch, Task
from dougong.core.device import choose_device, choose_precision, matmul_peak
from dougong.core.errors import Preempted, UsageError
from dougong.core.every import Every
from dougong.data.loader import BatchSizes
from dougong.train.blocks import choose_compile, prepared_blocks
from dougong.train.config import TrainConfig
from dougong.train.evaluate import Evaluator
from dougong.train.interrupt import Interruption
from dougong.train.profile import Profiler
from dougong.train.report import Recorder, versions
from dougong.train.state import State
from dougong.train.step import Report, optimizer_step

MAY_CHANGE = (
    "steps", "optimizer.lr", "device", "compile", "recompute", "microbatch_size", "max_skipped_steps", "checkpoint",
    "evaluate", "log", "samples", "profile",
)  # fmt: skip


@runtime_checkable
class Batches(Protocol):
    """The training batches: batch `k` is a function of `k`."""

    def __getitem__(self, step: int) -> Batch: ...


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
        resume: Go on from the newest whole checkpoint in the folder, if there is one.
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
    resume: bool = False
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
        Preempted: SIGINT or SIGTERM arrived; the state is saved.
        NonFiniteError: The loss or a gradient is NaN or infinite; no weight was changed by it.
        ResourceError: The disk is full; older checkpoints are intact.
        UsageError: A resumed run was changed in what must be equal.
    """
    begin, config = time.perf_counter(), job.config
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    state = State.create(config, job.model.to(device), precision.dtype)
    checkpointer = Checkpointer(job, state)
    checkpointer.open(state)
    meter = Meter(job, state)
    compiled, reason = choose_compile(config, job.model, meter.predicted_seconds(state))
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        item = getattr(job.task, "item", "items")
        recorder = stack.enter_context(Recorder(job.folder, config.steps, config.log.every, config.log.trackers, item))
        notes = {"precision": f"{str(precision.dtype).removeprefix('torch.')}: {precision.reason}"}
        notes |= {"compile": f"{'yes' if compiled else 'no'}: {reason}", "device": str(device)}
        _say_start(recorder, job, state, notes)
        stack.enter_context(prepared_blocks(job.model, compiled, config.recompute))
        stack.enter_context(_prefetching(job.batches, state.step))
        profiler = stack.enter_context(Profiler(config.profile, job.folder / "profile.json"))
        evaluator = Evaluator(
            Every(config.evaluate.every),
            job.task,
            job.validation,
            config.evaluate.batches,
            lambda: interruption.asked is None,
        )
        _run(job, state, _Parts(interruption, recorder, profiler, evaluator, checkpointer, meter))
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


def _run(job: Job, state: State, parts: _Parts) -> None:
    """The loop. An evaluation that an interruption cut short is made up for before the first step."""
    job.model.train()
    if (figures := parts.evaluator.maybe_run(state)) is not None:
        parts.recorder.event("evaluation", state.step, evaluation=figures)
    while not state.done:
        parts.meter.start()
        batch = job.batches[state.step]
        parts.meter.got_batch()
        report = parts.meter.timed(optimizer_step(state, batch, job.task), len(batch))
        parts.profiler.step()
        report = replace(report, evaluation=parts.evaluator.maybe_run(state))
        parts.recorder.write(report)
        for attachment in job.attachments:
            attachment.maybe_run(state, report)
        for observer in job.observers:
            observer(report)
        parts.checkpointer.maybe_save(state, parts.recorder)
        if parts.interruption.asked is not None:
            parts.checkpointer.save(state, parts.recorder)
            raise Preempted(
                f"{parts.interruption.asked} asked the run to stop; its state is saved at step {state.step}. "
                "The same command with --resume goes on from there."
            )
    parts.checkpointer.save(state, parts.recorder)
    reason = "early stopping" if state.stopping.stopped else "done"
    parts.recorder.event("end", state.step, reason=reason, **_measured_bytes(state))


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


class Checkpointer:
    """Saves the state at every multiple of some steps, at the end, and on request; once per step.

    Args:
        job: Gives the folder, the config and what must be equal when resuming.
        state: Gives the size of a checkpoint, which must fit on the disk before the first step.
    """

    def __init__(self, job: Job, state: State):
        self.job, config = job, job.config
        self.store = Store(job.folder / "checkpoints", config.checkpoint.keep)
        self.every = Every(config.checkpoint.every)
        self.saved = 0
        self.identity = {
            "train": config.model_dump(mode="json"),
            "precision": str(state.dtype).removeprefix("torch."),
            **job.identity,
        }

    def open(self, state: State) -> None:
        """Clears what a cut-off save left behind and, if the job resumes, loads the newest whole checkpoint.

        Raises:
            UsageError: There are checkpoints and the job does not resume; or what must be equal is not.
            FileError: The checkpoint was changed after it was written.
            ResourceError: The next checkpoint would not fit on the disk.
        """
        self.store.clean()
        newest = self.store.newest()
        if newest is not None and not self.job.resume:
            raise UsageError(
                f"{self.job.folder} must be a new run folder, but holds {newest.name}. "
                "Resume that run, or choose another folder.",
                name="E-EXISTS",
            )
        if newest is not None:
            checkpoint = load(newest)
            self._require_same(checkpoint.scalars["identity"])
            state.load(checkpoint.tensors, checkpoint.scalars)
            self.saved = state.step
        self.store.require_space(_expected_bytes(state))

    def maybe_save(self, state: State, recorder: Recorder) -> None:
        """Saves if it is due."""
        if self.every.due(state.step, state.config.steps):
            self.save(state, recorder)

    def save(self, state: State, recorder: Recorder) -> None:
        """Saves the state of this step, unless it is saved. The steps are brought to `run.jsonl` first."""
        if self.saved == state.step:
            return
        recorder.flush(sync=True)
        self.store.save(state.step, state.tensors(), {**state.scalars(), "identity": self.identity})
        self.saved = state.step

    def _require_same(self, before: Mapping[str, Any]) -> None:
        changes = _changes(before, self.identity)
        for name, (old, new) in changes.items():
            if _may_change(name):
                log.say(f"{name} was {old} and is now {new}")
        refused = {name: pair for name, pair in changes.items() if not _may_change(name)}
        if refused:
            table = "".join(f"\n  {name}: was {old}, is {new}" for name, (old, new) in refused.items())
            raise UsageError(
                f"a resumed run must be the one that was begun, but differs in {len(refused)} of its options:{table}\n"
                "Undo the changes, or start a new run.",
                name="E-CHANGED",
            )


def _may_change(name: str) -> bool:
    option = name.removeprefix("train.")
    return option != name and any(option == may or option.startswith(may + ".") for may in MAY_CHANGE)


def _changes(before: Any, now: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Returns what differs between two nested values, by dotted path."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = [*before, *(name for name in now if name not in before)]
        found = [_changes(before.get(n), now.get(n), f"{path}.{n}" if path else n) for n in names]
        return {name: pair for inner in found for name, pair in inner.items()}
    before, now = (list(value) if isinstance(value, tuple) else value for value in (before, now))
    return {} if before == now else {path: (before, now)}


def _expected_bytes(state: State) -> int:
    """Returns the bytes of a checkpoint, before the optimizer has a state."""
    moments = {"sgd": 1, "adam": 2, "adamw": 2, "adafactor": 0, "muon": 2}[state.config.optimizer.name]
    if state.config.optimizer.name == "sgd" and not state.config.optimizer.momentum:
        moments = 0
    copies = moments + (state.config.early_stopping is not None)
    tensors = state.tensors()
    return checkpoint_bytes({**tensors, "optimizer": {}, "best": {}}) + copies * sum(
        p.numel() * p.element_size() for p in state.parameters.values()
    )


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
