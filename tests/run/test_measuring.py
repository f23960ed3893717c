"""After a run the plan is held against what was measured, and the ratio is kept for the next."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dougong.core.errors import ResourceError
from dougong.core.log import listening
from dougong.plan.history import interval
from dougong.run import Run, measuring, train
from dougong.train.report import read_run
from tests.plan.calibrated import made
from tests.tiny import tiny_recipe

QUIET = {"log": {"trackers": []}, "samples": {"prompts": []}}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plans.jsonl"


def trained(tmp_path: Path, **changes: Any) -> Run:
    return train(tiny_recipe(tmp_path, train={**QUIET, **changes}), run=tmp_path / "run")


def kept(path: Path) -> dict[str, float]:
    return {entry["kind"]: entry["ratio"] for entry in map(json.loads, path.read_text().splitlines())}


def test_a_run_says_what_its_plan_was_worth(cache: Path, tmp_path: Path) -> None:
    run = trained(tmp_path)
    plan = json.loads((run.folder / "plan.json").read_text())
    (event,) = [event for event in read_run(run.folder)[1] if event["event"] == "measured"]
    assert event["flops_per_step"] == plan["flops_per_step"]
    assert event["memory_bytes"] == pytest.approx(plan["memory_bytes"], rel=0.05)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "measured over planned" in page
    ratios = kept(cache)
    assert ratios.keys() == {"parameters", "flops", "memory"}  # seconds are foretold by a calibration alone
    assert ratios["parameters"] == ratios["flops"] == 1.0
    assert interval("memory", "gpt").runs == 1


def test_seconds_are_kept_where_the_machine_was_calibrated(cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(measuring, "calibration", made)
    run = trained(tmp_path)
    plan = json.loads((run.folder / "plan.json").read_text())
    times = sorted(step["seconds"] for step in read_run(run.folder)[0])
    assert plan["calibrated"] is True
    assert kept(cache)["seconds"] == pytest.approx(times[len(times) // 2] / plan["seconds_per_step"])


def test_a_wrong_plan_is_found_out(cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The control: a planner that foretells half the operations is told so."""
    real = measuring.predicted_step

    def halved(parts: Any) -> dict[str, Any]:
        found = real(parts)
        return {**found, "flops_per_step": found["flops_per_step"] / 2}

    monkeypatch.setattr("dougong.run.training.predicted_step", halved)
    trained(tmp_path)
    assert kept(cache)["flops"] == 2.0


def test_a_long_step_is_not_run_again(cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(measuring, "PATIENCE", 0.0)
    run = trained(tmp_path)
    (event,) = [event for event in read_run(run.folder)[1] if event["event"] == "measured"]
    assert "memory_bytes" not in event
    assert kept(cache).keys() == {"parameters"}


def test_a_history_that_cannot_be_kept_costs_the_run_nothing(cache: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise ResourceError("the disk is full.")

    monkeypatch.setattr(measuring, "record", full)
    lines: list[str] = []
    with listening(lines.append):
        run = trained(tmp_path)
    assert any("what the plan was worth could not be kept" in line for line in lines)
    assert (run.folder / "model" / "model.safetensors").exists()


def test_what_is_kept_narrows_the_next_plan(cache: Path, tmp_path: Path) -> None:
    before = interval("memory", "gpt")
    for number in range(4):
        train(tiny_recipe(tmp_path, train={**QUIET, "steps": 1}), run=tmp_path / f"run-{number}")
    after = interval("memory", "gpt")
    assert after.runs == 4
    assert math.log(after.high / after.low) < math.log(before.high / before.low)
