"""A run of a second over pictures, by the real command line, for tests that break the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.recipe.recipe import to_yaml

MODEL = {
    "name": "stack",
    "input": {"image": {"channels": 3, "height": 8, "width": 8}},
    "stages": [{"conv": 4}, "activate", {"pool": "mean"}, "classify"],
}
TRAIN = {
    "steps": 4,
    "batch_size": 8,
    "precision": "fp32",
    "device": "cpu",
    "compile": False,
    "optimizer": {"name": "adamw", "lr": 0.01},
    "evaluate": {"every": 2},
    "checkpoint": {"every": 2},
}


def trained(folder: Path, data: Mapping[str, Any], **train: Any) -> int:
    """Trains 122 parameters on a dataset in `folder/run`, and returns the exit code."""
    values = {
        "model": MODEL,
        "task": {"name": "image_classification"},
        "data": {"size": 8, **data},
        "train": {**TRAIN, **train},
    }
    recipe = folder / "pictures.yaml"
    recipe.write_text(to_yaml(values), encoding="utf-8")
    return run_guarded(app, ["train", str(recipe), "--run", str(folder / "run")])
