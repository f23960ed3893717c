"""Row 02: `kill -9` at any moment of a save. Promise: the newest whole checkpoint loads, a torn one is never chosen
because none ever has a checkpoint's name, the one before it is intact, and what was left behind is removed at the next
start. Killed at four named points of real runs, and 200 times at random microseconds inside saves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dougong.checkpoint.seal import verify
from dougong.checkpoint.store import Store, load
from dougong.core import files
from dougong.train.loop import fit
from tests.train.small import Small, equal, job, weights

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {
    "steps": 36,
    "optimizer": {"name": "adamw", "lr": 0.01},
    "checkpoint": {"every": 10},
    "evaluate": {"every": 0},
}

# Each child is a process of its own, forked from one that has imported torch, so that a kill costs milliseconds.
POINTS = """
import json, os, sys
from pathlib import Path
from dougong.core import log
from dougong.train.loop import fit
from tests.train.small import Small, job

folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
os.environ["DOUGONG_TESTING"] = "1"
for point in ("ckpt.shard", "ckpt.fsync", "ckpt.commit", "ckpt.prune"):
    child = os.fork()
    if not child:
        os.environ["DOUGONG_FAULT"] = f"{point}:30:kill"
        with log.listening(lambda text: None):
            fit(job(folder / point, Small(), **options))
        os._exit(0)
    print(point, os.waitpid(child, 0)[1], flush=True)
"""

KILLS = """
import contextlib, os, random, signal, sys, time
from pathlib import Path
import torch
from dougong.checkpoint.store import Store, load
from dougong.core import files
from dougong.core.errors import FileError

folder, kills, mode = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

@contextlib.contextmanager
def in_place(target, before=None):
    target.mkdir(parents=True, exist_ok=True)
    yield target

if mode == "in place":
    files.new_folder = in_place
store, chooser = Store(folder), random.Random(0)

def state(step):
    return {"model": {"w": torch.full((50_000,), float(step)), "b": torch.full((7,), float(step))}}

def saving(first, pipe):
    step = first
    while True:
        os.write(pipe, b"s")
        store.save(step, state(step), {"step": step})
        os.write(pipe, b"d")
        step += 1

begin = time.perf_counter()
for step in range(1, 6):
    store.save(step, state(step), {"step": step})
length = (time.perf_counter() - begin) / 5
last, inside, good, torn = 5, 0, 0, 0
for _ in range(kills):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        saving(last + 1, writing)
    os.close(writing)
    os.read(reading, 1)
    time.sleep(chooser.uniform(0, 1.5 * length))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = b"".join(iter(lambda: os.read(reading, 4096), b""))
    os.close(reading)
    saved = last + told.count(b"d")
    inside += told[-1:] != b"d"
    try:
        checkpoint = load(store.newest())
    except FileError:
        torn += 1
        while True:
            try:
                last = load(store.newest()).scalars["step"]
                break
            except FileError:
                store.remove(store.steps()[-1])
        continue
    step = checkpoint.scalars["step"]
    assert saved <= step <= saved + 1, (saved, step)
    assert all((tensor == step).all() for tensor in checkpoint.tensors["model"].values())
    load(store.path(store.steps()[0]))
    store.clean()
    assert all(path.name.startswith("step-") for path in folder.iterdir())
    good, last = good + 1, step
print(inside, good, torn)
"""


def python(program: str, *words: str) -> list[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    lines = python(POINTS, str(folder), json.dumps(OPTIONS))
    assert [line.split()[1] for line in lines] == ["9"] * 4
    return folder


@pytest.mark.parametrize(
    ("point", "steps"),
    [("ckpt.shard", [10, 20]), ("ckpt.fsync", [10, 20]), ("ckpt.commit", [10, 20]), ("ckpt.prune", [10, 20, 30])],
)
def test_a_run_killed_at_a_point_of_a_save_goes_on_as_if_unbroken(
    killed: Path, point: str, steps: list[int], tmp_path: Path
) -> None:
    folder = killed / point
    store = Store(folder / "checkpoints")
    assert store.steps() == steps
    for step in steps:
        verify(store.path(step))
    leftovers = [path for path in store.folder.iterdir() if not path.name.startswith("step-")]
    assert len(leftovers) == (point != "ckpt.prune")
    resumed, unbroken = Small(), Small()
    fit(job(folder, resumed, resume=True, **OPTIONS))
    fit(job(tmp_path, unbroken, **OPTIONS))
    assert equal(weights(resumed), weights(unbroken))
    assert {path.name for path in store.folder.iterdir()} == {"step-00000030", "step-00000036"}


def test_200_kills_inside_saves_leave_a_whole_newest_checkpoint_200_times(tmp_path: Path) -> None:
    inside, good, torn = map(int, python(KILLS, str(tmp_path), "200", "renamed")[-1].split())
    assert (good, torn) == (200, 0)
    assert inside >= 60, "most kills must strike while a save is under way"


def test_without_the_last_rename_kills_leave_torn_checkpoints(tmp_path: Path) -> None:
    _, good, torn = map(int, python(KILLS, str(tmp_path), "40", "in place")[-1].split())
    assert good + torn == 40
    assert torn > 5


def test_without_cleaning_a_cut_off_save_leaves_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leftover = tmp_path / "checkpoints/.step-00000030.partial-abc"
    leftover.mkdir(parents=True)
    monkeypatch.setattr(Store, "clean", lambda self: None)
    fit(job(tmp_path, steps=2))
    assert leftover.exists()
    assert load(Store(tmp_path / "checkpoints").newest()).scalars["step"] == 2


def test_what_a_cut_off_save_of_the_model_left_behind_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".model.partial-abc", ".model.partial-abc.old", "model", ".other.partial-abc", ".model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    files.remove_leftovers(tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"model", ".other.partial-abc", ".model"}
