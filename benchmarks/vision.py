"""ResNets beside those of `transformers`, and steps that wait for photographs: `python -m benchmarks.vision`.

Training and inference are speeds, each contestant in a process of its own, taking turns. Data is the share of a step's
time that it waits for decoded and augmented photographs. Needs `transformers` and `accelerate`. The exit status is 1
where a bar is missed. Best on a quiet machine; how many threads each process has, `OMP_NUM_THREADS` says.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks import photographs, pictures
from benchmarks.rounds import alternate, ratio, show
from benchmarks.turns import processes

BARS = {"training": 1.5, "compiled": 1.1, "inference": 1.5}
"""How many times as fast as the other side ours must be, in the median."""
WAITING = 0.05
"""The largest share of a step that may be spent waiting for its batch."""


def raced(bodies: Mapping[str, tuple[Any, ...]], batch: int, options: argparse.Namespace, steps: int) -> dict[str, Any]:
    """Returns images/s of each contestant, and how many times as fast the best of ours is as the one that is not."""
    with processes(bodies, steps) as turns:
        seconds = alternate(turns, options.rounds)
    ours = [name for name in seconds if name.startswith("dougong")]
    best = min(ours, key=lambda name: statistics.median(seconds[name]))
    figures: dict[str, Any] = {"batch": batch, "threads": torch.get_num_threads()}
    for name, values in seconds.items():
        rates = [batch / value for value in values]
        figures[f"images/s, {name}"] = {"median": statistics.median(rates), "low": min(rates), "high": max(rates)}
    (other,) = seconds.keys() - set(ours)
    for name in ours:
        figures[f"times as fast, {name}"] = ratio(seconds[name], seconds[other])
    return figures | {"best": best, "times as fast": ratio(seconds[best], seconds[other])}


def training(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the speed of training beside the Trainer as it comes: fp32, not compiled."""
    batch = options.batch
    bodies = {
        "dougong": (pictures.dougong_training, batch, False),
        "Trainer, defaults": (pictures.trainer_training, batch, False, {}),
    }
    return judged("training", raced(bodies, batch, options, 1))


def compiled(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the speed of training, compiled, beside the Trainer in bf16, compiled and with channels last."""
    batch = options.batch
    bodies = {
        "dougong, compile: true": (pictures.dougong_training, batch, True),
        "dougong, compile: false": (pictures.dougong_training, batch, False),
        "Trainer, bf16, compiled": (
            pictures.trainer_training,
            batch,
            True,
            {"use_cpu": True, "bf16": True, "torch_compile": True},
        ),
    }
    return judged("compiled", raced(bodies, batch, options, 1))


def inference(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the speed of inference with folded norms for one picture and for a batch, and what folding changes."""
    figures: dict[str, Any] = pictures.folding_changes()
    missed: list[str] = []
    for batch in (1, options.batch):
        bodies = {
            "dougong, fp32": (pictures.dougong_inference, batch, torch.float32),
            "dougong, bf16": (pictures.dougong_inference, batch, torch.bfloat16),
            "transformers": (pictures.transformers_inference, batch),
        }
        found = judged("inference", raced(bodies, batch, options, max(2, 16 // batch)))
        missed += found.pop("missed")
        figures |= {f"batch {batch}: {name}": value for name, value in found.items()}
    return figures | {"missed": missed}


def data(options: argparse.Namespace) -> dict[str, Any]:
    """Returns how long the steps of a ResNet-18 wait for photographs."""
    figures = photographs.waited(options.steps)
    shares = {name: share["median"] for name, share in figures.items() if isinstance(share, dict)}
    least = min(shares, key=lambda name: shares[name])
    too_long = shares[least] > WAITING
    missed = [f"{least} must be at most {WAITING:.0%}, but is {shares[least]:.1%}"] if too_long else []
    return figures | {"missed": missed}


def judged(part: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures with the bar that they miss, if they do."""
    found = figures["times as fast"]["median"]
    missed = [f"{part}: must be {BARS[part]} times as fast, but is {found:.2f} times"] if found < BARS[part] else []
    return figures | {"missed": missed}


PARTS: Mapping[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "training": training,
    "compiled": compiled,
    "inference": inference,
    "data": data,
}


def main() -> int:
    """Runs all, or what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vision", description=__doc__)
    parser.add_argument("--only", choices=list(PARTS), help="one part instead of all")
    parser.add_argument("--rounds", type=int, default=7, help="how many turns each contestant gets")
    parser.add_argument("--batch", type=int, default=16, help="pictures of a batch")
    parser.add_argument("--steps", type=int, default=12, help="steps that are timed while photographs are decoded")
    options = parser.parse_args()
    missed: list[str] = []
    for name, part in PARTS.items():
        if options.only in (None, name):
            figures = part(options)
            missed += figures["missed"]
            show(name, figures)
    for each in missed:
        print(f"not met: {each}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
