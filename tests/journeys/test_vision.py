"""From pictures to answers on the command line, as a stranger would type it; seconds each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dougong
from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.recipe.overrides import merged
from dougong.recipe.recipe import to_yaml
from tests.journeys.shapes import CLASSIFIER, DETECTOR, image_folder, voc_folder


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))


def typed(*words: str) -> None:
    assert run_guarded(app, words) == 0


def test_folders_of_pictures_to_a_classifier_to_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_folder(Path("shapes"))
    Path("shapes.yaml").write_text(to_yaml(CLASSIFIER))
    typed("data", "shapes.yaml", "--show", "--count", "9")
    assert Path("examples.png").read_bytes().startswith(b"\x89PNG")
    assert "circle, square" in capsys.readouterr().out
    typed("train", "shapes.yaml")
    assert "runs/shapes-1: done after 24 steps" in capsys.readouterr().out
    typed("evaluate", "shapes.yaml")
    told = capsys.readouterr().out
    assert "accuracy" in told
    table = told[told.index("  class ") :].splitlines()
    assert table[0].split() == ["class", "examples", "precision", "recall", "f1"]
    assert [line.split()[0] for line in table[1:3]] == ["circle", "square"]
    typed("evaluate", "shapes.yaml", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert figures["accuracy"] > 0.8, "a circle in red and a square in blue are soon told apart"
    written = json.loads(Path("runs/shapes-1/evaluation.json").read_text())
    assert written["metrics"]["accuracy"] == pytest.approx(figures["accuracy"])
    assert set(written["classes"]) == {"circle", "square"}
    typed("predict", "runs/shapes-1", "shapes", "--json")
    answers = json.loads(capsys.readouterr().out)
    right = [Path(answer["picture"]).parent.name == answer["label"] for answer in answers]
    assert (len(answers), sum(right) / len(right) > 0.8) == (60, True)
    typed("train", "runs/shapes-1", "--resume", "--set", "train.steps=30", "--json")
    assert json.loads(capsys.readouterr().out)["steps"] == 30


def test_what_the_classifier_s_run_leaves_opens_in_transformers(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    import torch

    image_folder(Path("shapes"), count=10)
    imagenet = {"model": {"stem": "imagenet"}, "train": {"steps": 3, "checkpoint": {"every": 0}}}
    run = dougong.train(merged(CLASSIFIER, imagenet), run="mine")
    theirs = transformers.AutoModelForImageClassification.from_pretrained("mine/model").eval()
    processor = transformers.AutoImageProcessor.from_pretrained("mine/model")
    ours = run.load(precision="fp32")
    for path in sorted(Path("shapes/circle").iterdir())[:3]:
        with Image.open(path) as picture, torch.inference_mode():
            shares = theirs(**processor(picture, return_tensors="pt")).logits.softmax(-1)[0]
        answer = ours.predict(path)
        assert theirs.config.id2label[int(shares.argmax())] == answer["label"]
        assert float(shares.max()) == pytest.approx(answer["probability"], abs=2e-3)


def test_pictures_with_boxes_to_a_detector_to_drawn_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faster_coco_eval")
    voc_folder(Path("voc"))
    Path("finder.yaml").write_text(to_yaml(DETECTOR))
    typed("train", "finder.yaml", "--run", "found")
    assert "found: done after 120 steps" in capsys.readouterr().out
    typed("evaluate", "found", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert figures["map_50"] > 0.5
    assert {"ap_circle", "ap_square", "map", "recall"} <= set(figures)
    typed("predict", "found", "voc/JPEGImages/3[2-9].png", "--min-score", "0.3", "--json")
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 8
    inside = [edge for answer in answers for each in answer["objects"] for edge in each["box"]]
    assert 0 <= min(inside) < max(inside) <= 64
    labels = [sorted(each["label"] for each in answer["objects"]) for answer in answers]
    assert labels.count(["circle", "square"]) >= 4
    for answer in answers:
        with Image.open(answer["drawn"]) as drawn, Image.open(answer["picture"]) as picture:
            assert Path(answer["drawn"]).parent == Path("found/predictions")
            assert (np.asarray(drawn) != np.asarray(picture)).any() == bool(answer["objects"])


def test_a_picture_model_that_learned_nothing_is_not_taken_for_one_that_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control of the accuracy above: it comes from training on pictures and their classes."""
    image_folder(Path("shapes"))
    Path("shapes.yaml").write_text(to_yaml(merged(CLASSIFIER, {"train": {"optimizer": {"lr": 1e-9}}})))
    typed("train", "shapes.yaml", "--json")
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] < 0.8
