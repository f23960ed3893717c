"""Plans against published runs, as the tables of `docs/planning.md`: each row ours, theirs and the difference.

Run as a module it prints the tables, to be put into the page.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from dougong.core.config import find_part, validate
from dougong.plan.cost import Cost, cost_of
from dougong.plan.count import build_on_meta
from dougong.plan.hardware import HARDWARE
from dougong.plan.layout import Layout, Workload, memory, sharded, step_time
from dougong.plan.scaling import training_days
from dougong.train.config import AdamWConfig

GPT = find_part("models", "gpt")
TASK = find_part("tasks", "language_modeling")
A100 = HARDWARE["a100-80gb"]

# Narayanan et al. 2021, table 1: billions of parameters, heads, width, layers, tensor, pipeline, GPUs, batch, TFLOP/s.
NARAYANAN = [
    (1.7, 24, 2304, 24, 1, 1, 32, 512, 137),
    (3.6, 32, 3072, 30, 2, 1, 64, 512, 138),
    (7.5, 32, 4096, 36, 4, 1, 128, 512, 142),
    (18.4, 48, 6144, 40, 8, 1, 256, 1024, 135),
    (39.1, 64, 8192, 48, 8, 2, 512, 1536, 138),
    (76.1, 80, 10240, 60, 8, 4, 1024, 1792, 140),
    (145.6, 96, 12288, 80, 8, 8, 1536, 2304, 148),
    (310.1, 128, 16384, 96, 8, 16, 1920, 2160, 155),
    (529.6, 128, 20480, 105, 8, 35, 2520, 2520, 163),
    (1008.0, 160, 25600, 128, 8, 64, 3072, 3072, 163),
]
LENGTH, VOCABULARY = 2048, 51200

# Brown et al. 2020, table 2.1.
BROWN = {"small": 125e6, "medium": 350e6, "large": 760e6, "xl": 1.3e9, "2.7b": 2.7e9, "6.7b": 6.7e9, "13b": 13e9}
BROWN |= {"175b": 175e9}

# Rajbhandari et al. 2020, table 1, in GB: parameters in billions, GPUs, then stages 1, 2 and 3 as printed.
RAJBHANDARI = [
    (7.5, 1, "120", "120", "120"),
    (7.5, 4, "52.5", "41.3", "30"),
    (7.5, 16, "35.6", "21.6", "7.5"),
    (7.5, 64, "31.4", "16.6", "1.88"),
    (7.5, 256, "30.4", "15.4", "0.47"),
    (7.5, 1024, "30.1", "15.1", "0.12"),
    (128, 1, "2048", "2048", "2048"),
    (128, 4, "896", "704", "512"),
    (128, 16, "608", "368", "128"),
    (128, 64, "536", "284", "32"),
    (128, 256, "518", "263", "8"),
    (128, 1024, "513", "257", "2"),
    (1000, 1, "16000", "16000", "16000"),
    (1000, 4, "7000", "5500", "4000"),
    (1000, 16, "4750", "2875", "1000"),
    (1000, 64, "4187", "2218", "250"),
    (1000, 256, "4046", "2054", "62.5"),
    (1000, 1024, "4011", "2013", "15.6"),
]


@functools.cache
def megatron(heads: int, dim: int, layers: int) -> Cost:
    """Returns the cost of a GPT of Narayanan et al. 2021."""
    shape = {"num_heads": heads, "dim": dim, "num_layers": layers, "max_seq_len": LENGTH, "vocab_size": VOCABULARY}
    config = validate(GPT.PART, {"name": "gpt", **shape})
    return cost_of(config, validate(TASK.PART, {}).build(config), AdamWConfig(), torch.bfloat16)


def formula(dim: int, layers: int, batch: int) -> float:
    """Returns the operations of a step with recomputation (Narayanan et al. 2021, equation 3)."""
    terms = 1 + LENGTH / (6 * dim) + VOCABULARY / (16 * layers * dim)
    return 96 * batch * LENGTH * layers * dim**2 * terms


def parameters() -> Iterator[tuple[str, int, int, float]]:
    """Yields for each GPT-3: name, our number, the sum of its matrices and vectors by hand, the paper's round one."""
    for size, printed in BROWN.items():
        config: Any = validate(GPT.PART, {"name": "gpt", **GPT.VARIANTS[f"gpt3-{size}"]})
        layers, dim = config.num_layers, config.dim
        by_hand = layers * (12 * dim * dim + 13 * dim) + (config.vocab_size + config.max_seq_len) * dim + 2 * dim
        yield f"gpt3-{size}", sum(p.numel() for p in build_on_meta(config).parameters()), by_hand, printed


