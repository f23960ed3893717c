"""Saving and resuming: when the state goes to the disk, and whether a saved one may be gone on with.

Knows the state, the store and what may change between two calls; knows no model and no loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dougong.checkpoint.store import Store, checkpoint_bytes, load
from dougong.core import log
from dougong.core.errors import UsageError
from dougong.core.every import Every
from dougong.train.config import TrainConfig
from dougong.train.report import Recorder
from dougong.train.state import State

MAY_CHANGE = (
    "steps", "optimizer.lr", "device", "compile", "recompute", "microbatch_size", "max_skipped_steps", "checkpoint",
    "evaluate", "log", "samples", "profile",
)  # fmt: skip


class Checkpointer:
    """Saves the state at every multiple of some steps, at the end, and on request; once per step.

    Args:
        config: When to save, and how many stay.
        folder: The run folder.
        resume: Go on from the newest checkpoint, if there is one.
        identity: What must be equal when resuming, by name; JSON values.
        state: Gives the type of matrix products.
    """

    def __init__(self, config: TrainConfig, folder: Path, resume: bool, identity: Mapping[str, Any], state: State):
        self.folder, self.resume = folder, resume
        self.store = Store(folder / "checkpoints", config.checkpoint.keep)
        self.every = Every(config.checkpoint.every)
        self.saved = 0
        self.identity = {
            "train": config.model_dump(mode="json"),
            "precision": str(state.dtype).removeprefix("torch."),
            **identity,
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
        if newest is not None and not self.resume:
            raise UsageError(
                f"{self.folder} must be a new run folder, but holds {newest.name}. "
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
