"""`dougong plan` says what a person asks first, in lines that can be read, and all of it as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dougong.cli.plan import _seconds
from dougong.plan.tables import Calibration
from tests.plan.calibrated import made
from tests.tiny import tiny_recipe, write_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A recipe whose text is not there."""
    path = write_recipe(tmp_path, model={"vocab_size": 257})
    (tmp_path / "tiny.txt").unlink()
    return str(path)


def test_a_plan_can_be_read(recipe: str, dougong: Any) -> None:
    answer = dougong("plan", recipe)
    assert answer.code == 0, answer.err
    for heading in ("parameters", "operations ", "on this machine", "in use", "on one accelerator", "scaling "):
        assert heading in answer.out
    assert "7,680" in answer.out
    assert "--calibrate measures more" in answer.out
    assert "fits here" not in answer.out
    assert max(map(len, answer.out.splitlines())) < 160


def test_the_same_as_json(recipe: str, dougong: Any) -> None:
    found = dougong("plan", recipe, "--json").json
    assert found["parameters"] == 7680
    assert found["steps"] == 8
    assert found["here"]["memory"]["peak"] > 4 * 7680
    assert dougong("plan", recipe, "--set", "model.num_layers=2", "--json").json["parameters"] > 7680


def test_layouts_are_told_best_first(dougong: Any) -> None:
    answer = dougong("plan", "gpt3-small", "--devices", "8xh100")
    assert answer.code == 0, answer.err
    assert "8 x h100" in answer.out
    assert "layout" in answer.out
    assert "on this machine" not in answer.out


def test_a_diagram_is_drawn(recipe: str, dougong: Any, tmp_path: Path) -> None:
    answer = dougong("plan", recipe, "--diagram", "model.svg")
    assert "drawn: model.svg" in answer.err
    assert (tmp_path / "model.svg").read_text(encoding="utf-8").startswith("<svg")


def test_advice_is_asked_for(recipe: str, dougong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.run.planning.memory_of", lambda device: 1_000_000)
    answer = dougong("plan", recipe, "--advise", "--set", "model.max_seq_len=8")
    assert answer.code == 0, answer.err
    assert "fits here   a batch of " in answer.out
    assert "recomputation" in answer.out
    assert "--set train.recompute=true" in answer.out


def test_calibrating_measures_first(recipe: str, dougong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Calibration] = []

    def measure() -> Calibration:
        asked.append(made(seconds=21.0))
        return asked[0]

    monkeypatch.setattr("dougong.run.calibrated", measure)
    alone = dougong("plan", "--calibrate", "--json")
    assert alone.json == {"machine": "made", "seconds": 21.0}
    assert "measured made in 21 s" in alone.err
    monkeypatch.setattr("dougong.run.planning.calibration", made)
    answer = dougong("plan", recipe, "--calibrate")
    assert "--calibrate measures more" not in answer.out
    assert len(asked) == 2


def test_a_model_too_large_for_this_machine_is_told(recipe: str, dougong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.run.planning.memory_of", lambda device: 1000)
    answer = dougong("plan", recipe)
    assert answer.code == 0
    assert "more than this machine has. Plan for others with --devices 8xh100." in answer.out


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0005, "0.50 ms"),
        (1.5, "1.50 s"),
        (119.0, "119 s"),
        (121.0, "2.02 min"),
        (9000.0, "2.50 h"),
        (2e6, "23.1 days"),
    ],
)
def test_seconds_are_told_in_their_unit(value: float, text: str) -> None:
    assert _seconds(value) == text


def test_the_tiny_recipe_has_so_many_parameters(tmp_path: Path) -> None:
    """What the figures above are: tied embedding, positions, one block, the last norm."""
    model = tiny_recipe(tmp_path)["model"]
    dim = model["dim"]
    block = 12 * dim * dim + 13 * dim
    assert 257 * dim + model["max_seq_len"] * dim + block + 2 * dim == 7680
