"""Stacks written in YAML alone, trained on real data beside a linear model: `python -m benchmarks.polarity`.

Four recipes tell praise from blame in the sentences of Pang and Lee (2005); beside them stand TF-IDF and logistic
regression, fitted on the same training sentences and judged on the same validation sentences. A fifth recipe reads
scikit-learn's digits. The control trains a recipe on labels dealt at random, which must leave it no better than a coin.
The exit status is 1 where a demand is not met. Needs `pip install '.[sklearn]'`; one thread (`OMP_NUM_THREADS=1`) is
what the published figures have.
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
    """

    def __init__(self, folder: Path):
        self.paths = [folder / name for name in FILES]
        self.recipe: Any = dougong.recipe(RECIPES[0], overrides=overrides(self.paths))
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
            same = all(np.array_equal(row[: data.seq_len], seen) for row, seen in zip(rows, examples.rows, strict=True))
            if not same or list(part.labels) != list(examples.labels):
                raise AssertionError("the baseline must see the sentences that the recipes see, but they differ")


def overrides(paths: Sequence[Path]) -> list[str]:
    """Returns what tells a recipe where the sentences are."""
    return [f"data.classes[{number}].paths=[{path}]" for number, path in enumerate(paths)]


def baselines(sentences: Sentences) -> dict[str, float]:
    """Returns the accuracy of each linear model, in per cent. The strong one is what recipes are held against."""
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


def trained(recipe: str, seeds: Sequence[int], changes: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the figures of a recipe, trained once with each seed."""
    accuracies, seconds, plan = list[float](), list[float](), dict[str, Any]()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder, log.listening(lambda _: None):
            run = dougong.train(recipe, run=Path(folder) / "run", overrides=changes, seed=seed)
            plan = files.read_json(run.folder / "plan.json")
        accuracies.append(100 * run.metrics["accuracy"])
        seconds.append(run.seconds)
        print(f"  {recipe}, seed {seed}: {accuracies[-1]:.2f} % in {run.seconds:.0f} s", file=sys.stderr, flush=True)
    mean = statistics.fmean(accuracies)
    return {
        "accuracy, %": mean,
        **interval(mean, plan["data"]["validation_examples"]),
        "each seed, %": [round(each, 2) for each in accuracies],
        "seeds": list(seeds),
        "seconds": statistics.median(seconds),
        "parameters": plan["parameters"],
    }


def interval(accuracy: float, count: int) -> dict[str, float]:
    """Returns the ends of the 95 % interval, in per cent: of the choice of the validation examples, not of the seed."""
    low, high = wilson(round(accuracy / 100 * count), count) or (0.0, 1.0)
    return {"95 % from": 100 * low, "95 % to": 100 * high}


def dealt(sentences: Sentences, folder: Path) -> Iterator[Path]:
    """Writes the training sentences into the files at random, the others where they belong; yields the files."""
    chance = random.Random(0)
    drawn = Part(sentences.training.texts, chance.sample(sentences.training.labels, len(sentences.training.labels)))
    for number, name in enumerate(FILES):
        parts = (drawn, sentences.validation)
        texts = [t for part in parts for t, label in zip(part.texts, part.labels, strict=True) if label == number]
        files.write_whole(folder / name, "\n".join(texts) + "\n")
        yield folder / name


def control(sentences: Sentences) -> dict[str, Any]:
    """Returns the figures of a recipe that was taught labels dealt at random."""
    with tempfile.TemporaryDirectory() as folder:
        return trained(RECIPES[0], [0], overrides(list(dealt(sentences, Path(folder)))))


def machine() -> dict[str, Any]:
    """Returns what the figures were measured on."""
    device = choose_device()
    precision = str(choose_precision("auto", device).dtype).removeprefix("torch.")
    return {"device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__, "type": precision}


def polarity(folder: Path, seeds: Sequence[int], only: str | None) -> list[str]:
    """Shows the figures of the sentences, and returns the demands that are not met."""
    sentences, missed = Sentences(folder), list[str]()
    linear = baselines(sentences)
    name, strong = max(linear.items(), key=lambda item: item[1])
    count = len(sentences.validation.texts)
    show(
        "TF-IDF and logistic regression",
        {**linear, "the strongest": name, **interval(strong, count), "validation sentences": count},
    )
    for recipe in RECIPES:
        if only in (None, recipe):
            figures = trained(recipe, seeds, overrides(sentences.paths))
            ahead = figures["accuracy, %"] - strong
            show(recipe, {**figures, "points above the strongest baseline": ahead})
            if recipe in DEMANDED and ahead < -WITHIN:
                missed.append(f"{recipe} ended {-ahead:.2f} points below the baseline")
    if only in (None, "control"):
        figures = control(sentences)
        show("control: labels dealt at random", figures)
        if not figures["95 % from"] <= 50.0 <= figures["95 % to"]:
            missed.append(f"the control ended at {figures['accuracy, %']:.2f} %, which is not a coin's 50 %")
    return missed


def main() -> int:
    """Runs all, or what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.polarity", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help=f"the folder with {' and '.join(FILES)}")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds each recipe is trained with")
    parser.add_argument("--only", choices=[*RECIPES, "digits-convvit", "control"], help="one part instead of all")
    options = parser.parse_args()
    seeds, missed = range(options.seeds), list[str]()
    show("machine", machine())
    if options.only != "digits-convvit":
        missed += polarity(options.data, seeds, options.only)
    if options.only in (None, "digits-convvit"):
        figures = trained("digits-convvit", seeds)
        show("digits-convvit", figures)
        if figures["accuracy, %"] <= DIGITS:
            missed.append(f"digits-convvit must be above {DIGITS:g} %")
    for each in missed:
        print(f"not met: {each}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
