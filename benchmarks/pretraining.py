"""What hiding words teaches, on the text of Python's own library: `python -m benchmarks.pretraining`.

First a small BERT names hidden words, and tells whether one piece follows another, and a small GPT names the next word
of the same text, with one tokenizer, the same sizes and as many steps over as many tokens; their bits per token and per
byte are told at the same steps, and both must fall together. Then a few hundred functions of the library are classified
by the package that they belong to (asyncio, email, tkinter, ...), forty of each, by that BERT and by one of the same
shape that starts from random weights, three seeds each. All functions that decide stand in modules that the tokenizer,
the pre-training and the labels have not seen: those that the split of the text keeps apart. Each of the two has the
better of two learning rates, chosen on the very functions that decide. Beside them TF-IDF and logistic regression,
where scikit-learn is installed. The exit status is 1 where a demand is not met. One thread (`OMP_NUM_THREADS=1`) is
what the published figures have.
"""

from __future__ import annotations

import argparse
import ast
import collections
import itertools
import json
import math
import random
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import dougong
from benchmarks.rounds import show
from dougong.core import files, log
from dougong.data.source import Tally
from dougong.data.sources.python_library import PythonLibraryConfig
from dougong.data.split import by_document

APART = 0.2  # share of the modules that is kept apart
LABELLED, DECIDING, FAMILIES = 40, 40, 10  # functions of each package to learn from, and to be judged on; packages
SEEDS = (0, 1, 2)
RATES = (5.0e-4, 2.0e-3)
LENGTH = 64
SHAPE = {"num_layers": 3, "num_heads": 4, "dim": 128, "max_seq_len": LENGTH, "dropout": 0.0}
BERT = {"name": "bert", **SHAPE, "attention_dropout": 0.0, "init_std": 0.06}
GPT = {"name": "gpt", **SHAPE, "norm": "layernorm", "position": "learned"}
TEXT = {
    "sources": [{"name": "python_library"}],
    "tokenizer": {"name": "wordpiece", "vocab_size": 2048, "lowercase": False},
    "validation": {"by": "document", "fraction": APART},
}


def trained(folder: Path, **recipe: Any) -> Any:
    """Trains a recipe, and returns the run."""
    begin = time.perf_counter()
    with log.listening(lambda _: None):
        run = dougong.train({"title": folder.name, **recipe}, run=folder)
    seconds = time.perf_counter() - begin
    print(f"  {folder.name}: {seconds:.0f} s, {_rounded(run.metrics)}", file=sys.stderr, flush=True)
    return run


