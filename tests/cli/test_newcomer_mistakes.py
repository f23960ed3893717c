"""Mistakes that a newcomer makes, each with its one-sentence answer and exit code."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import TEXT, write_recipe

Prepare = Callable[[Path], None]


def nothing(folder: Path) -> None:
    """The mistake needs no files."""


def a_recipe(**changes: Any) -> Prepare:
    return lambda folder: write_recipe(folder, **changes) and None


def a_run(folder: Path) -> None:
    (folder / "mine").mkdir()
    write_recipe(folder).rename(folder / "mine" / "recipe.yaml")
    (folder / "tiny.yaml").write_bytes((folder / "mine" / "recipe.yaml").read_bytes())


def a_text(content: bytes, name: str = "tiny.txt") -> Prepare:
    def prepare(folder: Path) -> None:
        write_recipe(folder)
        (folder / name).write_bytes(content)

    return prepare


def pickled_weights(folder: Path) -> None:
    (folder / "theirs").mkdir()
    (folder / "theirs" / "config.json").write_text(
        '{"model_type": "gpt2", "vocab_size": 9, "n_positions": 8, "n_layer": 1, "n_head": 1, "n_embd": 8}'
    )
    (folder / "theirs" / "pytorch_model.bin").write_bytes(b"\x80\x04.")


MISTAKES: list[tuple[str, Prepare, list[str], int, str]] = [
    (
        "misspells a recipe",
        nothing,
        ["train", "gpt-stdlb"],
        2,
        "error[E-RECIPE]: 'gpt-stdlb' is not a recipe. Did you mean gpt-stdlib?",
    ),
    (
        "misspells a verb",
        nothing,
        ["trian", "gpt-stdlib"],
        2,
        "error[E-USAGE]: 'trian' is not a verb. Did you mean train?",
    ),
    (
        "misspells an option",
        nothing,
        ["train", "gpt-stdlib", "--rezume"],
        2,
        "error[E-USAGE]: --rezume is not an option of dougong train. Did you mean --resume?",
    ),
    (
        "misspells a key",
        nothing,
        ["train", "gpt-stdlib", "--set", "train.stesp=5"],
        2,
        "error[E-RECIPE]: --set train.stesp=5: train.stesp is not an option. Did you mean train.steps?",
    ),
    (
        "forgets the recipe",
        nothing,
        ["train"],
        2,
        "error[E-USAGE]: dougong train needs RECIPE, but it is absent. See: dougong train --help",
    ),
    (
        "gives a word for a number",
        nothing,
        ["train", "gpt-stdlib", "--set", "train.steps=many"],
        2,
        "error[E-RECIPE]: --set train.steps=many: train.steps must be an integer, but is 'many'.",
    ),
    (
        "forgets the equals sign",
        nothing,
        ["train", "gpt-stdlib", "--set", "train.steps"],
        2,
        "error[E-USAGE]: --set must have the form path=value, such as train.steps=500, but is 'train.steps'.",
    ),
    (
        "takes heads that do not divide the width",
        a_recipe(model={"num_heads": 3}),
        ["train", "tiny.yaml"],
        2,
        "error[E-RECIPE]: tiny.yaml:2: model.num_heads must divide dim, but 16 % 3 is 1. Try 2 or 4, or set head_dim.",
    ),
    (
        "names a text that is not there",
        nothing,
        ["train", "gpt-shakespeare"],
        2,
        "error[E-PATH]: input.txt does not exist. Check the path. Or name yours: --set 'data.sources[0].paths=[FILE]'",
    ),
    (
        "gives an empty text",
        a_text(b""),
        ["train", "tiny.yaml"],
        3,
        "error[E-FILE]: {folder}/tiny.txt must hold text, but is empty. Leave it out, or fill it.",
    ),
    (
        "gives a text that is too short",
        a_text(b"a few words"),
        ["train", "tiny.yaml"],
        3,
        "error[E-FILE]: the training text of {folder}/tiny.txt must have more tokens than the context of 16, but has ",
    ),
    (
        "starts the same run again",
        a_run,
        ["train", "tiny.yaml", "--run", "mine"],
        2,
        "error[E-EXISTS]: mine must be a new run folder, but holds a run. Add --resume to go on with it, "
        "or choose another with --run FOLDER.",
    ),
    (
        "generates before training",
        nothing,
        ["generate", "gpt-stdlib", "def "],
        2,
        "error[E-PATH]: gpt-stdlib must have a run in runs, but has none. Train it first, or name a run's folder.",
    ),
    (
        "evaluates an unfinished run",
        a_run,
        ["evaluate", "mine"],
        2,
        "error[E-PATH]: mine must hold a finished run, but has no model yet. Go on with: dougong train mine --resume",
    ),
    (
        "asks for a device that is absent",
        a_recipe(train={"device": "tpu"}),
        ["train", "tiny.yaml"],
        2,
        "error[E-USAGE]: device must be one this machine has (cpu), but is 'tpu'. Try device: auto.",
    ),
    (
        "gives a wrong number to generate",
        nothing,
        ["generate", "x", "--top-k", "0"],
        2,
        "error[E-USAGE]: --top-k must be at least 1, but is 0.",
    ),
    (
        "generates from a folder of pickled weights",
        pickled_weights,
        ["generate", "theirs", "a"],
        3,
        "error[E-UNTRUSTED]: ",
    ),
]


@pytest.mark.parametrize(("mistake", "prepare", "command", "code", "sentence"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_newcomer_who(
    mistake: str, prepare: Prepare, command: list[str], code: int, sentence: str, tmp_path: Path, dougong: Any
) -> None:
    prepare(tmp_path)
    answer = dougong(*command)
    assert answer.sentence.startswith("dougong: " + sentence.format(folder=tmp_path))
    assert answer.code == code
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.err.count("error[") == 1


def test_there_are_at_least_ten_mistakes() -> None:
    assert len(MISTAKES) >= 10


def test_a_newcomer_who_gives_a_half_written_gzip_file(tmp_path: Path, dougong: Any) -> None:
    (tmp_path / "half.txt.gz").write_bytes(gzip.compress(TEXT.encode())[:2000])
    write_recipe(tmp_path)
    answer = dougong("train", "tiny.yaml", "--set", "data.sources[0].paths=[half.txt.gz]")
    assert answer.code == 3
    assert "half.txt.gz" in answer.sentence


def test_no_mistake_is_found_where_there_is_none(tmp_path: Path, dougong: Any) -> None:
    write_recipe(tmp_path)
    answer = dougong("train", "tiny.yaml", "--set", "train.steps=1", "--json")
    assert (answer.code, answer.json["steps"]) == (0, 1)
