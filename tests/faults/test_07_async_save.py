"""Row 07: a save in the background while the weights keep changing. Promise: its bytes equal those of a save that stops
the run; at most one is under way; a failure surfaces at the next step, not at the end of the run.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dougong.checkpoint.store import Store, load
from dougong.core import files, log
from dougong.core.errors import ResourceError
from dougong.train import checkpointer as checkpointers
from dougong.train.checkpointer import Checkpointer
from dougong.train.loop import fit
from dougong.train.report import Report, read_run
from tests.train.small import Small, job

RICH: dict[str, Any] = {
    "steps": 10,
    "optimizer": {"name": "adamw", "lr": 0.05},
    "ema": {"decay": 0.8},
    "early_stopping": {"patience": 9},
    "evaluate": {"every": 2},
}


@pytest.fixture(autouse=True)
def testing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_TESTING", "1")


def content(folder: Path, step: int) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Store(folder / "checkpoints").path(step).iterdir())}


def trained(folder: Path, asynchronous: bool, **options: Any) -> dict[str, bytes]:
    fit(job(folder, Small(), **RICH, checkpoint={"every": 4, "keep": 9, "asynchronous": asynchronous}, **options))
    return content(folder, 4)


def test_the_bytes_are_those_of_a_save_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = trained(tmp_path / "waiting", asynchronous=False)
    monkeypatch.setenv("DOUGONG_FAULT", "ckpt.shard:4:sleep0.3")
    seen: list[bool] = []
    store = Store(tmp_path / "background/checkpoints")

    def look(report: Report) -> None:
        if 4 < report.step < 8:
            seen.append(store.path(4).exists())

    background = trained(tmp_path / "background", asynchronous=True, observers=[look])
    assert seen == [False] * 3, "the run must have gone on while the save was under way"
    assert background.keys() == waiting.keys() >= {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert background == waiting
    assert content(tmp_path / "background", 10) == content(tmp_path / "waiting", 10)


def test_without_a_copy_of_the_state_the_bytes_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = trained(tmp_path / "waiting", asynchronous=False)
    monkeypatch.setenv("DOUGONG_FAULT", "ckpt.shard:4:sleep0.3")
    monkeypatch.setattr(checkpointers._Copies, "take", lambda self, tensors: tensors)
    assert trained(tmp_path / "background", asynchronous=True)["model.safetensors"] != waiting["model.safetensors"]


def test_at_most_one_save_is_under_way_and_they_end_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most, order, threads = 0, 0, list[int](), set[str]()
    original = Store.save

    def slow(self: Store, step: int, *rest: Any) -> Path:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        threads.add(threading.current_thread().name)
        time.sleep(0.03)
        target = original(self, step, *rest)
        order.append(step)
        under_way -= 1
        return target

    monkeypatch.setattr(Store, "save", slow)
    fit(job(tmp_path, Small(), steps=8, checkpoint={"every": 1}))
    assert most == 1
    assert order == list(range(1, 9))
    assert any(name.startswith("checkpoint") for name in threads)


def failing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ResourceError, list[int]]:
    """Runs with a writer that fails at step 4, before step 5 ends; returns the error and the steps done by then."""
    monkeypatch.setenv("DOUGONG_FAULT", "ckpt.shard:4:eio")
    done, failed, original = list[int](), threading.Event(), Store.save

    def save(self: Store, step: int, *rest: Any) -> Path:
        try:
            return original(self, step, *rest)
        finally:
            if step == 4:
                failed.set()

    def watch(report: Report) -> None:
        done.append(report.step)
        if report.step == 5:
            assert failed.wait(60)
            time.sleep(0.05)

    monkeypatch.setattr(Store, "save", save)
    with pytest.raises(ResourceError) as caught:
        fit(job(folder, Small(), steps=9, checkpoint={"every": 2}, observers=[watch]))
    return caught.value, done


def test_a_failure_surfaces_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, done = failing(tmp_path, monkeypatch)
    assert (error.exit_code, error.name) == (4, "E-DISK")
    assert "step 2 is kept" in str(error)
    assert done[-1] == 5
    assert load(Store(tmp_path / "checkpoints").newest()).scalars["step"] == 2
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_without_asking_at_each_step_a_failure_surfaces_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpointer, "poll", lambda self: None)
    assert failing(tmp_path, monkeypatch)[1][-1] > 5


def test_a_failure_after_another_error_is_told_and_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUGONG_FAULT", "ckpt.fsync:4:full")

    def crash(report: Report) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    said: list[str] = []
    monkeypatch.setattr(Checkpointer, "poll", lambda self: None)
    with log.listening(said.append), pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path, Small(), checkpoint={"every": 4}, observers=[crash]))
    assert any("the last checkpoint was not saved" in text and "No space left" in text for text in said)


def test_the_record_of_steps_is_on_the_disk_before_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, save = files.sync_file, Store.save

    def synced(path: Path) -> None:
        if path.name == "run.jsonl":
            order.append(f"run.jsonl to {read_run(tmp_path)[0][-1]['step']}")
        sync(path)

    monkeypatch.setattr(files, "sync_file", synced)
    monkeypatch.setattr(Store, "save", lambda self, step, *rest: (order.append(f"{step}"), save(self, step, *rest)))
    fit(job(tmp_path, Small(), steps=4, checkpoint={"every": 2}))
    assert order == ["run.jsonl to 2", "2", "run.jsonl to 4", "4"]
