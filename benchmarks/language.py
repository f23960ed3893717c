"""Training and generation beside Hugging Face's, on the same weights and data: `python -m benchmarks.language`.

The two take turns. Prints ratios (medians over rounds, with their spread), the machine's measured peaks, and the share
of them that is reached. Needs `transformers` and `accelerate`. Speeds compare only within one run of this program.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.rounds import alternate, ratio, show
from benchmarks.texts import Texts, hidden
from dougong.checkpoint.weights import load_model, save_model
from dougong.core import log
from dougong.core.contracts import Batch
from dougong.core.device import choose_device, choose_precision, matmul_peak, memory_bandwidth
from dougong.core.seed import sample_keys
from dougong.models.bert import BertConfig
from dougong.models.gpt import GPTConfig
from dougong.plan.count import build_on_meta, flops_per_sample
from dougong.tasks.language_modeling import LanguageModelingConfig
from dougong.tasks.masked_lm import MaskedLMConfig
from dougong.train.config import AdamWConfig, TrainConfig
from dougong.train.loop import Job, fit

SETTINGS: dict[str, dict[str, Any]] = {
    "6x384": {"model": {"num_layers": 6, "dim": 384, "num_heads": 6, "vocab_size": 512}, "batch": 16, "steps": 6},
    "gpt2-124m": {
        "model": {"num_layers": 12, "dim": 768, "num_heads": 12, "vocab_size": 50257},
        "batch": 4,
        "steps": 4,
    },
    # Four of BERT-base's twelve layers, its heads and its vocabulary; hidden words, dropout as in the paper.
    "bert-4x768": {
        "model": {"num_layers": 4, "dim": 768, "num_heads": 12, "vocab_size": 30522},
        "batch": 16,
        "steps": 3,
    },
}
ENCODERS = ("bert-4x768",)
CONTEXT = 256


class Rows:
    """Bytes of the standard library as batches of tokens: batch `k` is a function of `k`."""

    def __init__(self, batch: int):
        folder = Path(sysconfig.get_path("stdlib"))
        raw = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))[:100])
        self.rows = torch.frombuffer(bytearray(raw), dtype=torch.uint8)[: len(raw) // (CONTEXT + 1) * (CONTEXT + 1)]
        self.rows = self.rows.reshape(-1, CONTEXT + 1).long()
        self.batch = batch

    def row(self, number: int) -> Tensor:
        """Returns one row of context + 1 tokens."""
        return self.rows[number % len(self.rows)]

    def example(self, number: int) -> dict[str, Tensor]:
        """Returns a row as the Trainer sees it."""
        return {"input_ids": self.row(number)[:-1], "labels": self.row(number)[:-1]}

    def __getitem__(self, step: int) -> Batch:
        numbers = torch.arange(step * self.batch, (step + 1) * self.batch)
        rows = torch.stack([self.row(int(number)) for number in numbers])
        return Batch({"tokens": rows[:, :-1].contiguous(), "targets": rows[:, 1:].contiguous()}, numbers)


@dataclass(frozen=True)
class Work:
    """What is trained, and how often: the same for all contestants.

    Attributes:
        config: The model's.
        task: The objective.
        rows: The batch of each step.
        example: What the Trainer sees of an example, by its number.
        loader: The class of `transformers` that opens the model.
        context: Tokens of a row.
        batch: Examples of a step.
        steps: How many a turn has.
    """

    config: Any
    task: Any
    rows: Any
    example: Callable[[int], dict[str, Tensor]]
    loader: str
    context: int
    batch: int
    steps: int


def work_of(name: str) -> Work:
    """Returns what a setting asks for."""
    setting = SETTINGS[name]
    batch, steps = setting["batch"], setting["steps"]
    if name in ENCODERS:
        encoder = BertConfig(max_seq_len=Texts.context, **setting["model"])
        hide = MaskedLMConfig().build(encoder)
        texts = Texts(hide, batch)
        shown = hidden(hide, texts)
        return Work(encoder, hide, texts, shown, "AutoModelForMaskedLM", Texts.context, batch, steps)
    decoder, rows = GPTConfig(max_seq_len=CONTEXT, **setting["model"]), Rows(batch)
    task = LanguageModelingConfig().build(decoder)
    return Work(decoder, task, rows, rows.example, "AutoModelForCausalLM", CONTEXT, batch, steps)


def dougong_trainer(model: torch.nn.Module, work: Work, compile: bool | str) -> Callable[[], float]:
    """Returns a function that trains for some steps through `fit`, and gives the median seconds of a step."""
    config = TrainConfig(
        steps=work.steps,
        batch_size=work.batch,
        compile=compile,
        clip_norm=1.0,
        optimizer=AdamWConfig(lr=5e-5, weight_decay=0.0),
    )

    def run() -> float:
        clock: list[float] = []
        with tempfile.TemporaryDirectory() as folder, log.listening(lambda _: None):
            observers = [lambda _: clock.append(time.perf_counter())]
            fit(Job(config, model, work.task, work.rows, Path(folder), observers=observers))
        return median_step(clock)

    return run


def bare_step(model: torch.nn.Module, work: Work) -> Callable[[], float]:
    """Returns the same steps as a plain PyTorch loop over the same model: what no loop can be faster than."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0, fused=True)
    dtype = fast_dtype(device)

    def run() -> float:
        clock: list[float] = []
        for step in range(work.steps):
            batch = work.rows[step].to(device)
            batch = batch.with_noise(sample_keys(batch.samples, 0, "noise", step))
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = work.task.loss(model, batch)
            (loss.sum / loss.weight).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.sum.item()
            clock.append(time.perf_counter())
        return median_step(clock)

    return run


