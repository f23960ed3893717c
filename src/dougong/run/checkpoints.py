"""The verb `checkpoint`: what a run's checkpoints are, whether they are whole, how two differ, and removing some.

Knows run folders and stores; does not know how a state is saved or loaded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dougong.checkpoint.seal import fault_of_form, tensor_hashes, verify
from dougong.checkpoint.store import Retention, Store, read_scalars
from dougong.checkpoint.weights import verify_model
from dougong.core import files
from dougong.core.errors import FileError, UsageError
from dougong.recipe import load
from dougong.run.folder import claimed, find_run, is_run

AROUND = ("environment", "decisions", "identity")
"""Of the values in a checkpoint, those that say how and where it was computed, not what came out."""


@dataclass(frozen=True)
class Entry:
    """One checkpoint of a run.

    Attributes:
        step: Its step.
        folder: Where it is.
        bytes: What it takes on the disk.
        age_seconds: How long ago it was written.
        whole: Its manifest is sound, and every file there with its size. Their content, `verify` checks.
        fault: What is wrong, if it is not whole.
        kept: Why it stays: it is among the newest, a multiple, the best, or what the run would go back to.
    """

    step: int
    folder: str
    bytes: int
    age_seconds: float
    whole: bool
    fault: str | None
    kept: list[str]


@dataclass(frozen=True)
class Difference:
    """How two checkpoints differ.

    Attributes:
        first, second: Their folders.
        equal: Nothing of what was compared differs.
        tensors: Those that differ, by file and name: how, the largest absolute difference, and how many numbers.
        scalars: The values that differ, by dotted name: first and second.
    """

    first: str
    second: str
    equal: bool
    tensors: Mapping[str, Mapping[str, Any]]
    scalars: Mapping[str, tuple[Any, Any]]

    def summary(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return asdict(self)


def list_checkpoints(source: str | Path) -> list[Entry]:
    """Returns the checkpoints of a run, ascending by step.

    Args:
        source: A run folder; or a recipe, whose newest run is taken.

    Raises:
        UsageError: There is no such run.
    """
    folder = _run_folder(source)
    store = Store(folder / "checkpoints", _retention(folder))
    reasons = store.retention.reasons(store.steps(), _best(store))
    return [_entry(store, step, reasons.get(step, [])) for step in store.steps()]


def _entry(store: Store, step: int, kept: list[str]) -> Entry:
    folder = store.path(step)
    with files.explained(folder):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        age = max(0.0, time.time() - folder.stat().st_mtime)
    fault = fault_of_form(folder)
    return Entry(step, str(folder), size, age, fault is None, fault, kept)


def verify_checkpoints(source: str | Path, latest: bool = False) -> list[str]:
    """Checks every byte of a run's checkpoints and of its model, or of one such folder; returns what was checked.

    Args:
        source: A run folder, a checkpoint's or a model's; or a recipe, whose newest run is taken.
        latest: Check the newest checkpoint alone.

    Raises:
        UsageError: There is no such folder, or nothing to check in it.
        FileError: Something is damaged; all of it is named, each with file and tensor.
    """
    checked, faults = [], []
    for folder, is_model in _sealed(Path(source), latest):
        try:
            if not is_model:
                files.refuse_pickles(folder)
                verify(folder)
            elif not verify_model(folder):
                raise FileError(f"{folder} must have a manifest.json, but has none: what is in it cannot be verified.")
            checked.append(str(folder))
        except FileError as error:
            faults.append(str(error))
    if faults:
        raise FileError("\n".join(faults), name="E-CORRUPT")
    if not checked:
        raise UsageError(f"{source} must hold a checkpoint or a model, but holds none. Train it first.", name="E-PATH")
    return checked


def _sealed(path: Path, latest: bool) -> Iterator[tuple[Path, bool]]:
    """Yields the folders under seal, and whether each is a model's."""
    if path.is_dir() and not is_run(path) and not (path / "checkpoints").is_dir():
        yield path, (path / "config.json").exists()
        return
    folder = _run_folder(path)
    store = Store(folder / "checkpoints")
    for step in store.steps()[-1:] if latest else store.steps():
        yield store.path(step), False
    if (folder / "model").is_dir() and not latest:
        yield folder / "model", True


def diff_checkpoints(first: str | Path, second: str | Path, bitwise: bool = False) -> Difference:
    """Returns how two checkpoints differ; both are verified first.

    Args:
        first: A run folder, whose newest checkpoint is taken, or a checkpoint's.
        second: The other.
        bitwise: Compare every value; else `environment`, `decisions` and `identity`, which say how and where it was
            computed and with which recipe, are left out. Tensors are always compared bit by bit.

    Raises:
        UsageError: There is no checkpoint.
        FileError: One of the two is damaged.
    """
    one, other = (_checkpoint(Path(source)) for source in (first, second))
    for folder in (one, other):
        verify(folder)
    left_out = () if bitwise else AROUND
    mine, theirs = ({n: v for n, v in read_scalars(f).items() if n not in left_out} for f in (one, other))
    values = dict(_other_values(mine, theirs))
    tensors = dict(_other_tensors(one, other))
    return Difference(str(one), str(other), not values and not tensors, tensors, values)


