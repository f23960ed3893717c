"""Compositions that do not fit are refused word for word, within a second, before torch is imported or data is read.

What is answered is in `tests/golden/bad_stacks.txt`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from dougong.core.config import try_validate
from dougong.core.errors import RecipeError
from dougong.models.stack import StackConfig
from dougong.models.stack.stage import KINDS
from dougong.recipe import load
from dougong.recipe.document import parse
from tests.house import fenced_blocks

GOLDEN = Path(__file__).parents[1] / "golden" / "bad_stacks.txt"
RECIPE = """\
model:
  name: stack
{}
task: {{name: language_modeling}}
data: {{name: text, sources: [{{name: files, paths: [no-such-file.txt]}}]}}
train: {{steps: 10, optimizer: {{name: adamw, lr: 1e-3}}}}
"""
# Runs the command line, and tells which slow modules it imported and how much of the processor it took.
ASKED = """
import sys, time
from dougong.cli import main
try:
    main(["recipe", "bad.yaml"])
except SystemExit as end:
    slow = [name for name in ("torch", "numpy", "jaxtyping") if name in sys.modules]
    print(end.code, time.process_time(), *slow)
"""


class Case(NamedTuple):
    """A recipe, and everything that must be answered on standard error."""

    text: str
    answer: str


def cases(golden: str) -> dict[str, Case]:
    """Returns the cases that a text describes, by title; how, its first lines say."""
    found: dict[str, Case] = {}
    for block in golden.split("\n## ")[1:]:
        title, *lines = block.rstrip("\n").split("\n")
        model, answer = ("\n".join(line[2:] for line in lines if line[:1] == mark) for mark in "+!")
        assert title not in found
        found[title] = Case(RECIPE.format("\n".join(f"  {line}" for line in model.split("\n"))), answer + "\n")
    return found


CASES = cases(GOLDEN.read_text(encoding="utf-8"))


def asked(folder: Path, text: str) -> tuple[str, int, float, list[str]]:
    """Returns what a fresh process answers, its exit code, its seconds of the processor, and its slow modules."""
    (folder / "bad.yaml").write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", ASKED], cwd=folder, capture_output=True, text=True, env=environment, check=False
    )
    code, seconds, *slow = done.stdout.split()
    return done.stderr, int(code), float(seconds), slow


@pytest.mark.parametrize("title", CASES)
def test_a_wrong_composition_is_answered_word_for_word_within_a_second(title: str, tmp_path: Path) -> None:
    answer, code, seconds, slow = asked(tmp_path, CASES[title].text)
    assert answer == CASES[title].answer
    assert (code, slow) == (2, [])
    times = [seconds]
    while times[-1] >= 1 and len(times) < 3:  # of the processor; even that grows where others fill its caches
        times.append(asked(tmp_path, CASES[title].text)[2])
    assert min(times) < 1


def test_there_are_more_than_forty_and_none_is_there_twice() -> None:
    assert len(CASES) >= 40
    assert len({case.text for case in CASES.values()}) == len(CASES)


def test_a_right_composition_is_not_refused(tmp_path: Path) -> None:
    good = "  stages: [{embed: 128}, {lstm: 64}, {pool: mean}, {classify: 2}]"
    (tmp_path / "good.yaml").write_text(RECIPE.format(good), encoding="utf-8")
    assert load(tmp_path / "good.yaml").model.name == "stack"


@pytest.mark.parametrize("title", CASES)
def test_each_complaint_says_what_must_be_what_is_and_what_to_do(title: str) -> None:
    for line in CASES[title].answer.splitlines():
        sentence = line.removeprefix("dougong: error[E-RECIPE]: ")
        assert re.match(r"bad\.yaml:\d+: model", sentence), line
        assert re.search(r" (must|has no effect|is required|is not an option|is a head)", sentence), line
        assert sentence.endswith((".", "?")), line


REPAIRED = [
    ("a head over a sequence", "{lstm: 64}", "{lstm: 64}, {pool: mean}"),
    ("no embedding", "stages:\n", "stages:\n    - embed: 128\n"),
    (
        "attention after pooling",
        "    - pool: max\n      as: summary\n    - attention: 4",
        "    - attention: 4\n    - pool",
    ),
    ("heads do not divide the width", "transformer: 8", "transformer: 10"),
    ("a residual that changes the width", "activate]", "activate, {project: 64}]"),
    ("a residual that changes the stride", "[{conv: {stride: 2}}]", "[{conv: {stride: 1}}]"),
    ("next token tied to another width", "{gru: 96}", "{gru: 96}, {project: 64}"),
    ("next token after both directions", "next_token", "{tag: 2}"),
    ("branches of different widths added", "{conv: 96}", "{conv: 96}, {project: 64}"),
    ("a kernel larger than the image", "padding: none", "padding: centred"),
    ("no head", "- lstm: 64", "- lstm: 64\n    - pool: mean\n    - classify"),
]


@pytest.mark.parametrize(("title", "before", "after"), REPAIRED, ids=[title for title, *_ in REPAIRED])
def test_the_repair_that_is_told_repairs(title: str, before: str, after: str, tmp_path: Path) -> None:
    text = CASES[title].text
    assert text.count(before) == 1
    (tmp_path / "good.yaml").write_text(text.replace(before, after), encoding="utf-8")
    load(tmp_path / "good.yaml")
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError):
        load(tmp_path / "bad.yaml")


def test_every_stage_has_a_word_and_says_what_it_is() -> None:
    assert len(KINDS) >= 26
    assert all(kind.__doc__ and kind.word == word for word, kind in KINDS.items())


def test_a_stack_survives_its_own_dump() -> None:
    values = {"stages": [{"embed": 8, "as": "words"}, {"residual": [{"conv": {"kernel": 5}}]}, "pool", {"classify": 2}]}
    config, _ = try_validate(StackConfig, values)
    assert config is not None
    assert config.stages[0].given_name == "words"
    for mode in ("python", "json"):
        again, complaints = try_validate(StackConfig, config.model_dump(mode=mode))
        assert complaints == []
        assert again == config
        assert again.stages[0].given_name == "words"


# The page about it

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "compose.md").read_text(encoding="utf-8")


def test_the_models_of_the_page_fit() -> None:
    models = [parse(block, "page").values for block in fenced_blocks(PAGE, "yml")]
    assert len(models) == 4
    assert [try_validate(StackConfig, values)[1] for values in models] == [[]] * 4


def test_the_page_names_every_stage_and_every_option() -> None:
    rows = {word: row for row in re.findall(r"^\| (`[a-z_`, ]+` \|.*)$", PAGE, re.MULTILINE) for word in _words(row)}
    assert set(rows) == set(KINDS)
    for word, kind in KINDS.items():
        text = rows[word] + (rows["attention"] if word == "transformer" else "")
        assert [name for name in kind.model_fields if f"`{name}`" not in text] == [], word
        if kind.main is not None and word != "transformer":
            assert re.findall(r"`(\w+)`", rows[word].split("|")[3])[0] == kind.main


def _words(row: str) -> list[str]:
    return re.findall(r"`(\w+)`", row.split("|")[0])


def test_the_answers_on_the_page_are_given() -> None:
    answers = GOLDEN.read_text(encoding="utf-8")
    quoted = fenced_blocks(PAGE, "text")[0].splitlines()
    assert len(quoted) >= 4
    assert [line for line in quoted if line not in answers] == []
