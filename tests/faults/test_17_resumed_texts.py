"""Row 17: a run over texts, with hidden words, dropout and batches of like length, is lost in the middle of an epoch
and goes on, for each task of texts. Promise: the weights, the optimizer's state, the losses and the sample numbers are,
bit by bit, those of the run that never stopped, whatever the number of workers; the words that are hidden are a
function of the seed, the step and the sample's number alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.recipe.recipe import to_yaml
from dougong.tasks.masked_lm import objective
from dougong.tasks.masked_lm.hiding import Hidden
from dougong.train.report import read_run
from scripts.prove_resume import compared
from tests.faults.small_run import dougong, trained

STEPS, CRASH = 9, 8
BERT = {"name": "bert", "num_layers": 1, "num_heads": 2, "dim": 16, "max_seq_len": 32, "dropout": 0.2}
SEQ2SEQ = {"name": "seq2seq", "num_layers": 1, "dim": 16, "max_seq_len": 24, "dropout": 0.2}
WORDS = {"name": "wordpiece", "vocab_size": 70}
LETTERS = {"name": "parallel_text", "paths": ["pairs.tsv"], "tokenizer": {"name": "bytes"}}
TASKS: dict[str, dict[str, Any]] = {
    "hidden words": {
        "model": {**BERT, "head": "pretraining"},
        "task": {"name": "masked_lm", "whole_words": True},
        "data": {
            "name": "encoder_text",
            "sources": [{"name": "files", "paths": ["text.jsonl"]}],
            "tokenizer": WORDS,
            "pairs": True,
            "validation": {"by": "document", "fraction": 0.2},
        },
    },
    "classes": {
        "model": {**BERT, "head": "classify"},
        "task": {"name": "text_classification", "label_smoothing": 0.1},
        "data": {"name": "text_table", "paths": ["films.tsv"], "tokenizer": WORDS},
        "train": {"bucket_batches": 2},
    },
    "tags": {
        "model": {**BERT, "head": "tag"},
        "task": {"name": "token_classification"},
        "data": {"name": "tagged_text", "paths": ["names.conll"], "tokenizer": WORDS, "validation": {"fraction": 0.2}},
        "train": {"bucket_batches": 2},
    },
    "answers": {
        "model": {**BERT, "head": "spans"},
        "task": {"name": "question_answering"},
        "data": {
            "name": "questions",
            "paths": ["squad.json"],
            "tokenizer": WORDS,
            "max_question_len": 12,
            "validation": {"fraction": 0.2},
        },
    },
    "translation, Transformer": {
        "model": {**SEQ2SEQ, "num_heads": 2},
        "task": {"name": "translation", "label_smoothing": 0.1},
        "data": LETTERS,
        "train": {"bucket_batches": 2},
    },
    "translation, recurrent": {
        "model": {**SEQ2SEQ, "kind": "recurrent"},
        "task": {"name": "translation"},
        "data": LETTERS,
        "train": {"bucket_batches": 2},
    },
}
TRAIN: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": 4,
    "precision": "fp32",
    "device": "cpu",
    "compile": False,
    "optimizer": {"name": "adamw", "lr": 0.005},
    "ema": {"decay": 0.9},
    "evaluate": {"every": 4, "batches": 1},
    "checkpoint": {"every": 3},
    "log": {"every": 100, "trackers": []},
}
ANIMALS, CITIES = ("bird", "fish", "cat"), ("Paris", "Rome", "Oslo", "Bern", "Bonn")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small files of every kind: with batches of four, no epoch ends with a batch."""
    places = [(number, ANIMALS[number % 3], CITIES[number % 5]) for number in range(26)]
    lines = [f"In {city} lives a {animal}{' of old' * (number % 4)}." for number, animal, city in places]
    documents = ["\n".join(lines[start : start + 3]) for start in range(23)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    (tmp_path / "films.tsv").write_text("text\tlabel\n" + "".join(f"{line}\t{line[3]}\n" for line in lines))
    tagged = [["In O", f"{city} B-LOC", *["lives O"] * (n % 4), f"{animal} O", ""] for n, animal, city in places]
    (tmp_path / "names.conll").write_text("\n".join(line for sentence in tagged for line in sentence))
    paragraphs = [{"context": line, "qas": [asked(number, line)]} for number, line in enumerate(lines)]
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    (tmp_path / "pairs.tsv").write_text("source\ttarget\n" + "".join(f"{x[:20]}\t{x[3:9].upper()}\n" for x in lines))
    monkeypatch.setattr("dougong.run.training.write_page", lambda folder: None)
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(number: int, line: str) -> dict[str, Any]:
    city = CITIES[number % 5]
    return {"question": "Where is it?", "answers": [{"text": city, "answer_start": line.index(city)}]}


def recipe(name: str, **options: Any) -> dict[str, Any]:
    return {**TASKS[name], "train": {**TRAIN, **TASKS[name].get("train", {}), **options}}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", TASKS)
def test_it_goes_on_as_if_it_had_never_stopped(name: str) -> None:
    unbroken = trained(recipe(name), Path("unbroken"))
    trained(recipe(name), Path("broken"), crash=CRASH)
    same = compared(unbroken, trained(recipe(name), Path("broken"), resume=True))
    assert {"weights", "optimizer's state", "averaged weights", "losses", "sample numbers"} <= same.keys()
    assert all(same.values()), same
    assert [step["step"] for step in read_run(Path("broken"))[0]] == list(range(1, STEPS + 1))


def test_it_does_after_a_kill(here: Path) -> None:
    """A real process, and two workers that die with it."""
    (here / "texts.yaml").write_text(to_yaml(recipe("hidden words", workers=2)))
    killed = here / "killed"
    assert dougong("train", here / "texts.yaml", "--run", killed, fault=f"step:{CRASH}:kill").returncode == -9
    done = dougong("train", killed, "--resume")
    assert done.returncode == 0, done.stderr
    same = compared(trained(recipe("hidden words"), here / "unbroken"), killed)  # with no worker
    assert all(same.values()), same


@pytest.fixture
def stateful(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets words be hidden by one generator that goes on and on; begins it anew, as a new process would."""
    one, of_keys = torch.Generator(), objective.hide

    def hide(config: Any, batch: Any, keys: torch.Tensor) -> Hidden:
        drawn = torch.randint(1 << 31, keys.shape, generator=one, dtype=keys.dtype)
        return of_keys(config, batch, drawn.to(keys.device))  # a plan has no numbers

    monkeypatch.setattr(objective, "hide", hide)
    return lambda: (one.manual_seed(0), None)[1]


@pytest.mark.usefixtures("here")
def test_without_keys_of_each_samples_own_it_would_not(stateful: Callable[[], None]) -> None:
    def anew(run: str, **options: Any) -> Path:
        stateful()
        return trained(recipe("hidden words"), Path(run), **options)

    unbroken = anew("unbroken")
    assert all(compared(unbroken, anew("again")).values())  # so nothing else differs
    anew("broken", crash=CRASH)
    same = compared(unbroken, anew("broken", resume=True))
    assert same["sample numbers"]
    assert not same["weights"]
    assert not same["losses"]
