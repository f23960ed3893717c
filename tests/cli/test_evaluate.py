"""`dougong evaluate`: what a task tells beyond its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dougong.cli.output import _cell, show_details
from dougong.recipe.recipe import to_yaml

NAMES, PLACES = ("Anna", "Ben", "Cleo"), ("Paris", "Rome")
TRAIN = {"batch_size": 4, "precision": "fp32", "device": "cpu", "compile": False}


def tagger(folder: Path) -> None:
    """Writes sentences with tags, and a recipe that learns them; two that are judged by are equal, but for a tag."""
    lines = [f"{NAMES[n % 3]} B-PER\nsaw O\nNew B-LOC\n{PLACES[n % 2]} I-LOC\n\n" for n in range(24)]
    (folder / "most.conll").write_text("".join(lines[:16]))
    lines[16] = lines[22].replace("saw O", "saw B-LOC")
    (folder / "few.conll").write_text("".join(lines[16:]))
    recipe = {
        "title": "Names",
        "model": {"name": "bert", "head": "tag", "max_seq_len": 16, "num_layers": 1, "num_heads": 2, "dim": 16},
        "task": {"name": "token_classification"},
        "data": {
            "name": "tagged_text",
            "paths": ["most.conll"],
            "validation_paths": ["few.conll"],
            "tokenizer": {"name": "wordpiece", "vocab_size": 60},
        },
        "train": {**TRAIN, "steps": 2, "optimizer": {"name": "adamw", "lr": 0.01}},
    }
    (folder / "names.yaml").write_text(to_yaml(recipe))


def table(text: str, head: str) -> list[list[str]]:
    """Returns the rows below a head, by their cells."""
    lines = text.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.split()[:1] == [head]) + 1
    return [line.split() for line in lines[begin : lines.index("", begin) if "" in lines[begin:] else None]]


def test_types_of_entities_and_tags_have_a_table_each(tmp_path: Path, dougong: Any) -> None:
    tagger(tmp_path)
    assert dougong("train", "names.yaml", "--run", "names").code == 0
    answer = dougong("evaluate", "names")
    found = dougong("evaluate", "names", "--json").json
    assert (answer.code, "precision" in answer.out) == (0, True), answer.err
    for name, head, row in (("types", "type", "LOC"), ("tags", "tag", "B-PER")):
        rows = table(answer.out, head)
        assert [cells[0] for cells in rows] == list(found[name])
        cells = dict((cells[0], cells[1:]) for cells in rows)[row]
        assert cells == [_cell(float("nan") if value is None else value) for value in found[name][row].values()]
    wrong = table(answer.out, "is")
    assert [[a, b, int(n)] for a, b, n in wrong] == [[*each.values()] for each in found["confusions"][:10]] != []


def test_questions_with_and_without_answer_have_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {"answerable": {"questions": 3, "f1": 1 / 3}, "unanswerable": {"questions": 1200, "f1": 1.0}}
    show_details({**kinds, "signatures": {"bleu": "tok:13a"}})
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert lines == [
        ["kind", "questions", "f1"],
        ["answerable", "3", "0.3333"],
        ["unanswerable", "1,200", "1.0000"],
        ["bleu", "tok:13a"],
    ]