def _checkpoint(path: Path) -> Path:
    if path.is_dir() and not is_run(path) and not (path / "checkpoints").is_dir():
        return path
    newest = Store(_run_folder(path) / "checkpoints").newest()
    if newest is None:
        raise UsageError(f"{path} must hold a checkpoint, but holds none. Train it first.", name="E-PATH")
    return newest


def _other_tensors(one: Path, other: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the tensors that differ; those of equal sha256 and form are not read."""
    hashes, others = tensor_hashes(one), tensor_hashes(other)
    for file in sorted(hashes.keys() | others.keys()):
        mine, theirs = hashes.get(file, {}), others.get(file, {})
        for name in sorted(mine.keys() ^ theirs.keys()):
            yield f"{file}: {name}", {"how": f"only in the {'first' if name in mine else 'second'}"}
        if not mine or not theirs:
            continue
        with files.open_tensors(one / file) as left, files.open_tensors(other / file) as right:
            for name in sorted(mine.keys() & theirs.keys()):
                forms = [_form(opened.get_slice(name)) for opened in (left, right)]
                if forms[0] != forms[1]:
                    yield f"{file}: {name}", {"how": f"{forms[0]} and {forms[1]}"}
                elif mine[name] != theirs[name]:
                    yield f"{file}: {name}", _distance(left.get_tensor(name), right.get_tensor(name))


def _form(header: Any) -> str:
    return f"{header.get_dtype()}{list(header.get_shape())}"


def _distance(one: Tensor, other: Tensor) -> dict[str, Any]:
    bits = [tensor.reshape(-1, 1).view(torch.uint8) for tensor in (one, other)]
    differing = int((bits[0] != bits[1]).any(1).sum())
    largest = (one.double() - other.double()).abs().max().item()
    return {"how": "values", "max_abs_difference": largest, "differing": differing, "of": one.numel()}


def _other_values(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in [*one, *(name for name in other if name not in one)]:
            yield from _other_values(one.get(name), other.get(name), f"{path}.{name}" if path else name)
    elif one != other:
        yield path, (one, other)


def prune_checkpoints(source: str | Path, keep: int, dry_run: bool = False) -> list[int]:
    """Removes a run's older checkpoints, and returns their steps.

    The newest `keep` stay, and what the run's recipe keeps besides: multiples of `keep_every`, the best, the newest
    multiple of `every`. If none of these is whole, the newest that is whole stays too.

    Args:
        source: A run folder; or a recipe, whose newest run is taken.
        keep: How many of the newest stay, at least one.
        dry_run: Remove nothing.

    Raises:
        UsageError: There is no such run, or a process trains in it.
    """
    if keep < 1:
        raise UsageError(f"--keep must be at least 1, but is {keep}. The newest checkpoint always stays.")
    folder = _run_folder(source)
    with claimed(folder, resume=True):
        store = Store(folder / "checkpoints", _retention(folder, keep))
        steps = store.steps()
        stay = set(store.retention.reasons(steps, _best(store)))
        if not any(_is_whole(store, step) for step in stay):
            stay |= set([step for step in steps if _is_whole(store, step)][-1:])
        gone = [step for step in steps if step not in stay]
        return gone if dry_run else [step for step in gone if store.remove(step)]


def _is_whole(store: Store, step: int) -> bool:
    try:
        verify(store.path(step))
    except FileError:
        return False
    return True


def _run_folder(source: str | Path) -> Path:
    """Returns the folder of a run; one without a recipe, as `fit` alone leaves it, will do.

    Raises:
        UsageError: There is no such run, or a file is named that is no recipe.
    """
    path = Path(source)
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path} must be a run's folder, but is a file. Name the folder it is in.", name="E-PATH")
    return path if (path / "checkpoints").is_dir() else find_run(str(source))


def _retention(folder: Path, keep: int | None = None) -> Retention:
    """Returns what the run's recipe keeps, with another number of the newest if that is given."""
    if not is_run(folder):
        return Retention(keep or 2)
    saving = load(folder).train.checkpoint
    return Retention(keep or saving.keep, saving.keep_every, saving.every)


def _best(store: Store) -> int | None:
    """Returns the step of the best evaluation, as the newest checkpoint that can be read has it."""
    for step in reversed(store.steps()):
        try:
            best = read_scalars(store.path(step)).get("best_checkpoint")
        except FileError:
            continue
        return best["step"] if isinstance(best, dict) and isinstance(best.get("step"), int) else None
    return None
