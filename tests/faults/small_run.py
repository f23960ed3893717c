"""A small run in a process of its own, with faults planned, and what it left: for tests that end it or break it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dougong.checkpoint.store import Store, load
from dougong.run import train
from dougong.train.report import Report, read_run

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json, sys
from pathlib import Path
from dougong.core.errors import DougongError
from dougong.train.loop import fit
from tests.train.small import Small, job
try:
    fit(job(Path(sys.argv[1]), Small(dropout=0.2), resume=True, **json.loads(sys.argv[2])))
except DougongError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def small_run(folder: Path, fault: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Trains the model of `tests/train/small.py`, or goes on with it."""
    return _finished([sys.executable, "-c", PROGRAM, str(folder), json.dumps(options)], fault)


def dougong(*words: str | Path, fault: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the real command line."""
    return _finished([sys.executable, "-m", "dougong", *map(str, words)], fault)


def _finished(command: list[str], fault: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment |= {"DOUGONG_TESTING": "1", "DOUGONG_FAULT": fault} if fault else {}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)


class _Crash(Exception):
    pass


def trained(values: Mapping[str, Any], run: Path, resume: bool = False, crash: int | None = None) -> Path:
    """Trains a recipe in this process; with `crash`, until that step is done, of which nothing is saved."""

    def observe(report: Report) -> None:
        if report.step == crash:
            raise _Crash

    try:
        train(dict(values), run=run, resume=resume, observers=[observe])
    except _Crash:
        assert crash is not None
    return run


def newest(folder: Path) -> dict[str, Any]:
    """Every tensor and scalar of the newest checkpoint of a run, verified, but for what is of the machine."""
    path = Store(folder / "checkpoints").newest()
    assert path is not None
    checkpoint = load(path)
    scalars = {name: value for name, value in checkpoint.scalars.items() if name not in ("environment", "identity")}
    return {"tensors": checkpoint.tensors, "scalars": scalars}


def trace(folder: Path) -> list[dict[str, Any]]:
    """What `run.jsonl` says of each step and of each time the run went back, but for times."""
    steps, events = read_run(folder)
    clock = ("time", "seconds", "data_seconds", "items_per_second", "mfu")
    lines = [*steps, *(event for event in events if event["event"] in ("rewind", "spike"))]
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]
