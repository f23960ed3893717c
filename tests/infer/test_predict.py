"""A trained model answers about pictures: the same one by one and together, folded and not, in the file's pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dougong.checkpoint.weights import load_model, save_model
from dougong.core.errors import FileError, UsageError
from dougong.data.intake import Intake
from dougong.infer import predict
from dougong.infer.predict import Predictor, answers_about, load_predictor
from dougong.models.gpt import GPTConfig
from dougong.nn.detection import Detections
from dougong.tasks.object_detection import ObjectDetectionConfig
from tests.data.pictures import encoded, gradient
from tests.infer.conftest import SMALL
from tests.infer.pictures import NAMES, classifier, detector

PICTURES = [gradient(30 + 3 * number, 44 - 2 * number, shift=60 * number) for number in range(5)]


def numbers(answers: list[dict[str, Any]]) -> list[float]:
    return [each["probability"] for answer in answers for each in answer["likeliest"]]


# The same, however it is asked


def test_pictures_together_equal_one_by_one(tmp_path: Path) -> None:
    predictor = load_predictor(classifier(tmp_path / "m"), "fp32")
    together = predictor.predict(PICTURES)
    for alone in ([predictor.predict(picture) for picture in PICTURES], predictor.predict(PICTURES, batch_size=2)):
        assert [answer["label"] for answer in alone] == [answer["label"] for answer in together]
        np.testing.assert_allclose(numbers(alone), numbers(together), atol=1e-6)
    assert len({round(answer["probability"], 4) for answer in together}) == len(PICTURES), "they must differ to compare"


def test_answer_has_the_likeliest_first_and_all_sum_to_one(tmp_path: Path) -> None:
    answer = load_predictor(classifier(tmp_path / "m"), "fp32").predict(PICTURES[0])
    found = [each["probability"] for each in answer["likeliest"]]
    assert found == sorted(found, reverse=True)
    assert sum(found) == pytest.approx(1.0, abs=1e-6)
    assert {key: answer[key] for key in ("label", "probability")} == answer["likeliest"][0]
    assert json.loads(json.dumps(answer)) == answer


def test_objects_together_equal_one_by_one(tmp_path: Path) -> None:
    predictor = load_predictor(detector(tmp_path / "m"), "fp32")
    together = predictor.predict(PICTURES)
    for picture, found in zip(PICTURES, together, strict=True):
        alone = predictor.predict(picture)["objects"]
        assert [each["label"] for each in alone] == [each["label"] for each in found["objects"]]
        np.testing.assert_allclose([e["box"] for e in alone], [e["box"] for e in found["objects"]], atol=1e-3)
        assert 0 < len(alone) <= 7


# Folded


def answered(folder: Path) -> tuple[Predictor, list[float]]:
    predictor = load_predictor(folder, "fp32")
    return predictor, numbers(predictor.predict(PICTURES))


def test_folded_equals_unfolded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = classifier(tmp_path / "m")
    predictor, folded = answered(folder)
    assert not any(name.endswith("running_mean") for name in predictor.model.state_dict())
    monkeypatch.setattr(predict, "fold", lambda model: 0)
    predictor, whole = answered(folder)
    assert any(name.endswith("running_mean") for name in predictor.model.state_dict())
    np.testing.assert_allclose(folded, whole, atol=1e-5)


def test_a_fold_that_forgets_the_mean_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(model: nn.Module) -> int:
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()
        return whole_fold(model)

    folder, whole_fold = classifier(tmp_path / "m"), predict.fold
    _, folded = answered(folder)
    monkeypatch.setattr(predict, "fold", forgetful)
    _, wrong = answered(folder)
    assert np.abs(np.array(folded) - wrong).max() > 1e-2


def test_a_detector_is_folded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = detector(tmp_path / "m")
    folded = load_predictor(folder, "fp32")
    monkeypatch.setattr(predict, "fold", lambda model: 0)
    whole = load_predictor(folder, "fp32")
    images = torch.randn(2, 3, 32, 48)
    with torch.inference_mode():
        torch.testing.assert_close(folded.model(images), whole.model(images), atol=1e-5, rtol=1e-5)


# What a class is called


@pytest.mark.parametrize("source", ["labels.json", "id2label"])
def test_names_come_from_labels_json_or_id2label(source: str, tmp_path: Path) -> None:
    theirs, ours = ["x", "y", "z"], {} if source == "id2label" else {"labels": NAMES}
    folder = classifier(tmp_path / "m", id2label=theirs, **ours)
    predictor = load_predictor(folder)
    assert predictor.labels == (theirs if source == "id2label" else NAMES)
    assert predictor.predict(PICTURES[0])["label"] in (predictor.labels or ())


def test_without_names_a_class_is_its_number(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "m")
    assert load_predictor(folder).predict(PICTURES[0])["label"] in (0, 1, 2)


@pytest.mark.parametrize("names", [{"a": 1}, [1, 2, 3], "ant"])
def test_names_that_are_none_are_refused(names: Any, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"m/labels\.json must give the names of the classes, but does not"):
        load_predictor(classifier(tmp_path / "m", labels=names))
    classifier(tmp_path / "n")
    config = json.loads((tmp_path / "n" / "config.json").read_text())
    (tmp_path / "n" / "config.json").write_text(json.dumps({**config, "id2label": {"a": "x", "b": "y", "c": "z"}}))
    (tmp_path / "n" / "manifest.json").unlink()
    with pytest.raises(FileError, match=r"n/config\.json must give the names of the classes, but does not"):
        load_predictor(tmp_path / "n")


# Where objects are


def test_boxes_are_in_pixels_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture of 64 x 192, which is put into 32 x 48 at a quarter of its size."""
    predictor = load_predictor(detector(tmp_path / "m"), "fp32")
    box = torch.tensor([[1.0, 2.0, 11.0, 12.0]])
    found = [Detections(box, torch.tensor([2]), torch.tensor([0.75]))]
    monkeypatch.setattr(predictor.task, "detect", lambda model, batch: found)
    [answer] = predictor.predict(gradient(64, 192))["objects"]
    assert answer == {"label": "cow", "score": 0.75, "box": [4.0, 8.0, 44.0, 48.0]}
    [same] = predictor.predict(gradient(32, 48))["objects"]
    assert same["box"] == [1.0, 2.0, 11.0, 12.0]


