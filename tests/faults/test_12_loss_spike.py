"""Row 12: the loss jumps far above its last values. Promise: a detector (median and median absolute deviation over the
last `train.spike.window` losses) warns, naming step, loss, median and samples, and never on ordinary training; with
`action: rewind` the run goes back to the last checkpoint and passes over a window of batches, which is written down,
limited in number, and the same in every run of the recipe, killed in between or not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dougong.core import log
from dougong.core.errors import NonFiniteError
from dougong.train.loop import fit
from dougong.train.report import read_run
from tests.faults.small_run import newest, small_run, trace
from tests.train.small import Small, job
from tests.train.test_loop import RICH, same_state

FAULT = "loss:21:spike,loss:22:spike,loss:23:spike"
OPTIONS: dict[str, Any] = {**RICH, "steps": 30, "optimizer": {"name": "adamw", "lr": 0.01}, "checkpoint": {"every": 8}}
OPTIONS["early_stopping"] = {"patience": 99}
SPIKE = {"window": 20, "threshold": 30.0}  # losses of twelve examples vary much
WARN = {**OPTIONS, "spike": SPIKE}
BACK = {**OPTIONS, "spike": {**SPIKE, "action": "rewind", "pass_over": 6}}


@pytest.fixture(autouse=True)
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_TESTING", "1")
    monkeypatch.setenv("DOUGONG_FAULT", FAULT)


def events(folder: Path) -> list[tuple[str, int]]:
    return [(e["event"], e["step"]) for e in read_run(folder)[1] if e["event"] in ("spike", "rewind")]


def test_a_spike_is_warned_of_once_with_its_step_samples_and_measures(tmp_path: Path) -> None:
    said: list[str] = []
    with log.listening(said.append):
        fit(job(tmp_path, Small(dropout=0.2), **WARN))
    assert events(tmp_path) == [("spike", 21)]
    (warning,) = [line for line in said if "spike" in line and "warning" in line]
    assert warning.startswith("dougong: warning: step 21: the loss ")
    assert "median absolute deviations above the median" in warning
    assert "(samples 240 to 251)" in warning
    (event,) = [event for event in read_run(tmp_path)[1] if event["event"] == "spike"]
    assert event["loss"] > event["median"] + 30 * event["deviation"] > 0
    assert event["samples"] == [[240, 251]]
    assert read_run(tmp_path)[0][-1]["step"] == 30


def test_going_back_passes_the_recorded_window_over_and_meets_no_spike_again(tmp_path: Path) -> None:
    fit(job(tmp_path / "one", Small(dropout=0.2), **BACK))
    fit(job(tmp_path / "two", Small(dropout=0.2), **BACK))
    (event,) = [event for event in read_run(tmp_path / "one")[1] if event["event"] == "rewind"]
    assert (event["step"], event["to"], event["passed_over"], event["cause"]) == (21, 16, [[17, 22]], "spike")
    assert event["reason"].startswith("step 21: the loss ")
    numbers = [first // 12 for step in read_run(tmp_path / "one")[0] for first, _ in step["samples"]]
    assert numbers == [*range(17), *range(23, 36)]
    losses = [step["loss"] for step in read_run(tmp_path / "one")[0]]
    assert max(losses) < 10 * sorted(losses)[15]
    assert trace(tmp_path / "one") == trace(tmp_path / "two")
    assert same_state(newest(tmp_path / "one"), newest(tmp_path / "two"))


@pytest.mark.parametrize("kill", [19, 26])
def test_a_run_killed_before_or_after_goes_the_same_way(tmp_path: Path, kill: int) -> None:
    fit(job(tmp_path / "unbroken", Small(dropout=0.2), **BACK))
    assert small_run(tmp_path / "killed", f"{FAULT},step:{kill}:kill", **BACK).returncode == -9
    fit(job(tmp_path / "killed", Small(dropout=0.2), resume=True, **BACK))
    assert same_state(newest(tmp_path / "unbroken"), newest(tmp_path / "killed"))
    samples = [[step["samples"] for step in read_run(tmp_path / name)[0]] for name in ("unbroken", "killed")]
    assert samples[0] == samples[1]


def test_the_number_of_times_is_limited_and_the_run_ends_with_code_5(tmp_path: Path) -> None:
    narrow = {**BACK, "spike": {**BACK["spike"], "pass_over": 1, "max_rewinds": 2}}
    with pytest.raises(NonFiniteError, match=r"step 21: .* is a spike.*the run went back 2 times already") as caught:
        fit(job(tmp_path, Small(dropout=0.2), **narrow))
    assert (caught.value.exit_code, caught.value.name) == (5, "E-DIVERGED")
    assert events(tmp_path) == [("rewind", 21), ("rewind", 21)]


def test_without_the_detector_nothing_is_said_and_nothing_goes_back(tmp_path: Path) -> None:
    fit(job(tmp_path / "off", Small(dropout=0.2), **{**OPTIONS, "spike": None}))
    assert events(tmp_path / "off") == []
    losses = [step["loss"] for step in read_run(tmp_path / "off")[0]]
    assert max(losses) > 10 * sorted(losses)[15]
    fit(job(tmp_path / "on", Small(dropout=0.2), **BACK))
    assert not same_state(newest(tmp_path / "off"), newest(tmp_path / "on"))


def test_without_a_fault_there_is_no_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOUGONG_FAULT")
    fit(job(tmp_path, Small(dropout=0.2), **{**WARN, "steps": 150}))
    assert events(tmp_path) == []
