"""Stacks written in YAML alone, trained on real data beside a linear model: `python -m benchmarks.polarity`.

Four recipes tell praise from blame in the sentences of Pang and Lee (2005), by cross-validation in ten folds, as is
usual there; beside them stand TF-IDF and logistic regression, fitted and judged on the same sentences of each fold. A
fifth recipe reads scikit-learn's digits. The control trains a recipe on labels dealt at random, which must leave it no
better than a coin. The exit status is 1 where a demand is not met. Needs `pip install '.[sklearn]'`; one thread
(`OMP_NUM_THREADS=1`) is what the published figures have.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dougong
from benchmarks.rounds import show
from dougong.core import files, log
from dougong.core.device import choose_device, choose_precision
from dougong.data.reading import Reading, lines
from dougong.data.source import Tally
from dougong.nn.metrics import wilson

DATA = Path(__file__).parents[2] / "shared/data/classification/sentence_polarity"
FILES = ("rt-polarity.neg", "rt-polarity.pos")
FOLDS = 10
WITHIN = 2.0  # points below the baseline that a recipe may end
DIGITS = 97.0  # per cent that the digits must be above
DEMANDED = ("polarity-textcnn", "polarity-bilstm", "polarity-transformer")
RECIPES = (*DEMANDED, "polarity-hybrid")


@dataclass(frozen=True)
class Part:
    """Sentences, and the number of each one's class."""

    texts: Sequence[str]
    labels: Sequence[int]


class Sentences:
    """The sentences as the recipes divide them, which is checked against the dataset token by token.

    Args:
        folder: Where the two files are.
        fold: Which tenth is for validation.
    """

    def __init__(self, folder: Path, fold: int):
        self.paths = [folder / name for name in FILES]
        self.recipe: Any = dougong.recipe(RECIPES[0], overrides=overrides(self.paths, fold))
        data = self.recipe.data
        found = [
            (data.validation.keeps(text.encode()), text, number)
            for number, path in enumerate(self.paths)
            for text in (line.text for line in lines(path, Reading(), Tally()))
        ]
        self.training, self.validation = (
            Part([text for kept, text, _ in found if kept == apart], [n for kept, _, n in found if kept == apart])
            for apart in (False, True)
        )
        with log.listening(lambda _: None):
            self._compare(data.prepare(seq_len=self.recipe.model.max_seq_len))

    def _compare(self, data: Any) -> None:
        """Holds the sentences against what the recipes see of them."""
        for part, examples in ((self.training, data.train[0][0]), (self.validation, data.validation)):
            rows = data.tokenizer.encode_batch(list(part.texts))
            seen = [examples[number] for number in range(len(examples))]
            same = all(np.array_equal(row[: data.seq_len], one.tokens) for row, one in zip(rows, seen, strict=True))
            if not same or list(part.labels) != [one.label for one in seen]:
                raise AssertionError("the baseline must see the sentences that the recipes see, but they differ")


def overrides(paths: Sequence[Path], fold: int) -> list[str]:
    """Returns what tells a recipe where the sentences are, and which of them are for validation."""
    where = [f"data.classes[{number}].paths=[{path}]" for number, path in enumerate(paths)]
    return [*where, f"data.validation.fold={fold}"]


def baselines(sentences: Sentences) -> dict[str, float]:
    """Returns the accuracy of each linear model, in per cent."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    pairs = {"ngram_range": (1, 2), "sublinear_tf": True}
    grid: dict[str, tuple[dict[str, Any], float]] = {
        "words, C=1 (the defaults)": ({}, 1.0),
        **{f"words and pairs, sublinear, C={cost:g}": (pairs, cost) for cost in (1.0, 10.0, 100.0)},
    }
    found = {}
    for name, (options, cost) in grid.items():
        model = make_pipeline(TfidfVectorizer(**options), LogisticRegression(C=cost, max_iter=1000))
        model.fit(sentences.training.texts, sentences.training.labels)
        found[name] = 100 * model.score(sentences.validation.texts, sentences.validation.labels)
    return found


def trained(recipe: str, seed: int, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the accuracy in per cent, the seconds and the parameters of a recipe that is trained once."""
    with tempfile.TemporaryDirectory() as folder, log.listening(lambda _: None):
        run = dougong.train(recipe, run=Path(folder) / "run", overrides=changes, seed=seed)
        plan = files.read_json(run.folder / "plan.json")
    accuracy = 100 * run.metrics["accuracy"]
    print(f"  {recipe}, seed {seed}: {accuracy:.2f} % in {run.seconds:.0f} s", file=sys.stderr, flush=True)
    return {
        "accuracy": accuracy,
        "seconds": run.seconds,
        "parameters": plan["parameters"],
        "examples": plan["data"]["validation_examples"],
    }


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures of a recipe's runs."""
    accuracies = [run["accuracy"] for run in runs]
    return {
        "accuracy, %": statistics.fmean(accuracies),
        "each, %": [round(each, 2) for each in accuracies],
        "seconds": statistics.median(run["seconds"] for run in runs),
        "parameters": runs[0]["parameters"],
    }