def test_no_box_reaches_beyond_the_picture(tmp_path: Path) -> None:
    predictor = load_predictor(detector(tmp_path / "m"), "fp32")
    for height, width in ((64, 192), (90, 20), (10, 11)):
        for each in predictor.predict(gradient(height, width))["objects"]:
            left, top, right, bottom = each["box"]
            assert 0 <= left <= right <= width + 1e-3
            assert 0 <= top <= bottom <= height + 1e-3


# What is told apart, and refused


def test_folders_of_pictures_and_of_text_are_told_apart(tmp_path: Path) -> None:
    model = GPTConfig(**SMALL).build()
    model.init_weights(0)
    save_model(model, tmp_path / "text")
    assert answers_about(tmp_path / "text") is None
    assert answers_about(detector(tmp_path / "objects")) == "pictures"
    assert load_predictor(tmp_path / "objects").finds_objects
    task = {"task": {"name": "image_classification", "label_smoothing": 0.1}}
    assert answers_about(classifier(tmp_path / "classes", **task)) == "pictures"
    assert not load_predictor(tmp_path / "classes").finds_objects
    with pytest.raises(
        UsageError, match=r"text must hold a model that answers about pictures or texts, but says no task"
    ):
        load_predictor(tmp_path / "text")
    save_model(model, tmp_path / "text", {"task.json": b'{"name": "language_modeling"}'})
    with pytest.raises(UsageError, match=r"but its task is language_modeling\. Use dougong evaluate or dougong gen"):
        load_predictor(tmp_path / "text")


@pytest.mark.parametrize("task", [{"name": 3}, {"name": "painting"}, {"name": "image_classification", "colour": 1}])
def test_a_task_that_is_none_is_refused(task: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"m/task\.json must say a task and its options, but does not: "):
        load_predictor(classifier(tmp_path / "m", task=task))


def test_a_broken_or_absent_picture_is_named(tmp_path: Path) -> None:
    predictor = load_predictor(classifier(tmp_path / "m"))
    (tmp_path / "cut.png").write_bytes(encoded(gradient())[:-9])
    with pytest.raises(FileError, match=r"cut\.png: a PNG must be whole"):
        predictor.predict([PICTURES[0], tmp_path / "cut.png"])
    with pytest.raises(UsageError, match=r"none\.png does not exist"):
        predictor.predict(str(tmp_path / "none.png"))


def test_views_of_a_picture_are_averaged(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "m")
    model, task = load_model(folder).eval(), load_predictor(folder).task
    said = {"size": {"shortest_edge": 28}, "do_center_crop": True, "dougong": {"views": "ten"}}
    predictor = Predictor(model, task, Intake(said, (3, 24, 24)))
    views: Any = predictor.intake.take(PICTURES[0]).example.pixels
    assert views.shape == (10, 3, 24, 24)
    with torch.inference_mode():
        mean = model(torch.from_numpy(views)).softmax(-1).mean(0)
    assert predictor.predict(PICTURES[0])["probability"] == pytest.approx(mean.max().item(), abs=1e-6)


def test_the_task_that_a_detector_says_is_used(tmp_path: Path) -> None:
    assert isinstance(load_predictor(detector(tmp_path / "m")).task.config, ObjectDetectionConfig)
    all_of_them = load_predictor(tmp_path / "m").predict(PICTURES[0])["objects"]
    none = load_predictor(detector(tmp_path / "n", low=1.0)).predict(PICTURES[0])["objects"]
    assert (len(all_of_them) > 0, none) == (True, [])
