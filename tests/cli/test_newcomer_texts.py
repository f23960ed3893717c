"""Mistakes that a newcomer makes who asks models about texts, and code models for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.faults import hostile, programs
from tests.infer.texts import encoder, translator

Prepare = Callable[[Path], None]


def nothing(folder: Path) -> None:
    """The mistake needs no files."""


def reader(head: str, content: bytes | None = None, name: str = "mine.txt") -> Prepare:
    """Leaves a model that answers about texts, and a file if it has content."""

    def prepare(folder: Path) -> None:
        encoder(folder / "model", head)
        if content is not None:
            (folder / name).write_bytes(content)

    return prepare


def a_translator(folder: Path) -> None:
    translator(folder / "model")


def a_writer(folder: Path) -> None:
    hostile.sound_model(folder / "model")


def a_suite(content: bytes | None = None, solutions: dict[str, str] | None = None) -> Prepare:
    """Leaves a suite of a problem, or one of this content, and solutions."""

    def prepare(folder: Path) -> None:
        written = programs.written(folder, {"a": programs.HONEST})
        if content is not None:
            written["suite"].write_bytes(content)
        if solutions is not None:
            rows = [{"task_id": name, "completion": body} for name, body in solutions.items()]
            programs.write_lines(written["solutions"], rows)

    return prepare


def a_false_gzip(folder: Path) -> None:
    a_suite()(folder)
    (folder / "suite.jsonl").rename(folder / "suite.jsonl.gz")


def a_writer_and_a_suite(folder: Path) -> None:
    a_writer(folder)
    a_suite()(folder)


SCORE = ["evaluate", "--suite", "suite.jsonl", "--solutions", "solutions.jsonl"]
MISTAKES: list[tuple[str, Prepare, list[str], int, str]] = [
    (
        "names a file that is not there",
        reader("classify"),
        ["predict", "model", "reviews.txt"],
        2,
        "error[E-PATH]: reviews.txt must be a text or a file of them, but does not exist. Check the path.",
    ),
    (
        "names a folder",
        reader("classify"),
        ["predict", "model", "model"],
        2,
        "error[E-PATH]: model must be a text or a file of them, but is a folder. Check the path.",
    ),
    (
        "gives nothing in quotes",
        reader("classify"),
        ["predict", "model", ""],
        2,
        "error[E-USAGE]: a text must have words, but one is empty. Leave it out.",
    ),
    (
        "takes a picture for a text",
        reader("classify", b"\x89PNG\r\n\x1a\n\0\0", "cat.png"),
        ["predict", "model", "cat.png"],
        3,
        "error[E-FILE]: cat.png, line 1: text must be UTF-8, but byte 0x89 at offset 0 is not",
    ),
    (
        "has another encoding",
        reader("classify", b"a film\nb\xe9d\n"),
        ["predict", "model", "mine.txt"],
        3,
        "error[E-FILE]: mine.txt, line 2: text must be UTF-8, but byte 0xE9 at offset 1 is not",
    ),
    (
        "gives a table and no column",
        reader("classify", b"id,text\n1,a film\n", "mine.csv"),
        ["predict", "model", "mine.csv"],
        2,
        "error[E-USAGE]: mine.csv must be read by its columns, as it is .csv, but none is named. Set columns",
    ),
    (
        "mistypes the column",
        reader("classify", b"id,text\n1,a film\n", "mine.csv"),
        ["predict", "model", "mine.csv", "--columns", "txet"],
        3,
        "error[E-FILE]: mine.csv must have the column 'txet', but has 'id', 'text'. Did you mean text?",
    ),
    (
        "types what the terminal cannot",
        reader("classify"),
        ["predict", "model", "b\udce9d"],
        2,
        "error[E-USAGE]: text must be Unicode characters, but holds half a surrogate pair. Repair it.",
    ),
    (
        "asks a classifier for objects",
        reader("classify"),
        ["predict", "model", "a film", "--min-score", "0.3"],
        2,
        "error[E-USAGE]: --min-score has no effect, as this model answers about texts. Leave it out.",
    ),
    (
        "asks without the text that answers",
        reader("spans"),
        ["predict", "model", "who wrote it"],
        2,
        "error[E-USAGE]: the task takes 2 texts at a time, but was given 1: 'who wrote it'. Put a tab between the two",
    ),
    (
        "hides no word",
        reader("masked_lm"),
        ["predict", "model", "the film"],
        2,
        "error[E-USAGE]: a text must have [MASK] in the place of each hidden word, but 'the film' has none. Put it in.",
    ),
    (
        "lets a translator go on",
        a_translator,
        ["generate", "model", "a"],
        2,
        "error[E-USAGE]: model must hold a language model, but its model answers about texts. Use dougong predict.",
    ),
    (
        "asks what writes",
        a_writer,
        ["predict", "model", "a"],
        2,
        "error[E-USAGE]: model must hold a model that answers about pictures or texts, but says no task",
    ),
    (
        "fills in with a model that was not trained to",
        a_writer,
        ["generate", "model", "def f(", "--suffix", "return"],
        2,
        "error[E-USAGE]: to fill in the middle, the tokenizer must have the special tokens <|fim_prefix|>",
    ),
    (
        "has no suite",
        a_writer,
        ["evaluate", "model", "--suite", "HumanEval.jsonl.gz"],
        2,
        "error[E-PATH]: HumanEval.jsonl.gz does not exist. Check the path.",
    ),
    (
        "breaks the suite",
        a_suite(b'{"task_id": "a",\n'),
        SCORE,
        3,
        "error[E-FILE]: suite.jsonl, line 1: a line must be a JSON object, but is not: ",
    ),
    (
        "says that a suite is compressed",
        a_false_gzip,
        ["evaluate", "--suite", "suite.jsonl.gz", "--solutions", "solutions.jsonl"],
        3,
        "error[E-FILE]: suite.jsonl.gz must be gzip, but is broken",
    ),
    (
        "solves what nobody asked",
        a_suite(solutions={"a": "", "b": ""}),
        SCORE,
        3,
        "error[E-FILE]: solutions.jsonl, line 2: a solution must be of a problem in suite, but 'b' is none.",
    ),
    (
        "leaves a problem out",
        a_suite(solutions={}),
        SCORE,
        3,
        "error[E-FILE]: solutions.jsonl must have a solution of every problem, but a has none (1 have none).",
    ),
    (
        "has no place for the samples",
        a_writer_and_a_suite,
        ["evaluate", "model", "--suite", "suite.jsonl"],
        2,
        "error[E-USAGE]: model must be in a run, to keep samples there, but is not. Add --to FOLDER.",
    ),
]


@pytest.mark.parametrize(("mistake", "prepare", "command", "code", "sentence"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_newcomer_to_texts_who(
    mistake: str, prepare: Prepare, command: list[str], code: int, sentence: str, tmp_path: Path, dougong: Any
) -> None:
    prepare(tmp_path)
    answer = dougong(*command)
    assert answer.sentence.startswith("dougong: " + sentence), answer.err
    assert (answer.code, answer.out) == (code, "")
    assert "Traceback" not in answer.err
    assert answer.err.count("error[") == 1


@pytest.fixture
def said(tmp_path: Path) -> Iterator[Callable[[bytes], None]]:
    """Gives a function that puts bytes into standard input."""
    kept, stdin = os.dup(0), sys.stdin

    def put(content: bytes) -> None:
        (tmp_path / "said").write_bytes(content)
        opened = os.open(tmp_path / "said", os.O_RDONLY)
        os.dup2(opened, 0)
        os.close(opened)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115

    yield put
    os.dup2(kept, 0)
    os.close(kept)
    sys.stdin = stdin


def test_no_mistake_is_found_where_there_is_none(tmp_path: Path, dougong: Any, said: Callable[[bytes], None]) -> None:
    reader("classify", b"a bad film\n\nin rome\n")(tmp_path)
    said(b"a long film")
    answer = dougong("predict", "model", "a good film", "mine.txt", "-", "--json")
    assert answer.code == 0, answer.err
    found = [json.loads(line) for line in answer.out.splitlines()]
    assert [each["input"] for each in found] == ["a good film", "a bad film", "in rome", "a long film"]
    said(b"")
    assert dougong("predict", "model", "-")[:2] == (0, "")


def test_bad_standard_input_is_one_sentence(tmp_path: Path, dougong: Any, said: Callable[[bytes], None]) -> None:
    reader("classify")(tmp_path)
    said(b"a film\nb\xe9d\n")
    answer = dougong("predict", "model", "-")
    assert (answer.code, "standard input, line 2: text must be UTF-8" in answer.sentence) == (3, True)
    hostile.sound_model(tmp_path / "writer")
    said(b"b\xe9d")
    answer = dougong("generate", "writer", "--max-new-tokens", "1")
    assert (answer.code, answer.out) == (3, "")
    assert answer.sentence.startswith("dougong: error[E-FILE]: standard input must be UTF-8 text, but is not: ")


def test_a_text_that_is_too_long_is_cut_and_told(tmp_path: Path, dougong: Any) -> None:
    reader("classify")(tmp_path)
    answer = dougong("predict", "model", "film " * 60)
    assert answer.code == 0
    assert answer.sentence == "dougong: warning: 1 text is longer than the 24 tokens that are read: cut off"
    assert dougong("predict", "model", "film " * 9).err == ""


def test_numbers_that_are_none_are_null_in_json(tmp_path: Path, dougong: Any) -> None:
    encoder(tmp_path / "model", "sentence")
    (tmp_path / "model" / "manifest.json").unlink()
    path = tmp_path / "model" / "model.safetensors"
    save_file(
        {name: torch.full_like(each, torch.nan) for name, each in load_file(path).items()}, path, {"format": "pt"}
    )
    answer = dougong("predict", "model", "a film", "--json")
    assert (answer.code, "NaN" in answer.out) == (0, False)
    assert set(answer.json["embedding"]) == {None}
