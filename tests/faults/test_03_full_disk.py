"""Row 03: the disk fills, fails or is over quota while a checkpoint is saved. Promise: exit 4 with what is needed, what
is free and which step is kept; the old checkpoint is identical to the byte and nothing partial has a checkpoint's name;
the space is estimated before the first step.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dougong.checkpoint import store as stores
from dougong.checkpoint.store import Store, load
from dougong.core import files
from dougong.core.errors import ResourceError
from dougong.train.loop import fit
from dougong.train.report import Report
from tests.train.small import Small, equal, job, weights

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {"steps": 30, "optimizer": {"name": "adamw", "lr": 0.02}, "checkpoint": {"every": 10}}

# Real runs on a small disk: the first ends where the disk is full, the second before its first step.
SMALL_DISK = """
import hashlib, sys, time
from pathlib import Path
from dougong.core import files
from dougong.core.errors import ResourceError
from dougong.train.loop import fit
from tests.train.small import Small, job

def digest(folder):
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()

disk, before = Path(sys.argv[1]), []

def fill(report):
    if report.step == 15:
        while not (disk / "run/checkpoints/step-00000010").exists():
            time.sleep(0.01)
        before.append(digest(disk / "run/checkpoints/step-00000010"))
        free = files.free_bytes
        files.free_bytes = lambda path: 10**12  # so that it is the disk itself that refuses
        (disk / "others").write_bytes(bytes(free(disk) - 8000))

options = {"steps": 30, "optimizer": {"name": "adamw", "lr": 0.02}, "checkpoint": {"every": 10}}
try:
    fit(job(disk / "run", Small(), observers=[fill], **options))
except ResourceError as error:
    print(error.exit_code, error.name, "step 10 is kept" in str(error), "No space left" in str(error))
checkpoints = disk / "run/checkpoints"
print(sorted(path.name for path in checkpoints.iterdir()), digest(checkpoints / "step-00000010") == before[0])
sys.stdout.flush()
import importlib
importlib.reload(files)
seen = []
try:
    fit(job(disk / "another", Small(), observers=[seen.append], **options))
except ResourceError as error:
    print(error.exit_code, error.name, "no checkpoint is saved yet" in str(error), len(seen))
"""


def test_a_real_disk_that_fills_keeps_the_older_checkpoint(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk; a limit of file sizes and injection show the same")
    script = f'mount -t tmpfs -o size=1m none "{tmp_path}" && exec "{sys.executable}" -c "$1" "{tmp_path}"'
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = ["unshare", "-rm", "bash", "-c", script, "bash", SMALL_DISK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "4 E-DISK True True",
        "['step-00000010'] True",
        "4 E-DISK True 0",
    ], done.stderr


def digest(folder: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


SAVE = Store.save


class Watch:
    """Takes note of the checkpoint of step 10 as it is before step 20, and lets step 21 last until 20 has failed."""

    def __init__(self, folder: Path):
        self.folder, self.before, self.steps = folder / "checkpoints/step-00000010", "", 0
        self.failed = threading.Event()

    def __call__(self, report: Report) -> None:
        self.steps = report.step
        if report.step == 19:
            while not self.folder.exists():  # it is being saved in the background
                time.sleep(0.01)
            self.before = digest(self.folder)
        elif report.step == 21:
            assert self.failed.wait(60)
            time.sleep(0.05)

    def save(self, store: Store, step: int, *rest: Any) -> Path:
        try:
            return SAVE(store, step, *rest)
        finally:
            if step == 20:
                self.failed.set()


def fails_at_20(folder: Path, **options: Any) -> ResourceError:
    """Trains into a failure at step 20; sees that step 10 is as it was, alone, and can be gone on from."""
    watch = Watch(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "save", lambda store, *given: watch.save(store, *given))
        with pytest.raises(ResourceError) as caught:
            fit(job(folder, Small(), observers=[watch], **OPTIONS, **options))
    assert caught.value.exit_code == 4
    assert digest(watch.folder) == watch.before
    assert watch.steps == 21
    return caught.value


KINDS = {"full": "No space left on device", "quota": "quota exceeded", "eio": "Input/output error"}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("point", ["ckpt.shard", "ckpt.fsync", "ckpt.commit"])
def test_a_failing_disk_is_exit_4_and_the_run_goes_on_from_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, kind: str
) -> None:
    monkeypatch.setenv("DOUGONG_TESTING", "1")
    monkeypatch.setenv("DOUGONG_FAULT", f"{point}:20:{kind}")
    error = fails_at_20(tmp_path)
    assert error.name == "E-DISK"
    assert KINDS[kind] in str(error)
    assert "the checkpoint of step 20 needs 0.1 MB, " in str(error)
    assert " MB are free in " in str(error)
    assert "step 10 is kept" in str(error)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]
    monkeypatch.undo()
    resumed, unbroken = Small(), Small()
    fit(job(tmp_path, resumed, resume=True, **OPTIONS))
    fit(job(tmp_path / "unbroken", unbroken, **OPTIONS))
    assert equal(weights(resumed), weights(unbroken))


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within this context no file of this process may grow beyond a size, as by `ulimit -f`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_of_file_sizes_is_a_full_disk(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tensors = {"model": {name: tensor.expand(2000, *tensor.shape) for name, tensor in weights(Small()).items()}}
    store.save(10, tensors, {"step": 10})
    before = digest(store.path(10))
    with largest_file(100_000), pytest.raises(ResourceError, match="File too large.*") as caught:
        store.save(20, tensors, {"step": 20})
    assert (caught.value.name, caught.value.exit_code) == ("E-DISK", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    assert digest(store.path(10)) == before
    load(store.path(10))


def test_a_record_that_cannot_be_written_is_exit_4(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.jsonl").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"run\.jsonl cannot be written: No space left") as caught:
        fit(job(tmp_path / "run", Small(), **OPTIONS))
    assert (caught.value.name, caught.value.exit_code) == ("E-DISK", 4)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_space_is_estimated_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Report] = []
    one = stores.checkpoint_bytes({"model": weights(Small())})
    monkeypatch.setattr(files, "free_bytes", lambda path: 2 * one)  # enough for one, not for one more than stay
    with pytest.raises(ResourceError, match=r"checkpoints need 0\.2 MB, but 0\.1 MB are free in .*; no checkpoint is"):
        fit(job(tmp_path, Small(), observers=[seen.append], **OPTIONS))
    assert seen == []
    monkeypatch.setattr(files, "free_bytes", lambda path: 5 * one)
    fit(job(tmp_path, Small(), **OPTIONS))


def test_without_the_estimate_steps_are_done_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "require_space", lambda self, needed: None)
    monkeypatch.setenv("DOUGONG_TESTING", "1")
    monkeypatch.setenv("DOUGONG_FAULT", "ckpt.shard:10:full")
    seen: list[Report] = []
    with pytest.raises(ResourceError):
        fit(job(tmp_path, Small(), observers=[seen.append], **OPTIONS))
    assert len(seen) >= 10


def test_without_a_folder_of_its_own_a_failed_save_has_a_checkpoints_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def in_place(target: Path, before: Any = None) -> Iterator[Path]:
        target.mkdir(parents=True)
        yield target
        before("fsync")

    monkeypatch.setattr(files, "new_folder", in_place)
    monkeypatch.setenv("DOUGONG_TESTING", "1")
    monkeypatch.setenv("DOUGONG_FAULT", "ckpt.shard:20:full")
    with pytest.raises(ResourceError):
        fit(job(tmp_path, Small(), **OPTIONS))
    assert (tmp_path / "checkpoints/step-00000020").exists()