def ahead(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Returns the mean of the differences, fold by fold, and its standard error."""
    differences = [our - their for our, their in zip(ours, theirs, strict=True)]
    found = {"points above the strongest baseline": statistics.fmean(differences)}
    if len(differences) > 1:
        found["standard error"] = statistics.stdev(differences) / len(differences) ** 0.5
    return found


def dealt(sentences: Sentences, folder: Path) -> Iterator[Path]:
    """Writes the training sentences into the files at random, the others where they belong; yields the files."""
    chance = random.Random(0)
    drawn = Part(sentences.training.texts, chance.sample(sentences.training.labels, len(sentences.training.labels)))
    for number, name in enumerate(FILES):
        parts = (drawn, sentences.validation)
        texts = [t for part in parts for t, label in zip(part.texts, part.labels, strict=True) if label == number]
        files.write_whole(folder / name, "\n".join(texts) + "\n")
        yield folder / name


def control(sentences: Sentences) -> dict[str, float]:
    """Returns the figures of a recipe that was taught labels dealt at random: a coin's, within the 95 % interval."""
    with tempfile.TemporaryDirectory() as folder:
        run = trained(RECIPES[0], 0, overrides(list(dealt(sentences, Path(folder))), 0))
    low, high = wilson(round(run["accuracy"] / 100 * run["examples"]), run["examples"]) or (0.0, 1.0)
    return {"accuracy, %": run["accuracy"], "95 % from": 100 * low, "95 % to": 100 * high}


def machine() -> dict[str, Any]:
    """Returns what the figures were measured on."""
    device = choose_device()
    precision = str(choose_precision("auto", device).dtype).removeprefix("torch.")
    return {"device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__, "type": precision}


def polarity(folder: Path, folds: int, only: str | None) -> list[str]:
    """Shows the figures of the sentences, and returns the demands that are not met."""
    missed = list[str]()
    divided = [Sentences(folder, fold) for fold in range(folds)]
    each = [baselines(sentences) for sentences in divided]
    linear = {name: [found[name] for found in each] for name in each[0]}
    means = {name: statistics.fmean(found) for name, found in linear.items()}
    name = max(means, key=lambda one: means[one])
    rounded = [round(one, 2) for one in linear[name]]
    sizes = [len(sentences.validation.texts) for sentences in divided]
    show(
        "TF-IDF and logistic regression, mean of the folds in %",
        {**means, "the strongest": name, "each, %": rounded, "sentences of a fold": sizes},
    )
    for recipe in RECIPES:
        if only in (None, recipe):
            runs = [trained(recipe, fold, overrides(divided[fold].paths, fold)) for fold in range(folds)]
            above = ahead([run["accuracy"] for run in runs], linear[name])
            show(recipe, {**summary(runs), **above})
            behind = -above["points above the strongest baseline"]
            if recipe in DEMANDED and behind > WITHIN:
                missed.append(f"{recipe} ended {behind:.2f} points below the baseline")
    if only in (None, "control"):
        figures = control(divided[0])
        show("control: labels dealt at random", figures)
        if not figures["95 % from"] <= 50.0 <= figures["95 % to"]:
            missed.append(f"the control ended at {figures['accuracy, %']:.2f} %, which is not a coin's 50 %")
    return missed


def main() -> int:
    """Runs all, or what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.polarity", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help=f"the folder with {' and '.join(FILES)}")
    parser.add_argument("--folds", type=int, default=FOLDS, help="of how many of the ten folds the figures are")
    parser.add_argument("--only", choices=[*RECIPES, "digits-convvit", "control"], help="one part instead of all")
    options = parser.parse_args()
    missed = list[str]()
    show("machine", machine())
    if options.only != "digits-convvit":
        missed += polarity(options.data, options.folds, options.only)
    if options.only in (None, "digits-convvit"):
        folds = range(min(5, options.folds))  # a fold is a fifth of them
        figures = summary([trained("digits-convvit", fold, [f"data.validation.fold={fold}"]) for fold in folds])
        show("digits-convvit", figures)
        if figures["accuracy, %"] <= DIGITS:
            missed.append(f"digits-convvit must be above {DIGITS:g} %, but is {figures['accuracy, %']:.2f} %")
    for each in missed:
        print(f"not met: {each}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
