"""What is predicted of a run's memory before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dougong.recipe import load
from dougong.run.memory import predicted_memory
from dougong.run.parts import prepare
from tests.tiny import tiny_recipe

EMA = {"ema": {"decay": 0.9}}


@pytest.mark.parametrize(
    ("checkpoint", "copied"),
    [({"every": 4}, True), ({"every": 4, "asynchronous": False}, False), ({"every": 0}, False), ({"every": 8}, False)],
)
def test_a_save_in_the_background_takes_a_copy_of_what_is_saved(
    tmp_path: Path, checkpoint: dict[str, Any], copied: bool
) -> None:
    found = predicted_memory(prepare(load(tiny_recipe(tmp_path, train={**EMA, "checkpoint": checkpoint}))))
    assert min(found.weights, found.optimizer, found.average) > 0
    assert found.staging == (found.weights + found.optimizer + found.average) * copied
    assert ("staging" in str(found)) == (found.staging >= 1)
