"""What a run writes down: `run.jsonl`, curves in trackers, and a line for the terminal now and then.

`run.jsonl` is append-only. Each line is either an event (`{"event": "start", ...}`) or a step; a step that was run
again after a resumption has several lines, and the last one counts. Knows reports; does not know how they come about.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from dougong.core import files, log
from dougong.core.errors import MissingExtra
from dougong.train.step import Report

FLUSH_SECONDS = 5.0


@runtime_checkable
class Tracker(Protocol):
    """Where curves go."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds points to curves, by name."""

    def close(self) -> None:
        """Brings all to the end."""


class Recorder:
    """A context that writes reports down; lines are held back for some seconds, so that a step pays little.

    Args:
        folder: The run folder.
        until: The last step.
        every: Steps between lines on the terminal and points in the trackers.
        trackers: Names of trackers.
        item: What is counted per second: "tokens".
    """

    def __init__(self, folder: Path, until: int, every: int, trackers: Sequence[str], item: str = "items"):
        self.folder, self.until, self.every, self.item = Path(folder), until, every, item
        self.names, self.trackers = trackers, list[Tracker]()
        self._held: list[str] = []
        self._flushed = time.monotonic()
        self._window: list[tuple[float, float]] = []

    def __enter__(self) -> Recorder:
        self.trackers = [open_tracker(name, self.folder) for name in self.names]
        with files.explained(self.folder / "run.jsonl", "written"):
            self._file = files.open_binary(self.folder / "run.jsonl", "a+b")
            if not _ends_in_newline(self._file):
                self._file.write(b"\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.flush()
        finally:
            # What could not be written has been complained of by the flush.
            with contextlib.suppress(OSError):
                self._file.close()
            for tracker in self.trackers:
                tracker.close()

    def event(self, name: str, step: int, **values: Any) -> None:
        """Writes an event: something that happens between steps."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._hold({"event": name, "step": step, "time": now, **values})

    def write(self, report: Report) -> None:
        """Writes a step down; on some steps also to the trackers and the terminal."""
        self._hold(as_record(report))
        self._window.append((report.seconds, report.items))
        due = report.step % self.every == 0 or report.step == self.until
        if due or report.evaluation is not None:
            values = _flat(report)
            for tracker in self.trackers:
                tracker.write(report.step, values)
        if due or report.evaluation is not None:
            log.say(self._line(report))
        if due:
            self._window.clear()
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self, sync: bool = False) -> None:
        """Brings every line so far to the file, and with `sync` to the disk.

        Raises:
            ResourceError: The disk is full.
        """
        with files.explained(self.folder / "run.jsonl", "written"):
            self._file.write("".join(self._held).encode())
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())
        self._held.clear()
        self._flushed = time.monotonic()

    def _hold(self, record: Mapping[str, Any]) -> None:
        self._held.append(json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n")

    def _line(self, report: Report) -> str:
        seconds, items = (sum(column) for column in zip(*self._window, strict=True))
        parts = [f"step {report.step:,}/{self.until:,}", f"loss {report.loss:.4f}"]
        if report.evaluation is not None:
            shown = {k: v for k, v in report.evaluation.items() if not k.endswith(("_low", "_high"))}
            shown = dict(list(shown.items())[:3])  # the rest is in run.jsonl and on the page
            parts += [f"validation {name.replace('_', ' ')} {value:.4f}" for name, value in shown.items()]
        parts += [f"lr {report.lr:.2e}", f"{items / max(seconds, 1e-9):,.0f} {self.item}/s"]
        if report.mfu is not None:
            parts.append(f"{report.mfu:.0%} of peak")
        parts.append(f"{duration((self.until - report.step) * seconds / len(self._window))} left")
        return "  ".join(parts)


def as_record(report: Report) -> dict[str, Any]:
    """Returns a report as JSON values: what is empty is left out, what is not finite is null."""
    values = {field.name: getattr(report, field.name) for field in fields(report)}
    return {
        name: _json(value)
        for name, value in values.items()
        if not (value is None or value is False or value in ({}, ""))
    }


def read_run(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the steps of `run.jsonl`, each once and in order, and the events; a torn line is passed over."""
    steps: dict[int, dict[str, Any]] = {}
    events = []
    for record in _records(Path(folder) / "run.jsonl"):
        if "event" in record:
            events.append(record)
        elif isinstance(record.get("step"), int):
            steps[record["step"]] = record
    return [steps[step] for step in sorted(steps)], events


def versions() -> dict[str, str]:
    """Returns what the numbers may depend on: the program's, Python's and torch's versions, and the machine."""
    from importlib.metadata import version

    return {
        "dougong": version("dougong"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }


def duration(seconds: float) -> str:
    """Returns seconds as `7 s`, `2:10` or `1:02:10`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def open_tracker(name: str, folder: Path) -> Tracker:
    """Returns a tracker by its name.

    Raises:
        MissingExtra: Its library is not installed.
    """
    makers: dict[str, Callable[[Path], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _Mlflow}
    return makers[name](folder)


class _TensorBoard:
    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, folder: Path):
        try:
            import wandb
        except ImportError as error:
            raise MissingExtra("the tracker wandb", "wandb") from error
        name = folder.absolute().name
        self.run = wandb.init(project="dougong", id=name, name=name, dir=str(folder), resume="allow")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class _Mlflow:
    def __init__(self, folder: Path):
        try:
            import mlflow
        except ImportError as error:
            raise MissingExtra("the tracker mlflow", "mlflow") from error
        self.mlflow = mlflow
        mlflow.set_experiment("dougong")
        mlflow.start_run(run_name=folder.absolute().name)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.mlflow.log_metrics({name.replace("/", "."): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self.mlflow.end_run()


def _flat(report: Report) -> dict[str, float]:
    names = ("loss", "lr", "grad_norm", "items_per_second", "mfu", "seconds")
    values = {f"train/{name}": getattr(report, name) for name in names if getattr(report, name) is not None}
    values.update({f"train/{name}": value for name, value in report.parts.items()})
    return values | {f"validation/{name}": value for name, value in (report.evaluation or {}).items()}


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _json(inner) for name, inner in value.items()}
    return value


def _ends_in_newline(file: Any) -> bool:
    size = file.seek(0, 2)
    if not size:
        return True
    file.seek(size - 1)
    return file.read(1) == b"\n"


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with files.explained(path), files.open_binary(path) as lines:
        for line in lines:
            try:
                record = json.loads(line.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                yield record
