"""A resumed run is the run that was never stopped: every tensor, to the bit, buffers outside the checkpoint too."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dougong.check.result import Claim, Result
from dougong.check.subject import Subject, global_randomness
from dougong.core import log
from dougong.core.contracts import Batch
from dougong.core.device import DTYPES
from dougong.train.config import TrainConfig
from dougong.train.loop import Job, fit
from dougong.train.state import State
from dougong.train.step import Report

CLAIM = Claim("resume", "a run that is stopped and resumed is the run that was never stopped")
SAVED, KILLED, COMPARED = 2, 3, 4  # steps: after which a checkpoint is there, one run is lost, both are looked at


class _Ended(Exception):
    """The run has done the steps that were wanted of it."""


@dataclass
class _Witness:
    """Asked after each step: at a given one, keeps a copy of all there is, and ends the run."""

    until: int
    first: int = 0
    samples: list[Any] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)

    def maybe_run(self, state: State, report: Report) -> None:
        """Keeps and ends, if it is time."""
        self.first = self.first or report.step
        self.samples.append((report.step, [tuple(pair) for pair in report.samples], report.loss))
        if report.step < self.until:
            return
        for group, tensors in (*state.tensors().items(), ("buffer", dict(state.model.named_buffers()))):
            self.tensors |= {f"{group} {name}": tensor.detach().clone() for name, tensor in tensors.items()}
        self.numbers = state.scalars()
        raise _Ended


def resume(subject: Subject) -> Result:
    """Does four steps at once; does three, loses the last with all that was in memory, resumes, and does two more.

    Optimizer, schedule, averages, dropout, accumulation and evaluation are the recipe's; the batches are small, and
    the global generators stand elsewhere each time.
    """
    batches, config = _batches(subject), _config(subject)
    with tempfile.TemporaryDirectory() as temporary, log.listening(lambda _: None):
        one, other = Path(temporary, "unbroken"), Path(temporary, "broken")
        unbroken = _run(subject, config, batches, one, COMPARED)
        _run(subject, config, batches, other, KILLED)
        resumed = _run(subject, config, batches, other, COMPARED)
    if resumed.first != SAVED + 1:
        return CLAIM.broken(f"the resumed run must begin with step {SAVED + 1}, but began with step {resumed.first}.")
    different = _different(unbroken, resumed)
    total = f"of {len(unbroken.tensors):,} tensors"
    if not different:
        return CLAIM.held(f"0 {total} differ", "equal to the bit", 0.0, 0.0)
    more = f" and {len(different) - 1} more" if len(different) > 1 else ""
    return CLAIM.broken(
        f"{different[0]}{more}: different at step {COMPARED} when the run was stopped after step {KILLED} and resumed "
        f"from the checkpoint of step {SAVED}.{_advice(different)}",
        f"{len(different)} {total} differ",
        "equal to the bit",
    )


def _run(subject: Subject, config: TrainConfig, batches: Sequence[Batch], folder: Path, until: int) -> _Witness:
    """Runs to a step, from the newest checkpoint if there is one."""
    witness, begun = _Witness(until), folder.exists()
    folder.mkdir(exist_ok=True)
    with global_randomness(100 * until + begun):
        job = Job(
            config=config,
            model=subject.model().to(subject.device),
            task=subject.task,
            batches=_Given(batches),
            folder=folder,
            validation=lambda: batches[:1],
            resume=begun,
            attachments=[witness],
        )
        with contextlib.suppress(_Ended):
            fit(job)
    return witness


class _Given:
    """A few batches, over and over."""

    def __init__(self, batches: Sequence[Batch]):
        self.batches = batches

    def __getitem__(self, step: int) -> Batch:
        return self.batches[step % len(self.batches)]


def _batches(subject: Subject) -> list[Batch]:
    """Returns as many small batches as there are steps."""
    size = 2 if subject.samples >= 2 * COMPARED else 1
    return subject.rows(size * COMPARED, subject.allowance / 2).split(size)


def _config(subject: Subject) -> TrainConfig:
    """Returns the recipe's way of training with small batches, and a checkpoint and evaluations in between."""
    config = subject.config
    size = 2 if subject.samples >= 2 * COMPARED else 1
    names = {dtype: name for name, dtype in DTYPES.items()}
    return config.replace(
        steps=max(config.steps, COMPARED + 1),
        batch_size=size,
        batch_ramp=None,
        microbatch_size=1 if config.microbatch_size else None,
        precision=names[subject.dtype],
        compile=False,
        early_stopping=config.early_stopping and config.early_stopping.replace(patience=1000),
        checkpoint=config.checkpoint.replace(every=SAVED),
        evaluate={"every": 1, "batches": 1},
        log={"every": 10**9, "trackers": ()},
        samples={},
        profile=None,
    )


def _different(one: _Witness, other: _Witness) -> list[str]:
    """Returns the names of all that differs: losses and samples, tensors, numbers."""
    pairs = zip(one.samples[SAVED:], other.samples, strict=True)
    steps = [f"the loss or the samples of step {mine[0]}" for mine, theirs in pairs if mine != theirs]
    names = sorted(one.tensors.keys() | other.tensors.keys(), key=_likely_cause)
    tensors = [name for name in names if not _equal(one.tensors.get(name), other.tensors.get(name))]
    numbers = [name for name in one.numbers if one.numbers[name] != other.numbers.get(name)]
    return [*tensors, *steps, *numbers]


def _likely_cause(name: str) -> tuple[int, str]:
    """Returns a tensor's place: what only follows from what else was lost, as the weights do, comes last."""
    return ["buffer", "optimizer", "average", "best", "model"].index(name.split(" ")[0]), name


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def _advice(different: Sequence[str]) -> str:
    buffers = [name for name in different if name.startswith("buffer")]
    if not buffers:
        return " Whatever changes while training must be part of the checkpoint, or a function of seed and step."
    return f" Is {buffers[0]} left out of the checkpoint? Register it with persistent=True, or do not change it."
