from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from dougong.core.errors import UsageError
from dougong.core.injection import POINTS, strike


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch):
    """Plans faults for the rest of the test."""

    def plan(text: str, testing: str = "1") -> None:
        monkeypatch.setenv("DOUGONG_FAULT", text)
        monkeypatch.setenv("DOUGONG_TESTING", testing)

    return plan


def test_a_fault_happens_at_its_point_and_step_alone(planned) -> None:
    planned("grad:7:spike, loss:9:inf")
    found = {(point, step): strike(point, step) for point in POINTS for step in range(12)}
    assert {place: value for place, value in found.items() if value is not None} == {
        ("grad", 7): 50.0,
        ("loss", 9): math.inf,
    }


@pytest.mark.parametrize("kind", ["nan", "inf", "spike"])
def test_numbers_are_spoiled_by_a_factor(planned, kind: str) -> None:
    planned(f"loss:1:{kind}")
    factor = strike("loss", 1)
    assert factor is not None
    assert math.isfinite(factor) == (kind == "spike")
    assert math.isnan(factor) == (kind == "nan")


@pytest.mark.parametrize(("kind", "number"), [("full", errno.ENOSPC), ("quota", errno.EDQUOT), ("eio", errno.EIO)])
def test_the_disk_fails_as_the_system_says_it(planned, kind: str, number: int) -> None:
    planned(f"ckpt.shard:3:{kind}")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is looked at
        strike("ckpt.shard", 3)
    assert caught.value.errno == number


@pytest.mark.parametrize(("kind", "error"), [("memory", MemoryError), ("bug", RuntimeError)])
def test_the_memory_is_full_and_we_make_a_mistake(planned, kind: str, error: type[Exception]) -> None:
    planned(f"data:3:{kind}")
    with pytest.raises(error, match="on purpose"):
        strike("data", 3)


@pytest.mark.parametrize("kind", ["kill", "term", "usr1", "int", ""])
def test_a_signal_ends_the_process(kind: str) -> None:
    code = (
        "import signal; from dougong.core.injection import strike\nsignal.signal(2, signal.SIG_DFL); strike('step', 2)"
    )
    environment = {**os.environ, "DOUGONG_FAULT": f"step:2:{kind}".rstrip(":"), "DOUGONG_TESTING": "1"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    number = {"term": signal.SIGTERM, "usr1": signal.SIGUSR1, "int": signal.SIGINT}.get(kind, signal.SIGKILL)
    assert found.returncode == -number


def test_a_slow_point_takes_so_many_seconds(planned) -> None:
    planned("step:2:sleep0.2")
    begin = time.monotonic()
    assert strike("step", 2) is None
    assert time.monotonic() - begin >= 0.2


@pytest.mark.parametrize("testing", ["", "0", "yes"])
def test_nothing_happens_unless_testing(planned, testing: str) -> None:
    planned("loss:1:nan,step:1:kill,nonsense", testing)
    assert [strike(point, 1) for point in POINTS] == [None] * len(POINTS)


def test_without_a_plan_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_TESTING", "1")
    monkeypatch.delenv("DOUGONG_FAULT", raising=False)
    assert [strike(point, 1) for point in POINTS] == [None] * len(POINTS)


@pytest.mark.parametrize(
    "plan", ["loss", "loss:", "loss:x:nan", "loss:-1:nan", "loss:²:nan", "los:1:nan", "loss:1:nna", "loss:1:sleep",
             "loss:1:nan,step:2:klil", "loss:1:nan:", ","]
)  # fmt: skip
def test_a_malformed_plan_is_refused_wherever_one_looks(planned, plan: str) -> None:
    planned(plan)
    with pytest.raises(UsageError, match="DOUGONG_FAULT must be point:step") as caught:
        strike("data", 5)
    assert caught.value.exit_code == 2


def test_a_number_is_spoiled_only_where_there_is_one(planned) -> None:
    planned("step:3:nan")
    with pytest.raises(UsageError, match="Use nan at loss or grad"):
        strike("step", 3)
