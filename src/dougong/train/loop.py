"""The one training loop: steps, evaluations, checkpoints and reports, in the order in which they are written here.

Knows state, task and batches through their contracts; knows no model, dataset, recipe or command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from dougong.core.contracts import Batch, Task
from dougong.train.config import TrainConfig
from dougong.train.state import State
from dougong.train.step import Report


class Batches(Protocol):
    """The training batches: batch `k` is a function of `k`."""

    def __getitem__(self, step: int) -> Batch: ...


class Attachment(Protocol):
    """Something that is asked after each step, such as a sampler."""

    def maybe_run(self, state: State, report: Report) -> None: ...


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
    """Trains until the last step, or until early stopping.

    Raises:
        Preempted: SIGINT or SIGTERM arrived; the state is saved.
        NonFiniteError: The loss or a gradient is NaN or infinite; no weight was changed by it.
        ResourceError: The disk is full; older checkpoints are intact.
        UsageError: A resumed run was changed in what must be equal.
    """
