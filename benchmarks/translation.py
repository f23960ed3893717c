"""Translators trained from nothing on command-line help: `python -m benchmarks.translation`.

Trains the shipped recipes on the pairs of tldr-pages, watches them on `val`, and judges them on `test`, whose pages are
others: BLEU with sacrebleu's signature, chrF, the learning curve, and ten translations. The demands: 25 BLEU into
Spanish by a Transformer, 18 into Chinese, each in at most 40 minutes, and the recurrent network within 6 BLEU of the
Transformer. The exit status is 1 where one is not met. Needs `pip install '.[translation]'`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import dougong
from benchmarks.polarity import machine
from benchmarks.rounds import show
from dougong.core import files, log

DATA = Path(__file__).parents[2] / "shared/data/translation/tldr"
RECIPES = {
    "tldr-en-es-transformer": "en-es",
    "tldr-en-zh-transformer": "en-zh",
    "tldr-en-es-rnn": "en-es",
}
LEAST = {"tldr-en-es-transformer": 25.0, "tldr-en-zh-transformer": 18.0}
WITHIN = 6.0  # BLEU that the recurrent network may be behind the Transformer
MINUTES = 40.0


def judged(recipe: str, data: Path, folder: Path) -> dict[str, Any]:
    """Trains a recipe once, and returns its figures on the pairs that it never saw."""
    pair = RECIPES[recipe]
    paths = {part: f"[{data / f'{pair}.{part}.tsv'}]" for part in ("train", "val", "test")}
    where = [f"data.paths={paths['train']}", f"data.validation_paths={paths['val']}"]
    with log.listening(lambda _: None):
        run = dougong.train(recipe, run=folder / recipe, overrides=where)
        figures, details = _evaluated(run.folder, [f"data.validation_paths={paths['test']}"])
    records = [json.loads(line) for line in files.read_text(run.folder / "run.jsonl").splitlines()]
    curve = {r["step"]: round(r["evaluation"]["bleu"], 2) for r in records if r.get("evaluation") and "event" not in r}
    plan = files.read_json(run.folder / "plan.json")
    for row in details["translations"]:
        print("".join(f"\n  {name:<12} {text}" for name, text in row.items()), file=sys.stderr)
    return {
        "BLEU": figures["bleu"],
        "chrF": figures["chrf"],
        "signature": details["signatures"]["bleu"],
        "perplexity of a token": figures["perplexity"],
        "BLEU on val by step": str(curve),
        "minutes": run.seconds / 60,
        "parameters": plan["parameters"],
    }


def _evaluated(folder: Path, overrides: list[str]) -> tuple[dict[str, float], dict[str, Any]]:
    from dougong.run.evaluation import evaluate_in_full

    return evaluate_in_full(folder, overrides=overrides)


def missed(found: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the demands that are not met."""
    complaints = [
        f"{recipe} must reach {least:g} BLEU, but reached {found[recipe]['BLEU']:.2f}"
        for recipe, least in LEAST.items()
        if recipe in found and found[recipe]["BLEU"] < least
    ]
    complaints += [
        f"{recipe} must take at most {MINUTES:g} minutes, but took {found[recipe]['minutes']:.0f}"
        for recipe in LEAST
        if recipe in found and found[recipe]["minutes"] > MINUTES
    ]
    first, other = "tldr-en-es-transformer", "tldr-en-es-rnn"
    if first in found and other in found and (behind := found[first]["BLEU"] - found[other]["BLEU"]) > WITHIN:
        complaints.append(f"{other} must be within {WITHIN:g} BLEU of the Transformer, but is {behind:.2f} behind")
    return complaints


def main() -> int:
    """Runs all, or what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.translation", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with en-es.train.tsv and so on")
    parser.add_argument("--only", choices=RECIPES, help="one recipe instead of all")
    options = parser.parse_args()
    show("machine", machine())
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in RECIPES:
            if options.only in (None, recipe):
                found[recipe] = judged(recipe, options.data, Path(folder))
                show(recipe, found[recipe])
    for each in missed(found):
        print(f"not met: {each}", file=sys.stderr)
    return 1 if missed(found) else 0


if __name__ == "__main__":
    sys.exit(main())
