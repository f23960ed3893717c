"""What saving every 100 steps costs, beside not saving: `python -m benchmarks.saving`, on gpt-stdlib's model.

Blocks of 100 steps take turns: without a save, with one in the background, with one that the run waits for; each begins
with its save, so that all of it falls into the block: the copy, the writing, the hashing and the fsync. Two answers are
printed. The ratio of the blocks' times is what a person sees, and is as noisy as the machine. The share is counted: the
seconds in which the run stands still, and the processor's seconds of the thread that writes, over those of the steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.rounds import alternate, show
from dougong.core import log
from dougong.core import seed as seeds
from dougong.core.contracts import Batch
from dougong.core.device import choose_device, choose_precision
from dougong.recipe import load
from dougong.tasks.language_modeling import LanguageModelingConfig
from dougong.train.checkpointer import Checkpointer
from dougong.train.report import Recorder
from dougong.train.state import State
from dougong.train.step import optimizer_step

VOCAB = 1024  # what the recipe's tokenizer has
BAR = 0.02


class Rows:
    """Random tokens: batch `k` is a function of `k`."""

    def __init__(self, batch: int, length: int):
        self.batch, self.length = batch, length

    def __getitem__(self, number: int) -> Batch:
        rows = torch.randint(0, VOCAB, (self.batch, self.length + 1), generator=seeds.generator(0, "data", number))
        samples = torch.arange(number * self.batch, (number + 1) * self.batch)
        return Batch({"tokens": rows[:, :-1].contiguous(), "targets": rows[:, 1:].contiguous()}, samples)


class Timed(Checkpointer):
    """Counts the seconds that the run stands still for a save, and the processor's seconds of what writes it."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.still, self.writing = list[float](), list[float]()

    def maybe_save(self, state: State, recorder: Recorder) -> None:
        """Saves as ever."""
        begin = time.perf_counter()
        super().maybe_save(state, recorder)
        self.still.append(time.perf_counter() - begin)

    def _write(self, *given: Any) -> None:
        begin = time.thread_time()
        super()._write(*given)
        self.writing.append(time.thread_time() - begin)


class Bench:
    """A state that is trained in blocks of `every` steps."""

    def __init__(self, every: int, folder: Path):
        recipe: Any = load("gpt-stdlib", options={"train": {"steps": 10**9, "checkpoint": {"every": every}}})
        device = choose_device()
        config = recipe.model.replace(vocab_size=VOCAB)
        model = config.build()
        model.init_weights(0)
        self.every, self.task = every, LanguageModelingConfig().build(config)
        self.rows = Rows(recipe.train.batch_size, config.max_seq_len)
        self.state = State.create(recipe.train, model.to(device), choose_precision("auto", device).dtype)
        self.recorder = Recorder(folder, 10**9, 10**9, []).__enter__()
        self.savers = {name: self._saver(folder / name, name == "background") for name in ("background", "waiting")}
        self.steps = 0
        self._run(5)

    def _saver(self, folder: Path, asynchronous: bool) -> Timed:
        train = self.state.config
        config = train.replace(checkpoint=train.checkpoint.replace(asynchronous=asynchronous))
        saver = Timed(config, folder, None, {})
        saver.find()
        saver.open(self.state)
        saver.settle(self.state, False)
        return saver

    def _run(self, steps: int) -> None:
        for _ in range(steps):
            optimizer_step(self.state, self.rows[self.steps], self.task)
            self.steps += 1

    def block(self, name: str) -> float:
        """Saves as `name` says, trains for `every` steps, and returns the seconds of a step, the save included."""
        saver = self.savers.get(name)
        self.state.step = (self.state.step // self.every + 1) * self.every  # a step at which a save is due
        begin = time.perf_counter()
        if saver is not None:
            saver.maybe_save(self.state, self.recorder)
        self._run(self.every)
        seconds = time.perf_counter() - begin
        if saver is not None:
            saver._wait()  # done long since
        return seconds / self.every


def figures(bench: Bench, seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Returns ratios and shares."""
    plain = statistics.median(seconds["none"])
    folder = bench.savers["waiting"].store.newest()
    size = sum(path.stat().st_size for path in folder.iterdir()) if folder is not None else 0
    found: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "steps between saves": bench.every,
        "checkpoint, MB": size / 1e6,
        "step without saving, ms": plain * 1e3,
    }
    for name, saver in bench.savers.items():
        ratios = [mine / none for mine, none in zip(seconds[name], seconds["none"], strict=True)]
        still, writing = statistics.median(saver.still), statistics.median(saver.writing)
        found[f"time of a step, {name} / none"] = {
            "median": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
        }
        found[f"stands still for a save, {name}, ms"] = still * 1e3
        found[f"processor time of writing, {name}, ms"] = writing * 1e3
        counted = still + (writing if name == "background" else 0.0)
        found[f"share of the time of 100 steps, {name}"] = counted / (100 * plain)
    found["share allowed"] = BAR
    return found


def main() -> None:
    """Runs all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how many turns each contestant gets")
    parser.add_argument("--every", type=int, default=100, help="steps in a block; fewer is quicker, and ratios grow")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder, log.listening(lambda _: None):
        bench = Bench(options.every, Path(folder))
        contestants: dict[str, Callable[[], float]] = {
            name: lambda name=name: bench.block(name) for name in ("none", "background", "waiting")
        }
        show("saving gpt-stdlib", figures(bench, alternate(contestants, options.rounds)))


if __name__ == "__main__":
    sys.exit(main())
