"""Mistakes that a newcomer to pictures makes, each with its one-sentence answer and exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dougong.recipe.overrides import merged
from dougong.recipe.recipe import to_yaml
from tests.data.pictures import folder as picture_folder
from tests.infer.pictures import classifier, detector
from tests.journeys.shapes import CLASSIFIER, DETECTOR

Prepare = Callable[[Path], None]


def nothing(folder: Path) -> None:
    """The mistake needs no files."""


def pictures(recipe: dict[str, Any] = CLASSIFIER, empty: bool = False, **changes: Any) -> Prepare:
    """Writes a recipe of pictures, and a folder of them; with `empty` one of a class without any."""

    def prepare(folder: Path) -> None:
        picture_folder(folder / "shapes", {"circle": 9, "square": 9}, (40, 40))
        if empty:
            (folder / "shapes" / "star").mkdir()
        (folder / "mine.yaml").write_text(to_yaml(merged(recipe, changes)), encoding="utf-8")

    return prepare


def a_classifier(folder: Path) -> None:
    classifier(folder / "model")


def a_detector(folder: Path) -> None:
    picture_folder(folder, {"shots": 1})
    detector(folder / "model")


MISTAKES: list[tuple[str, Prepare, list[str], int, str]] = [
    (
        "names a folder of pictures that is not there",
        pictures(data={"path": "shape"}),
        ["train", "mine.yaml"],
        2,
        "error[E-PATH]: shape does not exist. Check the path. Or name yours: --set data.path=YOURS",
    ),
    (
        "leaves the folder of a class empty",
        pictures(empty=True),
        ["train", "mine.yaml"],
        3,
        "error[E-FILE]: shapes/star must hold pictures, as it is the folder of a class, but holds none. Remove or fill",
    ),
    (
        "names the folder of one class",
        pictures(data={"path": "shapes/circle"}),
        ["train", "mine.yaml"],
        3,
        "error[E-FILE]: shapes/circle must hold a folder of pictures for each of two classes or more, but holds none. ",
    ),
    (
        "misspells a size of a model",
        nothing,
        ["train", "sign-digits-resnet18", "--set", "model.variant=resnet19"],
        2,
        "error[E-RECIPE]: --set model.variant=resnet19: model.variant must be a variant of resnet, but is 'resnet19'.",
    ),
    (
        "takes pictures that are too small for VGG",
        pictures({**CLASSIFIER, "model": {"name": "vgg", "variant": "vgg11"}}),
        ["train", "mine.yaml"],
        2,
        "error[E-RECIPE]: model.image_shape must have at least 32 x 32 pixels for 5 stages, but has 24 x 24.",
    ),
    (
        "gives the model another size than the pictures",
        pictures(model={"image_shape": [3, 32, 32]}),
        ["train", "mine.yaml"],
        2,
        "error[E-USAGE]: model.image_shape must be that of the data's pictures, 3 x 24 x 24 (channels, height, width)",
    ),
    (
        "mixes pictures with boxes",
        pictures(DETECTOR, data={"augment": ["flip", {"mixup": 0.2}]}),
        ["train", "mine.yaml"],
        2,
        "error[E-RECIPE]: mine.yaml:22: data.augment[1] (mixup) must keep every object in its box, but lets two pic",
    ),
    (
        "detects with a classifier",
        pictures({**CLASSIFIER, "task": {"name": "object_detection"}}),
        ["train", "mine.yaml"],
        2,
        "error[E-USAGE]: the model must be one for the task object_detection, but resnet is not. Set task.name",
    ),
    (
        "detects with pictures that have no boxes",
        pictures({**DETECTOR, "data": {**CLASSIFIER["data"], "size": 64}}),
        ["train", "mine.yaml"],
        2,
        "error[E-USAGE]: the task object_detection needs pictures with boxes, but shapes has pictures with a class",
    ),
    (
        "forgets the picture",
        a_classifier,
        ["predict", "model"],
        2,
        "error[E-USAGE]: dougong predict needs INPUT..., but it is absent. See: dougong predict --help",
    ),
    (
        "asks for a score of two",
        a_detector,
        ["predict", "model", "shots", "--min-score", "2"],
        2,
        "error[E-USAGE]: min_score must be from 0 to 1, but is 2.0.",
    ),
    (
        "asks a classifier for a score",
        a_classifier,
        ["predict", "model", "x.png", "--min-score", "0.3"],
        2,
        "error[E-USAGE]: --min-score has no effect, as this model tells classes and finds no objects. Leave it out.",
    ),
    (
        "predicts before training",
        nothing,
        ["predict", "sign-digits-resnet18", "x.png"],
        2,
        "error[E-PATH]: sign-digits-resnet18 must have a run in runs, but has none. Train it first, or name a run",
    ),
    (
        "shows data of a model's folder",
        a_classifier,
        ["data", "model"],
        2,
        "error[E-PATH]: model must be a run folder, but has no recipe.yaml. Name another.",
    ),
]


@pytest.mark.parametrize(("mistake", "prepare", "command", "code", "sentence"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_newcomer_to_pictures_who(
    mistake: str, prepare: Prepare, command: list[str], code: int, sentence: str, tmp_path: Path, dougong: Any
) -> None:
    prepare(tmp_path)
    answer = dougong(*command)
    assert answer.sentence.startswith("dougong: " + sentence)
    assert (answer.code, answer.out) == (code, "")
    assert "Traceback" not in answer.err
    assert answer.err.count("error[") == 1


def test_no_mistake_is_found_where_there_is_none(tmp_path: Path, dougong: Any) -> None:
    pictures()(tmp_path)
    answer = dougong("train", "mine.yaml", "--set", "train.steps=1", "--json")
    assert (answer.code, answer.json["steps"]) == (0, 1)
