"""Saving and resuming: when the state goes to the disk, in the background or not, and how it comes back.

Knows the state and the store; what may change between two calls, `resume.py` knows. Knows no model and no loop.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dougong.checkpoint.store import Checkpoint, Groups, Retention, Store, checkpoint_bytes, load
from dougong.core import files, log
from dougong.core.errors import NonFiniteError, UsageError
from dougong.core.every import Every
from dougong.train.config import BestConfig, TrainConfig
from dougong.train.report import Recorder
from dougong.train.resume import Changes, Resume, environment, guarantee, permitted, precision_name, require_known
from dougong.train.state import State


class Checkpointer:
    """Saves the state at every multiple of some steps, at the best evaluation, at the end, and on request.

    First `find`, then `open`, then `settle`; from then on `maybe_save` after each step, and `close` at last.

    Args:
        config: When to save, and what stays.
        folder: The run folder.
        resume: How to go on from the newest checkpoint, if there is one; None: there must be none.
        identity: What must be equal when resuming, by name; JSON values.
    """

    def __init__(self, config: TrainConfig, folder: Path, resume: Resume | None, identity: Mapping[str, Any]):
        self.config, self.folder, self.resume, self.identity = config, folder, resume, dict(identity)
        saving = config.checkpoint
        self.store = Store(folder / "checkpoints", Retention(saving.keep, saving.keep_every, saving.every))
        self.every = Every(saving.every)
        self.best = _Best(saving.best)
        self.saved, self.changes = 0, Changes()
        self._found: Checkpoint | None = None
        self._before: Mapping[str, Any] | None = None
        self._around: dict[str, Any] = {}
        self._writer, self._copies = ThreadPoolExecutor(1, "checkpoint"), _Copies()
        self._in_flight: Future[None] | None = None

    def find(self) -> Mapping[str, Any]:
        """Clears what a cut-off save left behind and, if the job resumes, reads the newest checkpoint.

        Returns:
            What was decided when that run began, and must not be decided anew: `precision` and `compile`.

        Raises:
            UsageError: There are checkpoints and the job does not resume.
            FileError: The checkpoint was changed after it was written, and there is no falling back.
        """
        self.store.clean()
        newest = self.store.newest()
        if newest is not None and self.resume is None:
            raise UsageError(
                f"{self.folder} must be a new run folder, but holds {newest.name}. "
                "Resume that run, or choose another folder.",
                name="E-EXISTS",
            )
        self._found = None if self.resume is None else self.store.load_newest(self.resume.fallback)
        return {} if self._found is None else self._found.scalars.get("decisions", {})

    def open(self, state: State) -> None:
        """Loads what was found, if it is of the same run, and sees that the next checkpoints will fit on the disk.

        Raises:
            UsageError: What must be equal is not; or more steps are done than are asked for.
            ResourceError: The next checkpoints would not fit.
        """
        train = {**self.config.model_dump(mode="json"), "precision": precision_name(state.dtype)}
        del train["checkpoint"]["asynchronous"]  # it changes no byte, so not these either
        self.identity = {"train": train, **self.identity}
        allow = () if self.resume is None else tuple(self.resume.allow)
        before = {} if self._found is None else self._found.scalars["identity"]
        require_known(allow, self.identity, before)
        if self._found is not None:
            self.changes = permitted(before, self.identity, allow)
            self.changes.say()
            self._load(state, self._found)
            if state.step > self.config.steps:
                raise UsageError(
                    f"train.steps must be at least the {state.step} steps that are done, but is {self.config.steps}. "
                    "Raise it, or start a new run.",
                    name="E-CHANGED",
                )
            self._before = self._found.scalars.get("environment", {})
            self._found = None
        self.store.require_space(_expected_bytes(state) * self._to_come(state))

    def settle(self, state: State, compiled: bool) -> str:
        """Takes note of how the run computes, which its checkpoints carry; returns what holds when it is resumed."""
        decisions = {"precision": precision_name(state.dtype), "compile": compiled}
        self._around = {"decisions": decisions, "environment": environment(state, compiled)}
        return guarantee(self._before, self._around["environment"], self.changes)

    def note(self, state: State, recorder: Recorder) -> None:
        """Writes down how the run was resumed, if it was: what holds, what differs, and what was allowed to."""
        if self._before is not None:
            holds = guarantee(self._before, self._around["environment"], self.changes)
            recorder.event("resumed", state.step, guarantee=holds, **self.changes.record())

    def maybe_save(self, state: State, recorder: Recorder) -> None:
        """Saves if it is due, in the background if so configured; a save that is under way is waited for first.

        Raises:
            ResourceError: This save, or one in the background, failed.
        """
        self.poll()
        best = self.best.observe(state)
        if not (best or self.every.due(state.step, state.config.steps)) or self.saved == state.step:
            return
        if not self.config.checkpoint.asynchronous:
            self.save(state, recorder)
            return
        self._wait()
        recorder.flush()
        tensors = self._copies.take(state.tensors())
        self._in_flight = self._writer.submit(
            self._write, state.step, tensors, copy.deepcopy(self._scalars(state)), self.best.step
        )
        self.saved = state.step

    def save(self, state: State, recorder: Recorder) -> None:
        """Saves the state of this step, unless it is saved, and waits for it.

        Raises:
            ResourceError: This save, or one in the background, failed.
        """
        self._wait()
        if self.saved != state.step:
            recorder.flush()
            self._write(state.step, state.tensors(), self._scalars(state), self.best.step)
            self.saved = state.step

    def poll(self) -> None:
        """Raises what a save in the background ran into, if one did since it was last asked."""
        if self._in_flight is not None and self._in_flight.done():
            self._wait()

    def close(self) -> None:
        """Waits for a save in the background; what it ran into is told, not raised: the run is over."""
        try:
            self._wait()
        except Exception as error:
            log.warn(f"the last checkpoint was not saved: {error}")
        finally:
            self._writer.shutdown()

    def rewind(self, state: State) -> int:
        """Loads the newest checkpoint whose step is a multiple of `checkpoint.every`, wherever the run was stopped.

        Returns:
            Its step.

        Raises:
            NonFiniteError: There is none.
            FileError: It was changed after it was written.
        """
        self._wait()
        every = self.config.checkpoint.every
        steps = [step for step in self.store.steps() if every and step % every == 0 and step <= state.step]
        if not steps:
            raise NonFiniteError(
                f"step {state.step}: there must be a checkpoint to go back to, but none is saved yet "
                f"(train.checkpoint.every is {every}). Lower it, or lower the learning rate."
            )
        self._load(state, load(self.store.path(steps[-1])))
        return steps[-1]

    def _load(self, state: State, checkpoint: Checkpoint) -> None:
        state.load(checkpoint.tensors, checkpoint.scalars)
        self.best.load(checkpoint.scalars.get("best_checkpoint"))
        self.saved = state.step

    def _scalars(self, state: State) -> dict[str, Any]:
        own = {"identity": self.identity, "best_checkpoint": self.best.state(), **self._around}
        return {**state.scalars(), **own}

    def _write(self, step: int, tensors: Groups, scalars: Mapping[str, Any], best: int | None) -> None:
        """Writes a checkpoint; `run.jsonl` is brought to the disk first, so that it has every step that is saved."""
        log_file = self.folder / "run.jsonl"
        if log_file.is_file():
            with files.explained(log_file, "written"):
                files.sync_file(log_file)
        self.store.save(step, tensors, scalars, best)

    def _wait(self) -> None:
        under_way, self._in_flight = self._in_flight, None
        if under_way is not None:
            under_way.result()

    def _to_come(self, state: State) -> int:
        """Returns how many more checkpoints there will be at once, at most: one more than stay while one is removed."""
        here, every = len(self.store.steps()), self.config.checkpoint.every
        saves = 1 + ((state.config.steps - state.step) // every if every else 0)
        if self.best.config is not None:
            saves += (state.config.steps - state.step) // state.config.evaluate.every
        limit = self.config.checkpoint.keep + 1 + (self.best.config is not None)
        return max(1, min(limit, here + saves) - here)


class _Best:
    """The best evaluation so far: its step and the value that makes it so; without a config, none ever is."""

    def __init__(self, config: BestConfig | None):
        self.config = config
        self.step: int | None = None
        self.value, self.seen = math.nan, 0

    def observe(self, state: State) -> bool:
        """Takes note of the last evaluation; tells whether it was at this step, and better than all before.

        Raises:
            UsageError: It has no such figure.
        """
        if self.config is None or not state.last or state.evaluated == self.seen:
            return False
        metric, self.seen = self.config.metric, state.evaluated
        if metric not in state.last:
            if self.step is not None:  # it was there before, and is not finite now
                return False
            raise UsageError(
                f"train.checkpoint.best.metric must be a figure of the evaluation, but is {metric!r}. "
                f"Known: {', '.join(sorted(state.last))}."
            )
        value = state.last[metric]
        lower = self.config.mode == "lowest"
        if self.step is None or (value < self.value if lower else value > self.value):
            self.step, self.value = state.evaluated, value
            return state.evaluated == state.step
        return False

    def state(self) -> dict[str, Any] | None:
        """Returns it as JSON values."""
        return None if self.step is None else {"step": self.step, "value": self.value, "seen": self.seen}

    def load(self, values: Mapping[str, Any] | None) -> None:
        """Takes what `state` gave."""
        self.step, self.value, self.seen = None, math.nan, 0
        if values is not None and self.config is not None:
            self.step, self.value, self.seen = values["step"], values["value"], values["seen"]


class _Copies:
    """Copies of all tensors in the memory of the CPU, made into those of the last time where they fit."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def take(self, tensors: Groups) -> Groups:
        """Returns copies; the next call overwrites them."""
        held = self._held
        self._held = {
            group: {name: _copied(tensor, held.get(group, {}).get(name)) for name, tensor in named.items()}
            for group, named in tensors.items()
        }
        return self._held


def _copied(tensor: Tensor, into: Tensor | None) -> Tensor:
    if into is None or into.shape != tensor.shape or into.dtype != tensor.dtype:
        into = torch.empty(tensor.shape, dtype=tensor.dtype)
    return into.copy_(tensor)


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
