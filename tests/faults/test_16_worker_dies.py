"""Row 16: a process that prepares batches is killed (as a full memory does) or meets an error. Promise: the run ends
within 10 seconds with exit code 4 (killed) or that of the error (3 for bad data), naming the worker and the samples
it was making; it never hangs, and when the run itself is killed no worker outlives it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.core.contracts import Batch
from dougong.core.errors import FileError, ResourceError
from dougong.data import workers as module
from dougong.data.loader import Batches, BatchSizes
from dougong.run import train
from tests.tiny import tiny_recipe, write_recipe


def started(folder: Path, **environment: str) -> subprocess.Popen[str]:
    """A run with two workers that has long to go."""
    write_recipe(folder, train={"steps": 100_000, "workers": 2, "checkpoint": {"every": 20}, "evaluate": {"every": 0}})
    words = [sys.executable, "-m", "dougong", "train", str(folder / "tiny.yaml"), "--run", str(folder / "run")]
    given = {**os.environ, "DOUGONG_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(words, env=given, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """The same once it is well on its way, and the process numbers of its workers."""
    process = started(folder)
    try:
        deadline = time.monotonic() + 120
        while not list(folder.glob("run/checkpoints/step-*")):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield process, [int(child) for child in children]
    finally:
        process.kill()
        process.communicate()


def left(processes: Sequence[int], seconds: float = 2) -> list[int]:
    """Which processes still run after some seconds at most."""
    deadline = time.monotonic() + seconds
    while True:
        found = [process for process in processes if _runs(process)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_worker_ends_the_run_with_code_4_and_is_named_with_its_samples(tmp_path: Path) -> None:
    with running(tmp_path) as (process, workers):
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        begin = time.monotonic()
        _, text = process.communicate(timeout=60)
        assert time.monotonic() - begin < 10
        assert process.returncode == 4
        last = text.rstrip().split("\n")[-1]
        named = f"worker 1 (process {workers[1]}) must live as long as the run, but was killed by SIGKILL while"
        assert last.startswith("dougong: error[E-WORKER]: " + named)
        assert "making samples " in last or "it had nothing to do" in last
        assert "Traceback" not in text
        assert left(workers) == []


def test_bad_data_in_a_worker_ends_the_run_with_code_3(tmp_path: Path) -> None:
    process = started(tmp_path, DOUGONG_TESTING="1", DOUGONG_FAULT="data:6:bug")
    _, text = process.communicate(timeout=120)
    assert process.returncode == 3
    last = text.rstrip().split("\n")[-1]
    assert last.startswith("dougong: error[E-DATA]: ")
    assert "worker 1 met RuntimeError: a fault on purpose, while making samples 20 to 23 (step 6)" in last
    assert "Traceback" not in text


def test_no_worker_outlives_a_killed_run(tmp_path: Path) -> None:
    with running(tmp_path) as (process, workers):
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert len(workers) == 2
        assert left(workers) == []


def test_a_run_with_fewer_steps_than_workers_is_done(tmp_path: Path) -> None:
    values = tiny_recipe(tmp_path, train={"steps": 2, "workers": 5, "samples": {"prompts": []}})
    assert train(values, run=tmp_path / "run").steps == 2


class Numbers:
    """Example `n` is `n`; that of number 17 cannot be read."""

    def __getitem__(self, number: int) -> int:
        if number == 17:
            raise FileError("sample 17 must be a picture, but is not. Remove it.", name="E-PICTURE")
        return number


def batches(workers: int) -> Batches:
    def collate(examples: Sequence[Any], samples: Sequence[int]) -> Batch:
        return Batch({"value": torch.tensor(list(examples))}, torch.tensor(list(samples)))

    return Batches(Numbers(), collate, BatchSizes.constant(5), workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_strikes_in_the_worker_that_makes_the_batch_of_its_step(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUGONG_TESTING", "1")
    monkeypatch.setenv("DOUGONG_FAULT", "data:3:kill")
    made = batches(workers)
    lost = pytest.raises(ResourceError, match=r"worker 0 .* by SIGKILL while making samples 10 to 14 \(step 3\)")
    with made.prefetching(0), lost:
        [made[step] for step in range(3)]
    monkeypatch.setenv("DOUGONG_FAULT", "data:2:memory")
    with batches(0).prefetching(0), pytest.raises(MemoryError):
        _ = made[1]


def test_an_error_of_ours_keeps_its_sentence_and_says_where_it_came_up() -> None:
    made = batches(2)
    with made.prefetching(0):
        assert made[2]["value"].tolist() == [10, 11, 12, 13, 14]
        with pytest.raises(FileError) as caught:
            made[3]
    assert (caught.value.name, caught.value.exit_code) == ("E-PICTURE", 3)
    sentence = (
        "sample 17 must be a picture, but is not. Remove it. Met by worker 1 while making samples 15 to 19 (step 4)."
    )
    assert str(caught.value) == sentence


def test_without_the_line_that_ends_with_a_worker_the_run_would_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[socket.socket] = []
    original = socket.socketpair

    def kept_open() -> tuple[socket.socket, socket.socket]:
        mine, theirs = original()
        kept.append(theirs.dup())  # so its other end is not closed when the worker dies
        return mine, theirs

    monkeypatch.setenv("DOUGONG_TESTING", "1")
    monkeypatch.setenv("DOUGONG_FAULT", "data:1:kill")
    monkeypatch.setattr(module.socket, "socketpair", kept_open)
    met: list[BaseException] = []

    def ask() -> None:
        try:
            made[0]
        except ResourceError as error:
            met.append(error)

    made = batches(1)
    with made.prefetching(0):
        waiting = threading.Thread(target=ask)
        waiting.start()
        waiting.join(2)
        assert waiting.is_alive()  # hung; with the line, three tests above, this takes milliseconds
        assert not met
        for line in kept:
            line.close()
        waiting.join(10)
        assert [type(error) for error in met] == [ResourceError]
