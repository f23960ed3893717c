"""A plan's interval narrows with the runs that bear it out, moves to where they are, and is this machine's alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from dougong.core.errors import UsageError
from dougong.plan import history
from dougong.plan.history import Interval, interval, record, t_quantile


def width(found: Interval) -> float:
    return math.log(found.high / found.low)


def test_the_interval_narrows_with_runs_that_bear_the_plan_out(tmp_path: Path) -> None:
    before = interval("seconds", "gpt", tmp_path)
    assert before.runs == 0
    assert before.middle == 1.0
    assert before.low < 0.8
    assert before.high > 1.25
    widths = [width(before)]
    for measured in (1.01, 0.99, 1.02, 0.98) * 3:
        record("seconds", "gpt", 1.0, measured, tmp_path)
        widths.append(width(interval("seconds", "gpt", tmp_path)))
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0] / 2


def test_the_interval_widens_where_runs_differ(tmp_path: Path) -> None:
    for measured in (0.5, 2.0, 0.6, 1.7):
        record("memory", "gpt", 1.0, measured, tmp_path)
    assert width(interval("memory", "gpt", tmp_path)) > 4 * width(interval("memory", "gpt", tmp_path / "empty"))


def test_the_middle_moves_to_where_runs_lie(tmp_path: Path) -> None:
    for _ in range(20):
        record("seconds", "gpt", 2.0, 3.0, tmp_path)
    found = interval("seconds", "gpt", tmp_path)
    assert found.middle == pytest.approx(1.5, rel=0.03)
    assert found.low > 1.2
    assert found.high < 1.8


def test_a_family_borrows_the_runs_of_others_until_it_has_three(tmp_path: Path) -> None:
    for _ in range(8):
        record("seconds", "gpt", 1.0, 2.0, tmp_path)
    assert interval("seconds", "stack", tmp_path).runs == 8
    for _ in range(3):
        record("seconds", "stack", 1.0, 1.0, tmp_path)
    found = interval("seconds", "stack", tmp_path)
    assert found.runs == 3
    assert found.middle == 1.0
    assert interval("memory", "stack", tmp_path).runs == 0


def test_another_machine_has_a_history_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record("seconds", "gpt", 1.0, 2.0, tmp_path)
    monkeypatch.setattr(history, "machine_name", lambda: "another")
    assert interval("seconds", "gpt", tmp_path).runs == 0
    monkeypatch.undo()
    assert interval("seconds", "gpt", tmp_path).runs == 1


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    for _ in range(2):
        record("seconds", "gpt", 1.0, 2.0, tmp_path)
    path = tmp_path / "plans.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"\n" + content.splitlines()[0].replace(b"2.0", b"-2.0") + b"\n[]\n\xff\n")
    assert interval("seconds", "gpt", tmp_path).runs == 1


def test_the_history_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    record("seconds", "gpt", 1.0, 2.0, tmp_path)
    path = tmp_path / "plans.jsonl"
    path.write_bytes(path.read_bytes() * history.LIMIT)
    record("seconds", "gpt", 1.0, 3.0, tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == history.LIMIT // 2
    assert json.loads(lines[-1])["ratio"] == 3.0


@pytest.mark.parametrize(("predicted", "measured"), [(0.0, 1.0), (1.0, 0.0), (math.inf, 1.0), (1.0, math.nan)])
def test_figures_must_be_above_zero(predicted: float, measured: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="above zero"):
        record("seconds", "gpt", predicted, measured, tmp_path)
    assert not (tmp_path / "plans.jsonl").exists()


@pytest.mark.parametrize(("freedom", "expected"), [(4.0, 2.132), (5.0, 2.015), (10.0, 1.812), (1e9, 1.645)])
def test_quantiles_are_those_of_the_tables(freedom: float, expected: float) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(expected, abs=0.01)
