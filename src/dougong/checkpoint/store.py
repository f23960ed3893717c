"""Checkpoints on the disk: a new folder per step, whole or absent, with a sha256 per file (laws 6 and 7).

A checkpoint is `step-00000500/` with one safetensors file per group of tensors, `state.json` for all that is no tensor,
and `manifest.json`, which names every file with its size and sha256 and carries a sha256 of itself. Knows tensors and
JSON; does not know what they mean.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dougong.core import files, log
from dougong.core.errors import FileError, ResourceError

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


class Store:
    """The checkpoints of one run.

    Args:
        folder: Holds the checkpoints and nothing else that is named like one. Made on the first save.
        keep: How many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep

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

    def save(self, step: int, tensors: Groups, scalars: Mapping[str, Any]) -> Path:
        """Writes a step's checkpoint, then removes the oldest ones beyond `keep`.

        Raises:
            ResourceError: The disk is full, failing or not writable; the older checkpoints are as they were.
        """
        self.require_space(checkpoint_bytes(tensors))
        target = self.path(step)
        with self._named_on_error(), files.new_folder(target) as folder:
            write_checkpoint(folder, tensors, scalars)
        self._prune()
        return target

    def require_space(self, needed: int) -> None:
        """Sees that a checkpoint of so many bytes fits on the disk.

        Raises:
            ResourceError: It does not.
        """
        free = files.free_bytes(self.folder)
        if free < needed:
            raise ResourceError(
                f"a checkpoint needs {needed / 1e6:.1f} MB in {self.folder}, but {free / 1e6:.1f} MB are free; "
                f"{self._what_stays()}. Free some space, or choose another folder.",
                name="E-DISK",
            )

    def newest(self) -> Path | None:
        """Returns the newest checkpoint that is whole by names and sizes, or None; says which ones it passes over.

        The content is verified by `load`.
        """
        for step in reversed(self.steps()):
            fault = _fault_of_form(self.path(step))
            if fault is None:
                return self.path(step)
            log.warn(f"{fault} This checkpoint is not whole and is passed over.")
        return None

    def clean(self) -> None:
        """Removes what saves that were cut off have left behind. Call it only while holding the run's lock."""
        if not self.folder.is_dir():
            return
        for entry in self.folder.iterdir():
            if _LEFTOVER.fullmatch(entry.name):
                _remove(entry)

    def _prune(self) -> None:
        for step in self.steps()[: -max(1, self.keep)]:
            _remove(self.path(step))

    @contextlib.contextmanager
    def _named_on_error(self) -> Iterator[None]:
        """Adds to an error of the disk which checkpoint is kept."""
        try:
            yield
        except ResourceError as error:
            raise ResourceError(f"{error} On the disk, {self._what_stays()}.", name=error.name) from error

    def _what_stays(self) -> str:
        steps = self.steps()
        return f"step {steps[-1]} is kept" if steps else "no checkpoint is saved yet"


def checkpoint_bytes(tensors: Groups) -> int:
    """Returns the bytes that a checkpoint of these tensors takes, headers included, at most."""
    sizes = [t.numel() * t.element_size() + 200 + len(name) for group in tensors.values() for name, t in group.items()]
    return sum(sizes) + 65536


def write_checkpoint(folder: Path, tensors: Groups, scalars: Mapping[str, Any]) -> None:
    """Writes the files of a checkpoint into an empty folder; empty groups get no file."""
    for group, named in tensors.items():
        if named:
            target = folder / f"{group}.safetensors"
            with files.explained(target, "written"), _system_errors():
                save_file({name: tensor.detach().contiguous() for name, tensor in named.items()}, target)
    files.write_json(folder / "state.json", scalars)
    listed = {
        path.name: {"bytes": path.stat().st_size, "sha256": files.sha256(path)} for path in sorted(folder.iterdir())
    }
    files.write_json(folder / "manifest.json", {"files": listed, "sha256": _seal(listed)})


def load(folder: Path) -> Checkpoint:
    """Reads a checkpoint, every byte of it verified.

    Raises:
        FileError: A file is missing, one too many, of another size or content than the manifest says.
    """
    folder = Path(folder)
    fault = _fault_of_form(folder) or _fault_of_content(folder)
    if fault is not None:
        raise FileError(f"{fault} Remove {folder} to go on from an older checkpoint, or restore it from a copy.")
    groups = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            groups[path.stem] = load_file(path)
        except (SafetensorError, ValueError, OSError) as error:
            raise FileError(f"{path} must be a safetensors file, but is not: {error}.") from error
    return Checkpoint(folder, groups, files.read_json(folder / "state.json"))


def verify(folder: Path) -> None:
    """Checks a checkpoint without loading its tensors.

    Raises:
        FileError: It is not whole, or a byte has changed.
    """
    fault = _fault_of_form(Path(folder)) or _fault_of_content(Path(folder))
    if fault is not None:
        raise FileError(fault)


def _seal(listed: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _listed(folder: Path) -> dict[str, Any]:
    """Returns the manifest's list of files.

    Raises:
        FileError: The manifest is missing, malformed, or not what was sealed.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise FileError(f"{path} must be there, but is not.")
    manifest = files.read_json(path)
    listed = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(listed, dict) or manifest.keys() != {"files", "sha256"} or manifest["sha256"] != _seal(listed):
        raise FileError(f"{path} must carry its own sha256, but does not: it was changed after it was written.")
    return listed


def _fault_of_form(folder: Path) -> str | None:
    """Returns what is wrong with the names and sizes of a checkpoint's files, or None."""
    try:
        listed = _listed(folder)
    except FileError as error:
        return str(error)
    present = {path.name for path in folder.iterdir()} - {"manifest.json"}
    if missing := listed.keys() - present:
        return f"{folder} must hold {', '.join(sorted(missing))}, but does not."
    if extra := present - listed.keys():
        return f"{folder} must hold only what its manifest lists, but holds {', '.join(sorted(extra))} too."
    for name, entry in listed.items():
        size = files.inside(folder, name).stat().st_size
        if size != entry["bytes"]:
            return f"{folder / name} must have {entry['bytes']} bytes, but has {size}."
    return None


def _fault_of_content(folder: Path) -> str | None:
    """Returns the first file whose content is not what the manifest says, as a sentence, or None."""
    for name, entry in _listed(folder).items():
        found = files.sha256(files.inside(folder, name))
        if found != entry["sha256"]:
            return f"{folder / name} must have sha256 {entry['sha256'][:16]}, but has {found[:16]}: it was changed."
    return None


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Turns safetensors' own error for a failed write, which hides the system's, into the system's."""
    try:
        yield
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        log.warn(f"{folder} cannot be removed: {error.strerror or error}. It is left where it is.")
