"""The recipes of pictures, trained from random weights on real data: `python -m benchmarks.recognition`.

Each is trained once for every seed and judged on the pictures that it keeps apart; the exit status is 1 where a demand
is not met. Needs `pip install ".[sklearn,detection]"`. The data lie outside of the project (see DATA): of a recipe
whose data is not there nothing is told.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import dougong
from benchmarks.rounds import show
from dougong.core import files, log
from dougong.core.device import choose_device, choose_precision

DATA = Path(__file__).parents[2] / "shared/data"


@dataclass(frozen=True)
class Trial:
    """A recipe on its data.

    Attributes:
        figure: What is demanded of.
        least: The least value of it, for every seed.
        minutes: The most minutes that a training may take.
        seeds: How many seeds are tried, if nothing else is said.
        paths: Fields of the recipe, and what of `DATA` they name.
    """

    figure: str
    least: float
    minutes: float
    seeds: int
    paths: dict[str, str]

    @property
    def there(self) -> bool:
        """Whether the data are there."""
        return all((DATA / path).exists() for path in self.paths.values())

    @property
    def changes(self) -> list[str]:
        """What tells the recipe where the data are."""
        return [f"data.{field}={DATA / path}" for field, path in self.paths.items()]


_MNIST = {
    "images_path": "images/mnist/train-images-idx3-ubyte.gz",
    "labels_path": "images/mnist/train-labels-idx1-ubyte.gz",
    "validation_images_path": "images/mnist/t10k-images-idx3-ubyte.gz",
    "validation_labels_path": "images/mnist/t10k-labels-idx1-ubyte.gz",
}
TRIALS = {
    "digits-resnet": Trial("accuracy", 0.98, 2, 3, {}),
    "mnist-resnet20": Trial("accuracy", 0.985, 45, 3, _MNIST),
    "sign-digits-resnet18": Trial("accuracy", 0.90, 45, 3, {"path": "images/sign_digits"}),
    "bccd-retinanet": Trial("map_50", 0.60, 45, 1, {"path": "detection/bccd"}),
}


def trained(recipe: str, trial: Trial, seed: int) -> dict[str, Any]:
    """Returns what one training came to."""
    with tempfile.TemporaryDirectory() as folder, log.listening(lambda _: None):
        run = dougong.train(recipe, run=Path(folder) / "run", overrides=trial.changes, seed=seed)
        plan = files.read_json(run.folder / "plan.json")
    print(
        f"  {recipe}, seed {seed}: {run.metrics[trial.figure]:.4f} in {run.seconds:.0f} s", file=sys.stderr, flush=True
    )
    return {
        "seed": seed,
        trial.figure: run.metrics[trial.figure],
        "seconds": run.seconds,
        "parameters": plan["parameters"],
        "examples": plan["data"]["validation_examples"],
        "metrics": dict(run.metrics),
    }


def line(trial: Trial, runs: Sequence[dict[str, Any]]) -> str:
    """Returns the figures of a recipe in one line."""
    values = ", ".join(f"{run[trial.figure]:.4f}" for run in runs)
    seconds = ", ".join(f"{run['seconds']:.0f}" for run in runs)
    mean = statistics.mean(run[trial.figure] for run in runs)
    return f"{trial.figure} {mean:.4f} ({values}; at least {trial.least:g} is asked) in {seconds} s"


def met(trial: Trial, runs: Sequence[dict[str, Any]]) -> bool:
    """Tells whether every seed reaches what is demanded in the time that is allowed."""
    return all(run[trial.figure] >= trial.least and run["seconds"] <= 60 * trial.minutes for run in runs)


def main() -> None:
    """Trains the recipes and prints what came of it, as JSON and as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(TRIALS), action="append", help="this recipe; may be given several times")
    parser.add_argument("--seeds", type=int, help="how many seeds; absent: 3, and 1 for detection")
    arguments = parser.parse_args()
    chosen = {name: TRIALS[name] for name in arguments.only or TRIALS if TRIALS[name].there}
    runs = {
        name: [trained(name, trial, seed) for seed in range(arguments.seeds or trial.seeds)]
        for name, trial in chosen.items()
    }
    machine = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "precision": choose_precision("auto", choose_device()).reason,
    }
    passed = {name: met(trial, runs[name]) for name, trial in chosen.items()}
    lines = {name: line(trial, runs[name]) for name, trial in chosen.items()}
    met_by = {f"{name} meets the demand": value for name, value in passed.items()}
    show("recipes of pictures", {**machine, **lines, **met_by})
    raise SystemExit(0 if all(passed.values()) else 1)


if __name__ == "__main__":
    main()
