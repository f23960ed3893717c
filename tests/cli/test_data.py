"""`dougong data`: what it prints, writes and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dougong.recipe.recipe import to_yaml
from tests.data.pictures import BAD, folder
from tests.faults.pictures_run import MODEL, TRAIN
from tests.tiny import write_recipe


@pytest.fixture(autouse=True)
def animals(tmp_path: Path, working_folder: None) -> Path:
    data = {"name": "image_folder", "path": "animals", "size": 8, "augment": ["flip"], "max_bad_samples": 1}
    values = {"model": MODEL, "task": {"name": "image_classification"}, "data": data, "train": TRAIN}
    (tmp_path / "mine.yaml").write_text(to_yaml(values))
    return folder(tmp_path / "animals", {"cat": 20, "dog": 20})


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_facts_are_a_table(dougong: Any) -> None:
    answer = dougong("data", "mine.yaml")
    assert answer.code == 0
    lines = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in answer.out.splitlines() if line}
    assert (lines["classes"], lines["source"], lines["read"]) == ("cat, dog", "animals", "40")
    assert not Path("examples.png").exists()


def test_examples_are_put_into_one_picture(dougong: Any) -> None:
    answer = dougong("data", "mine.yaml", "--show")
    assert answer.out.splitlines()[-1] == "The examples: examples.png"
    wide = size("examples.png")
    few = dougong("data", "mine.yaml", "--show", "--count", "4", "--validation", "--to", "few.png", "--json")
    assert few.json["sheet"] == "few.png"
    assert few.json["classes"] == ["cat", "dog"]
    assert size("few.png") < wide


def test_bad_pictures_are_counted(animals: Path, dougong: Any) -> None:
    (animals / "dog" / "bad.png").write_bytes(BAD["empty"])
    answer = dougong("data", "mine.yaml", "--json")
    [count] = answer.json["counts"]
    assert (count["read"], count["used"], count["quarantined"]) == (41, 40, 1)
    stopped = dougong("data", "mine.yaml", "--set", "data.max_bad_samples=0")
    assert (stopped.code, "animals/dog/bad.png" in stopped.sentence) == (3, True)


def test_text_is_printed(tmp_path: Path, dougong: Any) -> None:
    write_recipe(tmp_path)
    answer = dougong("data", "tiny.yaml", "--show", "--count", "2")
    assert answer.code == 0
    texts = dougong("data", "tiny.yaml", "--show", "--count", "2", "--json").json["examples"]
    assert answer.out.endswith(f"\n{texts[0]}\n\n{texts[1]}\n")
    assert len(set(texts)) == 2
    assert not Path("examples.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mine.yaml", "--to", "x.png"], "--to, --count and --validation have no effect without --show. Add it."),
        (["mine.yaml", "--count", "3"], "--to, --count and --validation have no effect without --show. Add it."),
        (["mine.yaml", "--show", "--count", "0"], "--count must be at least 1, but is 0."),
        (["mine.yaml", "--show", "--count", "many"], "--count must be an integer, but is 'many'."),
        ([], "dougong data needs RECIPE, but it is absent."),
        (["mine.yaml", "--set", "data.path=none"], "none does not exist. Check the path."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_word_is_one_sentence(words: list[str], said: str, dougong: Any) -> None:
    answer = dougong("data", *words)
    assert said in answer.sentence
    assert (answer.code, answer.out) == (2, "")


def test_a_sheet_that_cannot_be_written_is_said(dougong: Any) -> None:
    answer = dougong("data", "mine.yaml", "--show", "--to", "nowhere/x.png")
    assert answer.code in (2, 4)
    assert "nowhere" in answer.sentence
    assert "E-BUG" not in answer.sentence
