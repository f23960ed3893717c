"""LoRA beside training all weights, memory and seconds of a step, and as planned: `python -m benchmarks.adapters`.

The same model on the same data, a classifier on BERT-base's width and a language model; the two take turns. Speeds
compare only within one run of this program.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.rounds import alternate, ratio, show
from dougong.checkpoint.store import checkpoint_bytes
from dougong.core.contracts import Batch, Task
from dougong.core.device import choose_device, choose_precision
from dougong.data.examples import LabelledText
from dougong.models.bert import BertConfig
from dougong.models.gpt import GPTConfig
from dougong.plan.calibrate import calibration
from dougong.plan.memory import step_memory
from dougong.plan.time import step_time
from dougong.plan.trace import trace_step
from dougong.run.measuring import measured_here
from dougong.tasks.language_modeling import LanguageModelingConfig
from dougong.tasks.text_classification import TextClassificationConfig
from dougong.train.adapter import Adapted, LoraConfig, lora
from dougong.train.config import AdamWConfig, TrainConfig
from dougong.train.measure import step_peak
from dougong.train.state import State
from dougong.train.step import optimizer_step

MB = 1e6


@dataclass(frozen=True)
class Setting:
    """What is trained on what.

    Attributes:
        model: The model's config.
        adapter: The adapter's.
        task: The objective.
        batch: What every step trains on.
    """

    model: Any
    adapter: LoraConfig
    task: Task
    batch: Batch


def bert_classifier(layers: int = 4, batch: int = 8, length: int = 128) -> Setting:
    """Returns blocks of BERT-base with a head for two classes, which trains in full beside the adapter."""
    shape: dict[str, Any] = {"vocab_size": 30522, "num_layers": layers, "max_seq_len": length, "dropout": 0.0}
    model = BertConfig(head="classify", num_classes=2, attention_dropout=0.0, **shape)
    tokens = np.random.default_rng(0).integers(0, 30522, (batch, length))
    task = TextClassificationConfig().build(model)
    rows = task.collate([LabelledText(row, number % 2) for number, row in enumerate(tokens)], range(batch))
    return Setting(model, LoraConfig(also=("pooler.*", "answer.*")), task, rows)


def gpt(batch: int = 8, length: int = 256) -> Setting:
    """Returns a language model of six layers of width 384."""
    model = GPTConfig(vocab_size=512, max_seq_len=length, num_layers=6, num_heads=6, dim=384)
    task: Any = LanguageModelingConfig().build(model)
    return Setting(model, LoraConfig(), task, task.example_batch(batch, "cpu"))


SETTINGS: dict[str, Callable[[], Setting]] = {"bert-base, 4 layers, classes": bert_classifier, "gpt 6x384": gpt}


def prepared(setting: Setting, adapted: bool, train: TrainConfig) -> State:
    """Returns the state before the first step."""
    model = setting.model.build()
    model.init_weights(0)
    if adapted:
        lora.draw(lora.attach(model, setting.adapter), 0)
    return State.create(train, model.train(), choose_precision(train.precision, choose_device("cpu")).dtype)


def stepper(state: State, setting: Setting, steps: int) -> Callable[[], float]:
    """Returns what does some steps and gives the median seconds of one."""

    def run() -> float:
        seconds = []
        for _ in range(steps):
            begin = time.perf_counter()
            optimizer_step(state, setting.batch, setting.task)
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds)

    return run


def figures(setting: Setting, rounds: int, steps: int) -> dict[str, Any]:
    """Returns what both take, as measured and as planned."""
    train = TrainConfig(steps=10**6, batch_size=len(setting.batch), clip_norm=1.0, optimizer=AdamWConfig(lr=1e-4))
    states = {name: prepared(setting, name == "LoRA", train) for name in ("full", "LoRA")}
    networks = {"full": setting.model, "LoRA": Adapted(setting.model, setting.adapter)}
    peaks = {name: step_peak(state, setting.batch, setting.task) for name, state in states.items()}
    seconds = alternate({name: stepper(state, setting, steps) for name, state in states.items()}, rounds)
    dtype, machine = states["full"].dtype, calibration() or measured_here(choose_device("cpu"))
    traces = {name: trace_step(net, setting.task, setting.batch, train, dtype) for name, net in networks.items()}
    planned = {name: step_memory(net, setting.task, setting.batch, train, dtype).peak for name, net in networks.items()}
    times = {name: step_time(trace, machine).middle for name, trace in traces.items()}
    trained = {name: sum(p.numel() for p in state.parameters.values()) for name, state in states.items()}
    return {
        "precision": str(dtype).removeprefix("torch."),
        "trained": f"{trained['LoRA']:,} of {trained['full']:,} ({trained['LoRA'] / trained['full']:.2%})",
        **{f"MB at the peak, {name}": peak / MB for name, peak in peaks.items()},
        **{f"MB at the peak, {name}, planned": planned[name] / MB for name in peaks},
        "memory, LoRA / full": peaks["LoRA"] / peaks["full"],
        "memory, LoRA / full, planned": planned["LoRA"] / planned["full"],
        **{f"seconds per step, {name}": statistics.median(values) for name, values in seconds.items()},
        "speed, LoRA / full": ratio(seconds["LoRA"], seconds["full"]),
        "speed, LoRA / full, planned": times["full"] / times["LoRA"],
        "operations, LoRA / full": traces["LoRA"].flops() / traces["full"].flops(),
        **{f"MB of a checkpoint, {name}": checkpoint_bytes(state.tensors()) / MB for name, state in states.items()},
    }


def main() -> None:
    """Runs all, or what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how many turns each contestant gets")
    parser.add_argument("--steps", type=int, default=3, help="how many steps a turn has")
    parser.add_argument("--only", choices=list(SETTINGS), help="one part instead of all")
    options = parser.parse_args()
    for name, setting in SETTINGS.items():
        if options.only in (None, name):
            show(f"adapters, {name}", figures(setting(), options.rounds, options.steps))


if __name__ == "__main__":
    sys.exit(main())
