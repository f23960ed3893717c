"""Checkpoints on the disk: a new folder per step, whole or absent, under a seal (laws 6 and 7).

A checkpoint is `step-00000500/` with one safetensors file per group of tensors, `state.json` for all that is no tensor,
and `manifest.json`, its seal. A folder has this name only while it is whole and on the disk: one that is not whole was
damaged since, and is refused. Knows tensors and JSON; does not know what they mean.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dougong.checkpoint.seal import fault_of_form, seal, verify
from dougong.core import files, log
from dougong.core.errors import FileError, ResourceError
from dougong.core.injection import strike

Groups = Mapping[str, Mapping[str, Tensor]]
_NAME = re.compile(r"step-(\d{8,})")
_LEFTOVER = re.compile(r"\.step-\d{8,}\.partial-.+")


@dataclass(frozen=True)
class Checkpoint:
    """A state read back from the disk.

    Attributes:
        folder: Where it was.
        tensors: By group and name, on the CPU.
        scalars: All that is no tensor.
    """

    folder: Path
    tensors: Groups
    scalars: Mapping[str, Any]


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay.

    Attributes:
        keep: How many of the newest.
        keep_every: All multiples of this; 0 is none.
        every: The newest multiple of this, which a run may have to go back to; 0 is none.
    """

    keep: int = 2
    keep_every: int = 0
    every: int = 0

    def reasons(self, steps: Sequence[int], best: int | None = None) -> dict[int, list[str]]:
        """Returns why each of these steps stays, for those that do.

        Args:
            steps: The steps that have a checkpoint.
            best: The step of the best evaluation.
        """
        steps = sorted(steps)
        found: dict[int, list[str]] = {step: [] for step in steps}
        for step in steps[-max(1, self.keep) :]:
            found[step].append("newest")
        for step in steps:
            if self.keep_every and step % self.keep_every == 0:
                found[step].append(f"multiple of {self.keep_every}")
            if step == best:
                found[step].append("best")
        multiples = [step for step in steps if self.every and step % self.every == 0]
        if multiples and not found[multiples[-1]]:
            found[multiples[-1]].append("to go back to")
        return {step: why for step, why in found.items() if why}


class Store:
    """The checkpoints of one run.

    Args:
        folder: Holds the checkpoints and nothing else that is named like one. Made on the first save.
        retention: Which of them stay; a number is how many of the newest.
    """

    def __init__(self, folder: Path, retention: Retention | int = Retention()):
        self.folder = Path(folder)
        self.retention = retention if isinstance(retention, Retention) else Retention(retention)

    def steps(self) -> list[int]:
        """Returns the steps that have a folder, ascending by number; whether whole is not looked at."""
        if not self.folder.is_dir():
            return []
        with files.explained(self.folder):
            found = [(_NAME.fullmatch(entry.name), entry) for entry in self.folder.iterdir()]
        return sorted(int(match[1]) for match, entry in found if match and entry.is_dir())

    def path(self, step: int) -> Path:
        """Returns the folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, tensors: Groups, scalars: Mapping[str, Any], best: int | None = None) -> Path:
        """Writes a step's checkpoint, then removes those that need not stay.

        Args:
            step: Its number.
            tensors: By group and name.
            scalars: JSON values.
            best: The step of the best evaluation, whose checkpoint stays.

        Raises:
            ResourceError: The disk is full, failing or not writable; the older checkpoints are as they were.
        """
        needed = checkpoint_bytes(tensors)
        self.require_space(needed)
        target = self.path(step)
        with self._named_on_error(step, needed), files.new_folder(target, _Points(step)) as folder:
            write_checkpoint(folder, tensors, scalars, _Points(step))
        self.prune(step, best)
        return target

    def require_space(self, needed: int) -> None:
        """Sees that checkpoints of so many bytes fit on the disk.

        Raises:
            ResourceError: They do not.
        """
        free = files.free_bytes(self.folder)
        if free < needed:
            raise ResourceError(
                f"checkpoints need {_megabytes(needed)}, but {_megabytes(free)} are free in {self.folder}; "
                f"{self._what_stays()}. Free some space, or choose another folder.",
                name="E-DISK",
            )

    def newest(self) -> Path | None:
        """Returns the newest checkpoint, or None; that it is whole is verified by `load`."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def load_newest(self, fallback: bool = False) -> Checkpoint | None:
        """Reads the newest checkpoint, or None if there is none.

        Args:
            fallback: If it is damaged, set it aside as `damaged-step-...`, say so, and take the one before it.

        Raises:
            FileError: It is damaged, and there is no falling back, or nothing to fall back to.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                checkpoint = load(self.path(step))
            except FileError as error:
                if fallback and step != steps[0]:
                    log.warn(f"{error} Not taken; going back to the checkpoint before it.")
                    self._set_aside(step)
                    continue
                older = [s for s in steps if s < step and fault_of_form(self.path(s)) is None]
                advice = f" Or go on from step {older[-1]}: --fallback" if older else ""
                raise FileError(f"{error}{advice}", name=error.name) from error
            if step != steps[-1]:
                log.say(f"going on from step {step}, the newest checkpoint that is whole")
            return checkpoint
        return None

    def clean(self) -> None:
        """Removes what saves that were cut off have left behind. Call it only while holding the run's lock."""
        if not self.folder.is_dir():
            return
        for entry in self.folder.iterdir():
            if _LEFTOVER.fullmatch(entry.name):
                _remove(entry)

    def prune(self, saved: int, best: int | None = None) -> None:
        """Removes the checkpoints that need not stay, never the one just saved.

        Args:
            saved: The step just saved.
            best: The step of the best evaluation.
        """
        steps = self.steps()
        stay = {saved, *self.retention.reasons(steps, best)}
        for step in steps:
            if step not in stay:
                self.remove(step, lambda: strike("ckpt.prune", saved))

    def remove(self, step: int, before: Callable[[], object] = lambda: None) -> bool:
        """Removes a checkpoint; a failure is a warning. Tells whether it is gone."""
        folder = self.path(step)
        try:
            before()
            # First the name: a removal that is cut off must leave nothing half under a checkpoint's name.
            doomed = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".{folder.name}.partial-"))
            os.rename(folder, doomed)
        except OSError as error:
            return _left(folder, error)
        return _remove(doomed)

    def _set_aside(self, step: int) -> None:
        folder, number = self.path(step), 1
        target = folder.with_name(f"damaged-{folder.name}")
        while target.exists():
            number += 1
            target = folder.with_name(f"damaged-{folder.name}-{number}")
        try:
            os.rename(folder, target)
        except OSError as error:
            _left(folder, error)

    @contextlib.contextmanager
    def _named_on_error(self, step: int, needed: int) -> Iterator[None]:
        """Adds to an error of the disk what was needed and which checkpoint is kept."""
        try:
            yield
        except ResourceError as error:
            free = files.free_bytes(self.folder)
            raise ResourceError(
                f"the checkpoint of step {step} needs {_megabytes(needed)}, {_megabytes(free)} are free in "
                f"{self.folder}; {self._what_stays()}: {error}",
                name=error.name,
            ) from error

    def _what_stays(self) -> str:
        steps = self.steps()
        return f"step {steps[-1]} is kept" if steps else "no checkpoint is saved yet"


