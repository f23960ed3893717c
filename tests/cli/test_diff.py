"""`dougong diff`: what it prints, and with which code it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import write_recipe


@pytest.fixture
def runs(tmp_path: Path, dougong: Any) -> None:
    """Three runs: two that are equal, and one of another learning rate."""
    write_recipe(tmp_path, train={"steps": 4})
    for run, rate in (("one", 0.01), ("same", 0.01), ("other", 0.02)):
        assert dougong("train", "tiny.yaml", "--run", run, "--set", f"train.optimizer.lr={rate}").code == 0


def test_runs_are_compared_from_cause_to_effect(runs: None, dougong: Any, tmp_path: Path) -> None:
    equal = dougong("diff", "one", "same")
    assert equal.code == 0
    assert equal.out.endswith("The runs are equal: 4 steps, same samples, same losses, weights bit-identical.\n")
    parted = dougong("diff", "one", "other")
    assert (parted.code, parted.err) == (1, "")
    assert parted.out.startswith(
        "recipe        differs       1 field\n  train.optimizer.lr  0.01, 0.02\nenvironment   same\n"
    )
    assert parted.out.endswith("The runs part at step 1: the learning rate differs (train.optimizer.lr 0.01, 0.02).\n")
    told = dougong("diff", "one", "other", "--json")
    assert (told.code, told.json["equal"]) == (1, False)
    assert told.json["findings"][0]["rows"] == {"train.optimizer.lr": [0.01, 0.02]}
    damaged = tmp_path / "same" / "checkpoints" / "step-00000004" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    answer = dougong("diff", "one", "same")
    assert answer.code == 3
    assert "same/checkpoints/step-00000004/model.safetensors" in answer.sentence


def test_what_is_no_run_is_one_sentence(tmp_path: Path, dougong: Any) -> None:
    (tmp_path / "empty").mkdir()
    answer = dougong("diff", "empty", "absent")
    assert (answer.code, answer.out) == (2, "")
    assert answer.sentence == (
        "dougong: error[E-PATH]: empty must be a run folder, but has no recipe.yaml. Name another."
    )
    assert dougong("diff", "empty").sentence == (
        "dougong: error[E-USAGE]: dougong diff needs RUN_B, but it is absent. See: dougong diff --help"
    )
