"""`dougong predict`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.pictures import BAD, SVG, encoded, gradient
from tests.infer.pictures import classifier, detector
from tests.tiny import write_recipe

NAMES = ["ant", "bee", "cow"]


@pytest.fixture(autouse=True)
def shots(tmp_path: Path, working_folder: None) -> Path:
    for number, name in enumerate(("shots/a.png", "shots/b.png", "more/a.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(gradient(40, 30, number * 50)))
    return tmp_path / "shots"


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(classifier(tmp_path / "model", id2label=NAMES))


@pytest.fixture
def finder(tmp_path: Path) -> str:
    return str(detector(tmp_path / "finder"))


def test_a_classifier_prints_a_line_for_each_picture(model: str, dougong: Any) -> None:
    answer = dougong("predict", model, "shots", "more/a.png")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines] == ["shots/a.png", "shots/b.png", "more/a.png"]
    assert all(line.split()[1] in NAMES and line.endswith(")") for line in lines)


def test_json_has_what_the_lines_say(model: str, dougong: Any) -> None:
    found = dougong("predict", model, "shots/*.png", "--json").json
    assert [each["picture"] for each in found] == ["shots/a.png", "shots/b.png"]
    assert set(found[0]) == {"picture", "label", "probability", "likeliest"}
    assert f"shots/a.png  {found[0]['label']}  {found[0]['probability']:.4f}" in dougong("predict", model, "shots").out
    assert sum(each["probability"] for each in found[0]["likeliest"]) == pytest.approx(1.0, abs=1e-5)


def test_a_detector_prints_its_objects_and_draws_them(finder: str, tmp_path: Path, dougong: Any) -> None:
    answer = dougong("predict", finder, "shots", "more", "--min-score", "0")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[-1] == "Drawn in predictions/"
    assert len([line for line in lines if line.endswith(" objects")]) == 3
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == ["a-2.png", "a.png", "b.png"]
    found = dougong("predict", finder, "shots", "more/a.png", "--min-score", "0", "--to", "here", "--json").json
    assert [each["drawn"] for each in found] == ["here/a.png", "here/b.png", "here/a-2.png"]
    assert all(Path(each["drawn"]).read_bytes().startswith(b"\x89PNG") for each in found)
    assert set(found[0]["objects"][0]) == {"label", "score", "box"}


def test_a_higher_least_score_leaves_fewer(finder: str, dougong: Any) -> None:
    every, some, none = (
        sum(len(each["objects"]) for each in dougong("predict", finder, "shots", "--min-score", s, "--json").json)
        for s in ("0", "0.45", "1")
    )
    assert every >= some >= none == 0
    assert every > 0


def test_a_broken_picture_stops_with_code_3_and_is_named(model: str, shots: Path, dougong: Any) -> None:
    (shots / "aa.jpg").write_bytes(BAD["is truncated"])
    answer = dougong("predict", model, "shots")
    assert answer.code == 3
    assert answer.sentence.startswith("dougong: error[E-FILE]: shots/aa.jpg: a picture must be whole, but this is brok")
    assert answer.sentence.endswith("Repair it, or set max_bad_samples to leave such aside.")


def test_broken_pictures_are_left_aside_and_told_on_standard_error(model: str, shots: Path, dougong: Any) -> None:
    (shots / "aa.jpg").write_bytes(BAD["is truncated"])
    (shots / "c.png").write_bytes(b"")
    answer = dougong("predict", model, "shots", "--max-bad-samples", "2", "--json")
    assert (answer.code, [each["picture"] for each in answer.json]) == (0, ["shots/a.png", "shots/b.png"])
    assert "shots/aa.jpg: a picture must be whole" in answer.err
    assert "shots/c.png: a picture must have content, but this file is empty" in answer.err
    assert "2 pictures used of 4, 2 left aside" in answer.err
    assert dougong("predict", model, "shots", "--max-bad-samples", "1").code == 3


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [("a.gif", encoded(gradient(), "GIF"), "a GIF; convert it"), ("a.svg", SVG, "an SVG drawing; convert it")],
)
def test_what_is_no_photograph_is_refused_by_its_kind(
    name: str, content: bytes, kind: str, model: str, tmp_path: Path, dougong: Any
) -> None:
    (tmp_path / name).write_bytes(content)
    answer = dougong("predict", model, name)
    assert answer.code == 3
    assert f"{name}: a picture must be JPEG, PNG, WebP, BMP or TIFF, but this is {kind}" in answer.sentence


def a_run_without_a_model(folder: Path) -> None:
    (folder / "young").mkdir()
    write_recipe(folder).rename(folder / "young" / "recipe.yaml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.png"], "error[E-PATH]: none.png does not exist. Check the path."),
        (["*.bmp"], "error[E-PATH]: *.bmp must fit pictures, but fits none. Check the path."),
        (["empty"], "error[E-PATH]: empty must hold pictures, but holds none."),
        ([], "error[E-USAGE]: dougong predict needs INPUT"),
        (["shots", "--to", "x"], "error[E-USAGE]: --to has no effect, as this model tells classes and finds no object"),
        (["shots", "--min-score", "0.1"], "error[E-USAGE]: --min-score has no effect, as this model tells classes"),
        (["shots", "--batch-size", "0"], "error[E-USAGE]: batch_size must be at least 1, but is 0."),
        (["shots", "--batch-size", "few"], "error[E-USAGE]: --batch-size must be an integer, but is 'few'."),
        (["shots", "--device", "tpu"], "error[E-USAGE]: device must be one this machine has (cpu), but is 'tpu'."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_word_is_one_sentence(words: list[str], said: str, model: str, tmp_path: Path, dougong: Any) -> None:
    (tmp_path / "empty").mkdir()
    answer = dougong("predict", model, *words)
    assert answer.sentence.startswith("dougong: " + said)
    assert (answer.code, answer.out) == (2, "")


def test_a_score_above_one_is_refused(finder: str, dougong: Any) -> None:
    answer = dougong("predict", finder, "shots", "--min-score", "2")
    assert answer.sentence == "dougong: error[E-USAGE]: min_score must be from 0 to 1, but is 2.0."
    assert answer.code == 2


def test_a_run_that_has_no_model_yet_says_how_to_go_on(tmp_path: Path, dougong: Any) -> None:
    a_run_without_a_model(tmp_path)
    answer = dougong("predict", "young", "shots")
    assert answer.sentence.endswith("has no model yet. Go on with: dougong train young --resume")
    assert answer.code == 2


def test_the_verbs_of_text_and_of_pictures_name_each_other(model: str, tmp_path: Path, dougong: Any) -> None:
    written = dougong("generate", model, "a")
    assert (written.code, "Use dougong predict." in written.sentence) == (2, True)
    write_recipe(tmp_path, train={"steps": 1, "samples": {"prompts": []}})
    assert dougong("train", "tiny.yaml", "--run", "text").code == 0
    seen = dougong("predict", "text", "shots")
    assert (seen.code, "use dougong generate" in seen.sentence) == (2, True)


def test_a_damaged_model_is_refused(model: str, dougong: Any) -> None:
    path = Path(model) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "depths": [1, 1]}))
    answer = dougong("predict", model, "shots")
    assert (answer.code, "E-CORRUPT" in answer.sentence) == (3, True)