def operations() -> Iterator[tuple[float, float, float]]:
    """Yields billions of parameters, our operations per step, and the formula's."""
    for size, heads, dim, layers, _, _, _, batch, _ in NARAYANAN:
        yield size, float(batch * megatron(heads, dim, layers).flops(recompute=True)), formula(dim, layers, batch)


def zero() -> Iterator[tuple[float, int, int, float, str]]:
    """Yields billions of parameters, GPUs, stage, our GB per GPU, and the printed ones."""
    for size, count, *printed in RAJBHANDARI:
        whole = Workload(gpt3(), A100, 1).state(size * 1e9, 8 * size * 1e9)  # of the cost nothing is asked here
        for stage, theirs in enumerate(printed, 1):
            held = sharded(whole, stage, count)
            yield size, count, stage, sum(held) / 1e9, theirs


def days() -> Iterator[tuple[str, float, float]]:
    """Yields a training, our days, and the printed ones."""
    models: list[tuple[str, Any, float, int, float, bool, float]] = [
        ("Narayanan et al. 2021, section 5.1: 1,024 A100 at 140 TFLOP/s", 175e9, 300e9, 1024, 140e12, True, 34),
        ("the same: 3,072 A100 at 163 TFLOP/s, 450 billion tokens", 1008e9, 450e9, 3072, 163e12, True, 84),
        ("Patterson et al. 2021, table 4: 10,000 V100 at 24.6 TFLOP/s", 175e9, 300e9, 10000, 24.6e12, False, 14.8),
    ]
    for name, size, tokens, count, rate, recompute, printed in models:
        cost = megatron(160, 25600, 128) if size > 500e9 else gpt3()
        yield name, training_days(cost.flops(recompute) / LENGTH * tokens, count, rate), printed


@functools.cache
def gpt3() -> Cost:
    """Returns the cost of GPT-3."""
    config = validate(GPT.PART, {"name": "gpt", **GPT.VARIANTS["gpt3-175b"]})
    return cost_of(config, validate(TASK.PART, {}).build(config), AdamWConfig(), torch.bfloat16)


def steps() -> Iterator[tuple[float, Layout, float, float]]:
    """Yields billions of parameters, the quickest layout of the paper's degrees, our seconds per step, and theirs."""
    for size, heads, dim, layers, tensor, pipeline, count, batch, rate in NARAYANAN:
        job = Workload(megatron(heads, dim, layers), A100, batch)
        data = count // tensor // pipeline
        found = []
        for microbatch in (1, 2, 4, 8):
            for pieces in (1, 2, 3, 4, 5) if pipeline > 1 else (1,):
                uneven = batch % (data * microbatch) or layers // pipeline % pieces
                if uneven or (pieces > 1 and batch // data // microbatch % pipeline):
                    continue
                degrees = {"data": data, "tensor": tensor, "pipeline": pipeline, "interleave": pieces}
                layout = Layout(**degrees, microbatch=microbatch, recompute=True)
                if memory(job, layout).total <= A100.memory_bytes:
                    found.append((step_time(job, layout).total, layout))
        seconds, layout = min(found, key=lambda item: item[0])
        yield size, layout, seconds, formula(dim, layers, batch) / (count * rate * 1e12)


def tables() -> dict[str, str]:
    """Returns the tables of the page by name."""
    return {
        "parameters": _table(
            ("model", "ours", "matrices and vectors by hand", "difference", "printed", "difference"),
            ((n, f"{o:,}", f"{h:,}", str(o - h), f"{t / 1e9:g}e9", _percent(o, t)) for n, o, h, t in parameters()),
        ),
        "operations": _table(
            ("billions of parameters", "ours, FLOPs per step", "equation 3", "difference"),
            ((f"{s:g}", f"{o:.5e}", f"{t:.5e}", _percent(o, t)) for s, o, t in operations()),
        ),
        "zero": _table(
            ("billions of parameters", "GPUs", "stage", "ours, GB", "printed, GB", "difference"),
            ((f"{s:g}", str(n), str(g), f"{o:,.2f}", t, _percent(o, float(t))) for s, n, g, o, t in zero()),
        ),
        "days": _table(
            ("training", "ours, days", "printed, days", "difference"),
            ((n, f"{o:.1f}", f"{t:g}", _percent(o, t)) for n, o, t in days()),
        ),
        "steps": _table(
            ("billions of parameters", "layout", "ours, s", "measured, s", "difference"),
            ((f"{s:g}", str(w), f"{o:.1f}", f"{t:.1f}", _percent(o, t)) for s, w, o, t in steps()),
        ),
    }


def _percent(ours: float, theirs: float) -> str:
    return f"{100 * (ours / theirs - 1) + 0.0:+.1f} %".replace("-0.0", "+0.0")


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    for name, text in tables().items():
        print(f"<!-- {name} -->\n{text}\n<!-- /{name} -->\n")
