"""What two habits on a processor bring: keeping freed memory, and convolving over time with channels last.

`OMP_NUM_THREADS=1 python -m benchmarks.processor`. Steps of some recipes of `benchmarks/planning.py` are timed in
processes that keep freed memory (`core/heap.py`) and in processes that do not, taking turns; our convolution over time
is held against `torch.nn.functional.conv1d` on the same tensors, forward, ReLU and backward, in turns as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.planning import RECIPES, Subject
from benchmarks.rounds import alternate, ratio, show
from dougong.core.heap import keep_freed_memory
from dougong.nn.convolution import Convolution1d
from dougong.nn.lengths import Window

STEPS = ("CNN, 32 x 32", "VGG-11 at 64 x 64", "Transformer encoder", "GPT, 4 x 128 (gpt-stdlib)")
SHAPES = {  # batch, time, channels in and out, kernel, groups
    "text CNN": (50, 48, 128, 100, 3, 1),
    "wide": (4, 1000, 256, 256, 5, 1),
    "long": (2, 4000, 32, 64, 3, 1),
    "depthwise": (8, 512, 64, 64, 3, 64),
}


def steps(name: str, keep: bool, seconds: float) -> dict[str, float]:
    """Returns the median seconds of a recipe's step and the most memory that the process held; for a fresh process."""
    if keep and not keep_freed_memory():
        raise SystemExit("freed memory is kept with glibc alone, and not where the environment says otherwise")
    subject = Subject.of(name, torch.float32)
    subject.measure_seconds(seconds)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": statistics.median(subject.seconds), "bytes": held}


def timed(name: str, keep: bool, seconds: float) -> dict[str, float]:
    """Returns the same, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.processor", "--child", name, "--seconds", str(seconds)]
    done = subprocess.run([*command, *(["--keep"] if keep else [])], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def freed_memory(name: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Returns what keeping freed memory does to a recipe's step."""
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}

    def contestant(keep: bool) -> Callable[[], float]:
        def run() -> float:
            found[keep].append(timed(name, keep, seconds))
            return found[keep][-1]["seconds"]

        return run

    times = alternate({"kept": contestant(True), "given back": contestant(False)}, rounds)
    held = {keep: max(one["bytes"] for one in each) for keep, each in found.items()}
    return {
        "a step, kept, ms": 1e3 * statistics.median(times["kept"]),
        "a step, given back, ms": 1e3 * statistics.median(times["given back"]),
        "times as fast, kept": ratio(times["kept"], times["given back"]),
        "memory held, kept over given back": held[True] / held[False],
    }


def over_time(name: str, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """Returns how many times as fast as `conv1d` ours is."""
    batch, places, given, made, kernel, groups = SHAPES[name]
    window = Window(kernel)
    ours = Convolution1d(given, made, window, groups).to(dtype)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    hidden = torch.randn(batch, places, given, dtype=dtype, requires_grad=True)
    slope = torch.randn(batch, places, made, dtype=dtype)

    def theirs(hidden: torch.Tensor) -> torch.Tensor:
        mixed = F.conv1d(hidden.transpose(1, 2), ours.weight, ours.bias, 1, window.before, 1, groups)
        return mixed.transpose(1, 2)

    def contestant(call: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], float]:
        def run() -> float:
            found = []
            for _ in range(20):
                begin = time.perf_counter()
                call(hidden).relu().backward(slope)
                found.append(time.perf_counter() - begin)
            return statistics.median(found)

        return run

    times = alternate({"ours": contestant(ours), "conv1d": contestant(theirs)}, rounds)
    return {"ours, ms": 1e3 * statistics.median(times["ours"]), "times as fast": ratio(times["ours"], times["conv1d"])}


def main() -> None:
    """Runs all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processor", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how many turns each contestant gets")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long steps are timed each time")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(steps(options.child, options.keep, options.seconds)))
        return
    assert set(STEPS) <= RECIPES.keys()
    for name in STEPS:
        show(f"freed memory: {name}", freed_memory(name, options.rounds, options.seconds))
    keep_freed_memory()
    for dtype in (torch.float32, torch.bfloat16):
        for name in SHAPES:
            show(f"over time, {name}, {dtype}".replace("torch.", ""), over_time(name, dtype, options.rounds))


if __name__ == "__main__":
    main()