def hugging_face_trainer(folder: Path, work: Work, **arguments: Any) -> Callable[[], float]:
    """Returns the same training by `transformers.Trainer`, its defaults changed only by `arguments`."""
    import transformers

    transformers.logging.set_verbosity_error()
    data = [work.example(number) for number in range(work.batch * work.steps)]
    clock: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.append(time.perf_counter())

    out = tempfile.mkdtemp()
    settings = transformers.TrainingArguments(
        out,
        per_device_train_batch_size=work.batch,
        max_steps=work.steps,
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
        use_cpu=choose_device().type == "cpu",  # which it asks for with bf16
        **arguments,
    )
    model = getattr(transformers, work.loader).from_pretrained(folder, dtype=torch.float32)
    trainer = transformers.Trainer(model, settings, train_dataset=data, callbacks=[Clock()])
    trainer.remove_callback(transformers.PrinterCallback)

    def run() -> float:
        clock.clear()
        trainer.train()
        return median_step(clock)

    return run


def median_step(clock: list[float]) -> float:
    """Returns the median seconds between the ends of two steps: the first step, which warms up, is left out."""
    return statistics.median(after - before for before, after in itertools.pairwise(clock))


def fast_dtype(device: torch.device) -> torch.dtype:
    """Returns bf16 where its matrix products are measured faster than fp32's, else fp32: what `auto` takes."""
    return choose_precision("auto", device).dtype


def training(name: str, rounds: int) -> dict[str, Any]:
    """Returns the figures of one training setting."""
    work, device = work_of(name), choose_device()
    dtype = fast_dtype(device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = work.config.build()
        model.init_weights(0)
        save_model(model, folder / "model")
        ours = {compiled: load_model(folder / "model", device=device) for compiled in (True, False)}
        quick = {"bf16": True} if dtype == torch.bfloat16 else {}
        contestants = {
            "dougong": dougong_trainer(ours[True], work, True),
            "dougong, not compiled": dougong_trainer(ours[False], work, False),
            "bare step": bare_step(ours[True], work),
            "Trainer, defaults": hugging_face_trainer(folder / "model", work),
            "Trainer, compiled" + (", bf16" if quick else ", fp32"): hugging_face_trainer(
                folder / "model", work, torch_compile=True, **quick
            ),
        }
        for contestant in contestants.values():
            contestant()
        seconds = alternate(contestants, rounds)
    return figures(work, seconds, dtype, device)


def figures(work: Work, seconds: dict[str, list[float]], dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Returns tokens/s, ratios and the share of the measured peak."""
    tokens = work.batch * work.context
    best = min(("dougong", "dougong, not compiled"), key=lambda name: statistics.median(seconds[name]))
    flops = work.batch * flops_per_sample(build_on_meta(work.config), work.task)
    result: dict[str, Any] = {"precision": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
    for name, values in seconds.items():
        result[f"tokens/s, {name}"] = tokens / statistics.median(values)
        if not name.startswith("dougong"):
            result[f"{best} / {name}"] = ratio(seconds[best], values)
    result["loop / bare step"] = ratio(seconds["bare step"], seconds["dougong"])
    result["share of matmul peak"] = flops / statistics.median(seconds[best]) / matmul_peak(device, dtype)
    return result


def machine() -> dict[str, Any]:
    """Returns what this machine measures."""
    device = choose_device()
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "fp32 matmul, GFLOP/s": matmul_peak(device, torch.float32) / 1e9,
        "bf16 matmul, GFLOP/s": matmul_peak(device, torch.bfloat16) / 1e9,
        "memory bandwidth, GB/s": memory_bandwidth(device) / 1e9,
    }


def main() -> None:
    """Runs all, or what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.language", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how many turns each contestant gets")
    parser.add_argument("--only", choices=[*SETTINGS, "generation"], help="one part instead of all")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    show("machine", machine())
    for name in SETTINGS:
        if options.only in (None, name):
            show(f"training {name}", training(name, options.rounds))
    if options.only in (None, "generation"):
        from benchmarks import generation

        show("generation gpt2-124m", generation.measure())


if __name__ == "__main__":
    sys.exit(main())
