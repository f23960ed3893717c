"""What plans are worth: predicted against measured on this processor, for 16 recipes: `python -m benchmarks.planning`.

Memory is held against every allocation of a real step, operations against a count by hooks on the real modules, with
the textbook's formulas and none of the planner's, seconds against the median of real steps after a calibration. The
control plans each recipe at half its batch, and must miss every demand. The exit status is 1 where a demand is not met.
Best on a quiet machine with `OMP_NUM_THREADS=1`; in several rounds, some minutes apart, the machine is calibrated and
each recipe is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.rounds import show
from dougong.core import log
from dougong.core.contracts import Batch
from dougong.nn.convolution import Convolution1d, Convolution2d, Patches
from dougong.nn.mixture import MixtureOfExperts
from dougong.nn.recurrence import Recurrence
from dougong.nn.transformer import Attention
from dougong.plan.advise import Setting
from dougong.plan.calibrate import calibrate
from dougong.plan.count import known_model
from dougong.plan.memory import enlarged
from dougong.plan.tables import Calibration
from dougong.plan.time import step_time
from dougong.recipe import Recipe, load
from dougong.train.blocks import prepared_blocks
from dougong.train.measure import step_peak
from dougong.train.state import State
from dougong.train.step import optimizer_step

DEMANDS = {"memory": (0.10, 0.05), "operations": (0.01, 0.01), "seconds": (0.25, 0.15)}
"""How far measured over predicted may be from 1: of each recipe, and of their median."""

_WORDS = (
    "task: {name: text_classification}, data: {name: labelled_text, classes: "
    "[{label: a, paths: [a.txt]}, {label: b, paths: [b.txt]}]}"
)
_PICTURES = "task: {name: image_classification}, data: {name: digits}"
_TEXT = (
    "task: {name: language_modeling}, data: {name: text, sources: [{name: python_library}], tokenizer: {name: bytes}"
)


def _train(size: int, rest: str = "") -> str:
    return f"train: {{steps: 100, batch_size: {size}{rest}}}"


def _words(stages: str, size: int, length: int = 48, vocab: int = 8000) -> str:
    model = f"name: stack, max_seq_len: {length}, vocab_size: {vocab}, num_classes: 2"
    return f"{{model: {{{model}, stages: [{stages}]}}, {_WORDS}, {_train(size)}}}"


def _pictures(stages: str, size: int, side: int, channels: int = 3, classes: int = 10) -> str:
    image = f"{{image: {{channels: {channels}, height: {side}, width: {side}}}}}"
    model = f"name: stack, input: {image}, num_classes: {classes}"
    return f"{{model: {{{model}, stages: [{stages}]}}, {_PICTURES}, {_train(size)}}}"


def _text(model: str, size: int, rest: str = "") -> str:
    return f"{{model: {{{model}}}, {_TEXT}}}, {_train(size, rest)}}}"


def _vgg(widths: str) -> str:
    stages = []
    for part in widths.split():
        stages += ["pool: {kind: max, size: 2}"] if part == "M" else [f"conv: {part}", "activate: relu"]
    return ", ".join(f"{{{stage}}}" for stage in stages)


_SEPARABLE = ", ".join(
    f"{{conv: {{kernel: 3, depthwise: true, stride: {stride}}}}}, {{norm: batch}}, {{activate: relu}}, {{conv: {{dim: "
    f"{dim}, kernel: 1}}}}, {{norm: batch}}, {{activate: relu}}"
    for dim, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))
)
_WIDTHS = ", ".join(
    f"[{{conv: {{dim: 100, kernel: {size}}}}}, {{activate: relu}}, {{pool: max}}]" for size in (3, 4, 5)
)
_STEM = ", ".join(f"{{conv: {{dim: {dim}, kernel: 3, stride: 2}}}}, {{activate: relu}}" for dim in (32, 64))

RECIPES: Mapping[str, str] = {
    "text CNN": _words(f"{{embed: 128}}, {{parallel: {{join: concat, branches: [{_WIDTHS}]}}}}, classify", 50),
    "CNN, 32 x 32": _pictures(f"{_vgg('32 32 M 64 64 M')}, {{pool: mean}}, classify", 32, 32),
    "VGG-11 at 64 x 64": _pictures(
        f"{_vgg('64 M 128 M 256 256 M 512 512 M 512 512')}, {{pool: mean}}, {{project: 512}}, classify", 8, 64
    ),
    "ResNet-50 at 64 x 64": (
        f"{{model: {{name: stack, variant: resnet50, input: {{image: {{channels: 3, height: 64, width: 64}}}}}}, "
        f"{_PICTURES}, {_train(8)}}}"
    ),
    "depthwise CNN, 32 x 32": _pictures(
        f"{{conv: {{dim: 32, kernel: 3}}}}, {{norm: batch}}, {{activate: relu}}, {_SEPARABLE}, {{pool: mean}}, "
        "classify",
        16,
        32,
    ),
    "LSTM language model": _text(
        "name: stack, max_seq_len: 128, vocab_size: 2000, stages: [{embed: 256}, {lstm: {dim: 256, num_layers: 2}}, "
        "next_token]",
        16,
    ),
    "BiLSTM": _words("{embed: 128}, {lstm: {dim: 128, bidirectional: true}}, {pool: max}, classify", 50),
    "GRU": _words("{embed: 64}, {gru: {dim: 96}}, last, classify", 32, length=64, vocab=1000),
    "CNN + GRU + Transformer": _words(
        "{embed: 128}, {conv: {dim: 128, kernel: 3}}, {activate: relu}, {gru: {dim: 64, bidirectional: true}}, "
        "{transformer: {num_heads: 4, hidden_dim: 256}}, {norm: layer}, {pool: max}, classify",
        50,
    ),
    "Transformer encoder": _words(
        "{embed: 256}, {position: learned}, {repeat: {times: 4, stages: [{transformer: 4}]}}, norm, {pool: mean}, "
        "classify",
        32,
        length=128,
        vocab=16000,
    ),
    "convolution stem + Transformer": _pictures(
        f"{_STEM}, flatten, {{position: learned}}, {{repeat: {{times: 3, stages: [{{transformer: 4}}]}}}}, norm, "
        "{pool: mean}, classify",
        32,
        32,
    ),
    "mixture of experts": _text(
        "name: stack, max_seq_len: 128, vocab_size: 2000, stages: [{embed: 192}, {repeat: {times: 2, stages: "
        "[{residual: [norm, {attention: {num_heads: 4, causal: true, rotary: true}}]}, {residual: [norm, {mixture: "
        "{num_experts: 8, chosen: 2, hidden_dim: 384}}]}]}}, norm, next_token]",
        8,
    ),
    "GPT, 4 x 128 (gpt-stdlib)": _text(
        "name: gpt, max_seq_len: 128, vocab_size: 1024, num_layers: 4, num_heads: 4, dim: 128, position: rotary, norm: "
        "rmsnorm, activation: silu, gated_mlp: true, bias: false",
        16,
    ),
    "GPT, 6 x 384": _text("name: gpt, max_seq_len: 256, vocab_size: 256, num_layers: 6, num_heads: 6, dim: 384", 8),
    "GPT, 6 x 384, recomputed": _text(
        "name: gpt, max_seq_len: 256, vocab_size: 256, num_layers: 6, num_heads: 6, dim: 384",
        8,
        ", recompute: true, microbatch_size: 4, ema: {decay: 0.99}",
    ),
    "GPT-2, 124M": _text("name: gpt, max_seq_len: 128, vocab_size: 50257, num_layers: 12, num_heads: 12, dim: 768", 2),
}


@dataclass
class Subject:
    """A recipe, planned and really trained.

    Attributes:
        name: Of the recipe.
        recipe: Its parts.
        setting: What the planner is told.
        batch: One of the recipe's batches: the same shapes as any.
        state: The model, initialised, and its optimizer.
        seconds: Of each step that was timed.
    """

    name: str
    recipe: Recipe
    setting: Setting
    batch: Batch
    state: State
    seconds: list[float]

    @classmethod
    def of(cls, name: str, dtype: torch.dtype) -> Subject:
        """Returns the recipe of a name, at a type of products."""
        recipe = load(RECIPES[name])
        model: Any = known_model(recipe)
        task: Any = recipe.task
        setting = Setting(model, task.build, recipe.train, dtype)
        network = model.build()
        network.init_weights(0)
        size = recipe.train.batch_size
        assert isinstance(size, int)
        batch = _varied(enlarged(setting.task().example_batch(1, "cpu"), size), model)
        return cls(name, recipe, setting, batch, State.create(recipe.train, network.train(), dtype), [])

    def measure_seconds(self, budget: float) -> None:
        """Times steps for about so many seconds, after one that is not timed."""
        task = self.setting.task()
        with prepared_blocks(self.state.model, False, self.recipe.train.recompute):
            optimizer_step(self.state, self.batch, task)
            end, begin = time.perf_counter() + budget, len(self.seconds)
            while time.perf_counter() < end or len(self.seconds) < begin + 3:
                start = time.perf_counter()
                optimizer_step(self.state, self.batch, task)
                self.seconds.append(time.perf_counter() - start)

    def predicted(self, size: int, machine: Calibration) -> dict[str, float]:
        """Returns what a step of so many examples is planned to take."""
        trace = self.setting.trace(size)
        return {
            "memory": self.setting.memory(size).peak,
            "operations": trace.flops("forward", "backward"),
            "seconds": step_time(trace, machine).middle,
        }

    def measured(self) -> dict[str, float]:
        """Returns what a step takes."""
        return {
            "memory": step_peak(self.state, self.batch, self.setting.task()),
            "operations": counted(self.state.model, self.setting.task(), self.batch),
            "seconds": statistics.median(self.seconds),
        }


def _varied(batch: Batch, model: Any) -> Batch:
    """Returns a batch of the same shapes whose examples differ: words by chance, pictures that are smooth."""
    chance = torch.Generator().manual_seed(0)
    fields = {name: field.contiguous() for name, field in batch.fields.items()}
    for name in {"tokens", "targets"} & fields.keys():
        fields[name] = torch.randint(0, model.vocab_size, fields[name].shape, generator=chance)
    if "images" in fields:
        coarse = torch.randn(*fields["images"].shape[:2], 8, 8, generator=chance)
        fields["images"] = nn.functional.interpolate(coarse, fields["images"].shape[2:], mode="bilinear")
    return Batch(fields, torch.arange(len(batch)))


# A count by hooks: products as textbooks count them, two operations for each product and its sum


def counted(model: nn.Module, task: Any, batch: Batch) -> int:
    """Returns the operations of forward and backward, as hooks on the modules see them while a loss is computed."""
    found: list[int] = []
    with _hooked(model, found), torch.enable_grad():
        task.loss(model, batch)
    if task.item == "tokens":  # the loss takes the head's weight itself, so that no hook sees it
        outputs, width = model.head_weight.shape  # type: ignore[operator, union-attr]
        found.append(_thrice(2 * batch["targets"].numel() * int(outputs) * int(width)))
    return sum(found)


@contextlib.contextmanager
def _hooked(model: nn.Module, found: list[int]) -> Iterator[None]:
    """Within this context each module that multiplies appends how much."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        for kind, products in _COUNTS:
            if isinstance(module, kind):
                found.append(products(module, inputs[0], output))

    handles = [module.register_forward_hook(hook) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _thrice(forward: int, wanted: bool = True) -> int:
    """Forward, the slope of the weight, and the slope of the input where that is wanted."""
    return forward * (2 + wanted)


def _linear(module: Any, given: torch.Tensor, made: torch.Tensor) -> int:
    return _thrice(2 * made.numel() * module.in_features, given.requires_grad)


def _convolution(module: Any, given: torch.Tensor, made: torch.Tensor) -> int:
    return _thrice(2 * made.numel() * module.weight[0].numel(), given.requires_grad)


def _attention(module: Any, given: torch.Tensor, _: torch.Tensor) -> int:
    """Scores and sums of values; both factors of both want a slope. The whole square counts, causal or not."""
    rows, time, _ = given.shape
    return 3 * 4 * rows * module.heads * time * time * module.head_dim


def _recurrence(module: Any, given: torch.Tensor, _: torch.Tensor) -> int:
    weights = [p for name, p in module.named_parameters() if name.startswith("weight")]
    places = given.shape[0] * given.shape[1]
    return sum(_thrice(2 * places * weight.numel()) for weight in weights)


def _mixture(module: Any, given: torch.Tensor, _: torch.Tensor) -> int:
    tokens = given.numel() // given.shape[-1]
    experts = sum(2 * w[0].numel() for w in (module.up, module.gate, module.down) if w is not None)
    return _thrice(tokens * module.chosen * (experts + 2 * given.shape[-1]))


_COUNTS: Sequence[tuple[Any, Callable[[Any, torch.Tensor, torch.Tensor], int]]] = (
    (nn.Linear, _linear),
    ((Convolution1d, Convolution2d, Patches), _convolution),
    (Attention, _attention),
    (Recurrence, _recurrence),
    (MixtureOfExperts, _mixture),
)


# The table


def row(subject: Subject, machine: Calibration) -> dict[str, Any]:
    """Returns the figures of a recipe, measured over predicted, and those of the control."""
    size = len(subject.batch)
    planned, half = subject.predicted(size, machine), subject.predicted(size // 2, machine)
    found = subject.measured()
    spread = statistics.quantiles(subject.seconds, n=10)
    figures: dict[str, Any] = {"parameters": sum(p.numel() for p in subject.state.model.parameters())}
    for name, value in found.items():
        figures |= {f"{name}, planned": planned[name], f"{name}, measured": value, name: value / planned[name]}
    figures |= {"seconds from": spread[0], "seconds to": spread[-1]}
    return figures | {f"control, {name}": value / half[name] for name, value in found.items()}


def verdict(rows: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], list[str]]:
    """Returns how far off the recipes are, and which demands are not met, by the plans or by the control."""
    summary, missed = dict[str, float](), list[str]()
    for name, (most, median) in DEMANDS.items():
        off, control = ([abs(each[key] - 1) for each in rows] for key in (name, f"control, {name}"))
        summary |= {f"{name}, most off": max(off), f"{name}, median off": statistics.median(off)}
        summary[f"control, {name}, median off"] = statistics.median(control)
        if max(off) > most:
            missed.append(f"{name} must be within {most:.0%} everywhere, but one is {max(off):.1%} off")
        if statistics.median(off) > median:
            missed.append(f"the median of {name} must be within {median:.0%}, but is {statistics.median(off):.1%} off")
        if statistics.median(control) <= median:
            missed.append(f"the control of {name} must be beyond {median:.0%}, but is {statistics.median(control):.1%}")
    sizes = [each["parameters"] for each in rows]
    return summary | {"largest over smallest": max(sizes) / min(sizes)}, missed


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the rows as a table in Markdown."""
    lines = [
        "| recipe | parameters | memory: planned, measured | ratio | operations: planned, by hooks | ratio "
        "| a step: planned, measured (8 of 10) | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in rows.items():
        memory = f"{one['memory, planned'] / 1e6:,.1f}, {one['memory, measured'] / 1e6:,.1f} MB"
        products = f"{one['operations, planned'] / 1e9:,.2f}, {one['operations, measured'] / 1e9:,.2f} GFLOP"
        taken = f"{1e3 * one['seconds, planned']:,.1f}, {1e3 * one['seconds, measured']:,.1f} ms"
        spread = f"({1e3 * one['seconds from']:,.1f} to {1e3 * one['seconds to']:,.1f})"
        lines.append(
            f"| {name} | {one['parameters']:,} | {memory} | {one['memory']:.3f} | {products} | {one['operations']:.4f} "
            f"| {taken} {spread} | {one['seconds']:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Runs all, or what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="the type of products")
    parser.add_argument("--rounds", type=int, default=3, help="how often each recipe is timed")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each time, at least three steps")
    parser.add_argument("--only", help="recipes whose name has this text")
    options = parser.parse_args()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.precision]
    names = [name for name in RECIPES if not options.only or options.only in name]
    with tempfile.TemporaryDirectory() as folder, log.listening(lambda _: None):
        subjects = [Subject.of(name, dtype) for name in names]
        for number in range(options.rounds):
            machine = calibrate(folder=Path(folder))  # of what is measured anew the shorter holds
            show(
                "machine", {"machine": machine.machine, "products": options.precision, "measured in s": machine.seconds}
            )
            for subject in subjects:
                subject.measure_seconds(options.seconds)
                print(f"  round {number + 1}/{options.rounds} {subject.name}", file=sys.stderr, flush=True)
        rows = {subject.name: row(subject, machine) for subject in subjects}
    for name, figures in rows.items():
        show(name, figures)
    summary, missed = verdict(list(rows.values()))
    show("off by", summary)
    print(f"\n{table(rows)}", file=sys.stderr)
    for each in missed:
        print(f"not met: {each}", file=sys.stderr)
    return 1 if missed or not math.isfinite(sum(summary.values())) else 0


if __name__ == "__main__":
    sys.exit(main())
