"""Two fresh processes give what one gives; what depends on the process is noticed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.check import processes as module
from dougong.check.peer import Sums, leave_work, read_sums, sums_of, work
from dougong.check.processes import CLAIM, processes
from dougong.check.result import found
from dougong.check.subject import Subject, noisy


def test_two_processes_equal_one(made: Callable[..., Subject]) -> None:
    result = processes(made(model={"dropout": 0.2}, data={"across_documents": False}))
    assert result.verdict == "passed"
    assert result.difference is not None
    assert result.difference < 1e-12


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does the work of both processes in this one, which takes no seconds to start."""
    monkeypatch.setattr(module, "_started", lambda folder, rank: (folder, rank))
    monkeypatch.setattr(module, "_wait", lambda peers: [work(*peer) for peer in peers.values()])


@pytest.mark.usefixtures("within")
def test_a_share_that_is_lost_is_noticed(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes(subject).verdict == "passed"
    sound = module.read_sums

    def doubled(folder: Path, rank: int) -> Sums:
        share = sound(folder, rank)
        return replace(share, gradients={n: g * (1 + rank * 1e-6) for n, g in share.gradients.items()})

    monkeypatch.setattr(module, "read_sums", doubled)
    result = processes(subject)
    assert (result.verdict, result.exit_code) == ("failed", 1)
    assert "of two processes together differs from that of one" in result.detail


@pytest.mark.usefixtures("within")
def test_means_instead_of_sums_are_noticed(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    uneven = replace(subject, rows=lambda count, operations: subject.task.uneven(subject.rows(3, operations)))
    assert processes(uneven).verdict == "passed"
    sound = module.read_sums

    def mean(folder: Path, rank: int) -> Sums:
        share = sound(folder, rank)
        gradients = {name: gradient / share.weight for name, gradient in share.gradients.items()}
        return Sums(share.loss / share.weight, 1.0, gradients)

    monkeypatch.setattr(module, "read_sums", mean)
    assert processes(uneven).verdict == "failed"


def test_a_process_that_fails_is_told_of(subject: Subject) -> None:
    broken = replace(subject, sections={**subject.sections, "model": {"name": "gpt", "dimm": 3}})
    result = found(CLAIM, lambda: processes(broken))
    assert (result.verdict, result.exit_code) == ("failed", 6)
    assert "process 0 must finish, but ended with code 1" in result.detail


@pytest.mark.parametrize(("large", "at_once"), [(0, 1), (1 << 40, 2)])
def test_processes_of_a_large_model_take_turns(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, large: int, at_once: int
) -> None:
    """Both at once would want their memory at once."""
    started: list[subprocess.Popen[str]] = []
    alive: list[int] = []
    sound = module._started

    def counted(folder: Path, rank: int) -> subprocess.Popen[str]:
        started.append(sound(folder, rank))
        alive.append(sum(peer.poll() is None for peer in started))
        return started[-1]

    monkeypatch.setattr(module, "LARGE", large)
    monkeypatch.setattr(module, "_started", counted)
    assert processes(subject).verdict == "passed"
    assert (len(started), max(alive)) == (2, at_once)


def test_a_process_that_is_killed_is_told_of(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    die = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(module, "_started", lambda *_: subprocess.Popen(die, stderr=subprocess.PIPE, text=True))
    result = found(CLAIM, lambda: processes(subject))
    assert (result.verdict, result.exit_code) == ("failed", 6)
    assert "process 0 must finish, but was killed by SIGKILL, as the system does when memory runs out" in result.detail


def test_a_batch_of_one_is_not_shared(made: Callable[..., Subject]) -> None:
    assert processes(made(train={"batch_size": 1})).verdict == "skipped"


def test_what_a_process_is_given_comes_back_whole(subject: Subject, tmp_path: Path) -> None:
    model: Any = subject.stirred()
    batch = noisy(subject, model, subject.rows(2, 1e12)).with_noise(torch.arange(2, dtype=torch.int32))
    leave_work(tmp_path, subject.sections, model, [batch])
    work(tmp_path, 0)
    here, there = sums_of(model, subject.task, batch), read_sums(tmp_path, 0)
    assert (here.loss, here.weight) == (there.loss, there.weight)
    assert all(torch.equal(gradient, there.gradients[name]) for name, gradient in here.gradients.items())
