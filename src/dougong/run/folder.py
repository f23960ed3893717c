"""A run's folder: where it is, who holds it, and the names of what is in it.

Knows files and locks; does not know what is written into the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dougong.core.errors import UntrustedError, UsageError
from dougong.core.files import PICKLES, explained, open_binary
from dougong.recipe.sources import RUN_RECIPE, Source, is_inline, name_of, shipped_names

RUNS = Path("runs")
LOCK = "lock"
_held: set[Path] = set()


def new_run_folder(name: str) -> Path:
    """Returns `runs/<name>-<n>` with the smallest number that is above all that exist."""
    return RUNS / f"{name}-{max(_numbers(name), default=0) + 1}"


def newest_run_folder(name: str) -> Path | None:
    """Returns the run of this name with the highest number, or None."""
    numbers = [number for number in _numbers(name) if is_run(RUNS / f"{name}-{number}")]
    return RUNS / f"{name}-{max(numbers)}" if numbers else None


def _numbers(name: str) -> list[int]:
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    entries = sorted(RUNS.iterdir()) if RUNS.is_dir() else []
    return [int(match[1]) for entry in entries if (match := pattern.fullmatch(entry.name))]


def is_run(folder: Path) -> bool:
    """Tells whether a folder holds a run."""
    return (folder / RUN_RECIPE).is_file()


def find_run(source: Source, run: str | Path | None = None) -> Path:
    """Returns the folder of a finished or unfinished run: the one named, or the newest of the recipe's.

    Raises:
        UsageError: There is none.
        UntrustedError: What is named is a pickle.
    """
    if run is not None or _names_a_folder(source):
        named = Path(run if run is not None else str(source))
        if named.is_file() and named.name.lower().endswith(PICKLES):
            raise UntrustedError(
                f"{named} must be a folder with safetensors, but is a pickle, which can run anything when opened. "
                f"Import it: dougong import {named} --to NEW"
            )
        if not is_run(named):
            what = f"has no {RUN_RECIPE}" if named.exists() else "does not exist"
            raise UsageError(f"{named} must be a run folder, but {what}. Name another.", name="E-PATH")
        return named
    name = name_of(source)
    newest = newest_run_folder(name)
    if newest is None:
        raise UsageError(
            f"{name} must have a run in {RUNS}, but has none. Train it first, or name a run's folder.", name="E-PATH"
        )
    return newest


def _names_a_folder(source: Source) -> bool:
    if not isinstance(source, str | Path) or is_inline(source) or source in shipped_names():
        return False
    pickled = str(source).lower().endswith(PICKLES)
    return Path(source).is_dir() or (os.sep in str(source) and not Path(source).is_file()) or pickled


def model_of_run(folder: Path) -> Path:
    """Returns the model folder of a run.

    Raises:
        UsageError: The run has not left a model yet.
    """
    if not (folder / "model" / "config.json").is_file():
        raise UsageError(
            f"{folder} must hold a finished run, but has no model yet. Go on with: dougong train {folder} --resume",
            name="E-PATH",
        )
    return folder / "model"


@contextlib.contextmanager
def claimed(folder: Path, resume: bool) -> Iterator[bool]:
    """Holds the lock of a run folder, made if absent; gives whether there is a run in it to go on with.

    The lock is the kernel's, so it ends with the process that holds it, whatever ends that. A folder made here in
    which nothing was written is removed again.

    Raises:
        UsageError: Another process holds it; or it holds a run and `resume` is not given; or it holds something else.
    """
    made = not folder.exists()
    with explained(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            yield _goes_on(folder, resume)
    finally:
        if made and folder.is_dir() and not [entry for entry in folder.iterdir() if entry.name != LOCK]:
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def _goes_on(folder: Path, resume: bool) -> bool:
    inside = [entry.name for entry in folder.iterdir() if entry.name != LOCK]
    if not is_run(folder) and inside:
        raise UsageError(
            f"{folder} must be a run folder or empty, but holds {sorted(inside)[0]} and no {RUN_RECIPE}. "
            "Choose another with --run FOLDER.",
            name="E-EXISTS",
        )
    if is_run(folder) and not resume:
        raise UsageError(
            f"{folder} must be a new run folder, but holds a run. Add --resume to go on with it, "
            "or choose another with --run FOLDER.",
            name="E-EXISTS",
        )
    return is_run(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path, key = folder / LOCK, folder.resolve()
    if key in _held:
        raise UsageError(_taken(folder, os.getpid()), name="E-LOCKED")
    with open_binary(path, "a+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UsageError(
                _taken(folder, file.read(20).decode("ascii", "replace").strip() or "unknown"), name="E-LOCKED"
            ) from error
        _held.add(key)
        try:
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
            file.flush()
            yield
        finally:
            _held.discard(key)
            if path.exists():
                file.truncate(0)


def _taken(folder: Path, pid: int | str) -> str:
    return f"{folder} must be free, but the process {pid} is running in it. Wait for it, or choose another with --run."