def training(steps: int, lr: float, **options: Any) -> dict[str, Any]:
    """Returns how something is trained."""
    return {
        "steps": steps,
        "batch_size": 32,
        "optimizer": {"name": "adamw", "lr": lr, "betas": [0.9, 0.98], "weight_decay": 0.01},
        "schedule": {"name": "linear", "warmup_steps": max(1, steps // 10)},
        "clip_norm": 1.0,
        "checkpoint": {"every": steps},
        **options,
    }


def curve(run: Path, figure: str, each: str) -> dict[int, tuple[float, float]]:
    """Returns two validation figures of a run by the step."""
    found = {}
    for line in (run / "run.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        metrics = record.get("evaluation") or {}
        if record.get("event") is None and figure in metrics:
            found[record["step"]] = (metrics[figure], metrics[each])
    return found


def pretrained(folder: Path, steps: int) -> tuple[Path, list[str]]:
    """Trains the BERT and the GPT, shows their curves; returns the BERT's model, and the demands that are not met."""
    often = {"evaluate": {"every": max(1, steps // 8), "batches": 20}}
    trained(
        folder / "bert",
        model={**BERT, "head": "pretraining"},
        task={"name": "masked_lm"},
        data={"name": "encoder_text", "pairs": True, **TEXT},
        train=training(steps, 2.0e-3, **often),
    )
    trained(
        folder / "gpt",
        model=GPT,
        task={"name": "language_modeling"},
        data={"name": "text", **TEXT},
        train=training(steps, 2.0e-3, **often),
    )
    bert = curve(folder / "bert", "bits_per_masked_token", "bits_per_masked_byte")
    gpt = curve(folder / "gpt", "loss", "bits_per_byte")
    for step in sorted(bert.keys() & gpt.keys()):
        show(
            f"step {step:,}",
            {
                "BERT, bits per masked token": bert[step][0],
                "GPT, bits per token": gpt[step][0] / math.log(2),
                "BERT, bits per masked byte": bert[step][1],
                "GPT, bits per byte": gpt[step][1],
            },
        )
    both = [(bert[step], gpt[step]) for step in sorted(bert.keys() & gpt.keys())]
    missed = [
        f"{name} must fall from each evaluation to the next, but for noise of 1 %"
        for number, name in enumerate(("BERT's bits", "GPT's bits"))
        for per in range(2)
        if any(later[number][per] > 1.01 * former[number][per] for former, later in itertools.pairwise(both))
    ]
    return folder / "bert" / "model", missed


def functions() -> Iterator[tuple[bool, str, str]]:
    """Yields (whether it is kept apart, package, source) of each function in the packages, of 5 lines or more."""
    for apart, document in by_document(PythonLibraryConfig().build().documents(Tally()), APART):
        package, _, module = document.name.partition("/")
        if not module.endswith(".py") or document.piece:
            continue
        try:
            tree = ast.parse(document.text)
        except SyntaxError:  # the library has a few files that test the parser
            continue
        lines = document.text.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 4:
                yield apart, package, textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))


def labelled(folder: Path) -> tuple[dict[bool, list[tuple[str, str]]], dict[bool, Path]]:
    """Writes the functions to learn from and those that decide, as lines of JSON; returns them and the files."""
    found: dict[str, dict[bool, list[str]]] = collections.defaultdict(lambda: {False: [], True: []})
    for apart, package, text in functions():
        found[package][apart].append(text)
    enough = {p: parts for p, parts in found.items() if len(parts[True]) >= DECIDING // 2 and len(parts[False]) >= 60}
    packages = sorted(sorted(enough, key=lambda p: (-len(enough[p][True]), p))[:FAMILIES])
    draw, parts, paths = random.Random(0), {}, {}
    for apart, most in ((False, LABELLED), (True, DECIDING)):
        texts = {package: sorted(set(enough[package][apart])) for package in packages}
        rows = [(t, p) for p in packages for t in draw.sample(texts[p], min(most, len(texts[p])))]
        parts[apart], paths[apart] = rows, folder / f"{'deciding' if apart else 'labelled'}.jsonl"
        lines = [json.dumps({"text": text, "label": package}) + "\n" for text, package in rows]
        files.write_whole(paths[apart], "".join(lines))
    return parts, paths


def classified(folder: Path, paths: dict[bool, Path], start: Path, seed: int, lr: float, steps: int) -> float:
    """Returns the accuracy in per cent of a classifier that starts from a pre-trained model, or from random weights.

    Args:
        folder: Of the run; its name begins with what it starts from.
        paths: The functions to learn from and those that decide.
        start: The pre-trained model, whose tokenizer both take.
        seed: Of the run.
        lr: The learning rate.
        steps: How long it learns.
    """
    from_random = folder.name.startswith("random")
    run = trained(
        folder,
        model={**BERT, "head": "classify", "dropout": 0.1},
        task={"name": "text_classification"},
        data={
            "name": "text_table",
            "paths": [str(paths[False])],
            "validation_paths": [str(paths[True])],
            "tokenizer": {"name": "file", "path": str(start)},
        },
        train=training(steps, lr, seed=seed, evaluate={"every": 0}),
        **({} if from_random else {"init_from": str(start), "init_new": ["answer.*"]}),
    )
    return 100 * run.metrics["accuracy"]


def baseline(parts: dict[bool, list[tuple[str, str]]]) -> float | None:
    """Returns the accuracy in per cent of TF-IDF and logistic regression, if scikit-learn is there."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        return None
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10.0, max_iter=1000))
    model.fit(*zip(*parts[False], strict=True))
    return 100 * model.score(*zip(*parts[True], strict=True))


def compared(folder: Path, start: Path, steps: int) -> list[str]:
    """Shows what pre-training is worth, and returns the demands that are not met."""
    parts, paths = labelled(folder)
    packages = sorted({package for _, package in parts[True]})
    show(
        "functions by package",
        {"packages": " ".join(packages), "to learn from": len(parts[False]), "that decide": len(parts[True])},
    )

    def runs(name: str) -> list[float]:
        found = [
            [classified(folder / f"{name}-{lr:g}-{seed}", paths, start, seed, lr, steps) for seed in SEEDS]
            for lr in RATES
        ]
        return max(found, key=statistics.fmean)

    with_it, without = runs("pre-trained"), runs("random")
    gain = [one - other for one, other in zip(with_it, without, strict=True)]
    show(
        "accuracy on functions of unseen modules, %",
        {
            "pre-trained": statistics.fmean(with_it),
            "pre-trained, each seed": _list(with_it),
            "random weights": statistics.fmean(without),
            "random weights, each seed": _list(without),
            "points gained": statistics.fmean(gain),
            "points gained, each seed": _list(gain),
            "TF-IDF and logistic regression": baseline(parts),
            "chance": 100 * max(collections.Counter(p for _, p in parts[True]).values()) / len(parts[True]),
        },
    )
    return [] if min(gain) > 0 else ["pre-training must help with each seed, but gains " + _list(gain) + " points"]


def _list(values: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)


def _rounded(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in list(metrics)[:2])


def main() -> int:
    """Runs both parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretraining", description=__doc__)
    parser.add_argument("--steps", type=int, default=6000, help="of the pre-training")
    parser.add_argument("--tuning-steps", type=int, default=150, help="of each classifier")
    parser.add_argument("--keep", type=Path, help="where the runs are kept; absent: nowhere")
    options = parser.parse_args()
    show("machine", {"threads": torch.get_num_threads(), "torch": torch.__version__})
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        start, missed = pretrained(folder, options.steps)
        missed += compared(folder, start, options.tuning_steps)
    for each in missed:
        print(f"not met: {each}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