class _Points:
    """Where a fault on purpose can strike while a step is saved."""

    def __init__(self, step: int):
        self.step = step

    def __call__(self, stage: str) -> None:
        strike(f"ckpt.{stage}", self.step)


def checkpoint_bytes(tensors: Groups) -> int:
    """Returns the bytes that a checkpoint of these tensors takes, headers and hashes included, at most."""
    sizes = [t.numel() * t.element_size() + 400 + 2 * len(name) for g in tensors.values() for name, t in g.items()]
    return sum(sizes) + 65536


def write_checkpoint(folder: Path, tensors: Groups, scalars: Mapping[str, Any], before: _Points | None = None) -> None:
    """Writes the files of a checkpoint into an empty folder; empty groups get no file.

    Args:
        folder: The folder.
        tensors: By group and name; each group becomes a file.
        scalars: JSON values.
        before: Called with `shard` before each file of tensors.
    """
    for group, named in tensors.items():
        if named:
            target = folder / f"{group}.safetensors"
            with files.explained(target, "written"), _system_errors():
                if before is not None:
                    before("shard")
                save_file({name: tensor.detach().contiguous() for name, tensor in named.items()}, target)
    files.write_json(folder / "state.json", scalars)
    seal(folder)


def load(folder: Path) -> Checkpoint:
    """Reads a checkpoint, every byte of it verified.

    Raises:
        FileError: A file is missing, one too many, of another size or content than the manifest says; named are the
            file and the tensor.
    """
    folder = Path(folder)
    files.refuse_pickles(folder)
    verify(folder)
    groups = {path.stem: files.read_tensors(path) for path in sorted(folder.glob("*.safetensors"))}
    return Checkpoint(folder, groups, read_scalars(folder))


def read_scalars(folder: Path) -> dict[str, Any]:
    """Returns all of a checkpoint that is no tensor, unverified.

    Raises:
        FileError: There is no such file in it, or it is broken.
    """
    path = Path(folder) / "state.json"
    scalars = files.read_json(path) if path.is_file() else None
    if not isinstance(scalars, dict):
        raise FileError(f"{path} must be there and hold a state, but does not. Take another checkpoint.")
    return scalars


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Turns safetensors' own error for a failed write, which hides the system's, into the system's."""
    try:
        yield
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def _remove(folder: Path) -> bool:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        return _left(folder, error)
    return True


def _left(folder: Path, error: OSError) -> bool:
    log.warn(f"{folder} cannot be removed: {error.strerror or error}. It is left where it is.")
    return False


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB"
