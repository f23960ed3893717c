from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong.core import log
from dougong.core.config import validate
from dougong.core.contracts import Dataset
from dougong.core.errors import FileError, RecipeError, UsageError
from dougong.data import image
from dougong.data.annotated import AnnotatedData
from dougong.data.datasets.voc import VocConfig
from dougong.data.examples import AnnotatedImage, AnnotatedPicture
from dougong.data.loader import augmented, order
from tests.conftest import shared
from tests.data.pictures import encoded, gradient, voc_folder, voc_xml

PICTURES: dict[str, list[Any]] = {
    "a": [("cat", 1, 1, 8, 6), ("dog", 5, 5, 16, 12)],
    "b": [],
    "c": [("dim", 3, 3, 9, 9)],
    "d": [("dog", 2, 4, 6, 8)],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return voc_folder(tmp_path / "voc", PICTURES)


def prepared(root: Path, told: list[str] | None = None, **options: Any) -> AnnotatedData:
    with log.listening((told if told is not None else []).append):
        values = {"path": str(root), "size": [24, 48], **options}
        return validate(VocConfig, values).prepare(root.parent / "cache")


def test_pictures_come_with_their_objects(root: Path) -> None:
    data = prepared(root)
    assert (data.labels, data.determines) == (["cat", "dim", "dog"], {"num_classes": 3, "image_shape": (3, 24, 48)})
    train = data.train[0][0]
    assert isinstance(train, Dataset)
    assert isinstance(data.validation, Dataset)
    first = train[0]
    assert isinstance(first, AnnotatedPicture)
    assert first.boxes.tolist() == [[0, 0, 8, 6], [4, 4, 16, 12]]
    assert (first.labels.tolist(), first.ignored.tolist(), first.number) == ([0, 2], [False, False], 0)
    assert np.array_equal(first.pixels, gradient())
    assert (train[1].boxes.shape, train[1].boxes.dtype, train[1].labels.dtype) == ((0, 4), np.float32, np.int64)
    assert train[2].ignored.tolist() == [True]
    assert data.counts[0]["boxes"] == {"read": 4, "used": 4, "quarantined": 0, "clipped": 0}
    assert data.counts[0]["train"] == {"examples": 3, "boxes": 3}


def test_picture_is_made_to_fit_and_its_boxes_with_it(root: Path) -> None:
    example = prepared(root).validation[0]
    assert isinstance(example, AnnotatedImage)
    assert (example.pixels.shape, example.scale, example.size) == ((3, 24, 48), (2.0, 2.0), (12, 16))
    assert example.boxes.tolist() == [[2, 6, 12, 16]]
    letterboxed, _ = image.letterbox(gradient(shift=3), 24, 48)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    assert np.array_equal(example.pixels, image.normalise(letterboxed, mean, std))


def test_training_sees_the_same_but_for_augmentation(root: Path) -> None:
    data, rng = prepared(root), np.random.default_rng(0)
    plain = data.augment(data.validation.pictures[0], rng)
    assert np.array_equal(plain.pixels, data.validation[0].pixels)
    assert np.array_equal(plain.boxes, data.validation[0].boxes)
    data = prepared(root, augment=["flip", "box_crop"])
    one, two = (augmented(order(data.train, 3), data.augment, 3) for _ in range(2))
    for number in (7, 2, 30):
        assert np.array_equal(one[number].pixels, two[number].pixels)
        assert np.array_equal(one[number].boxes, two[number].boxes)
        assert one[number].pixels.shape == (3, 24, 48)
    assert len({one[number].pixels.tobytes() for number in range(12)}) > 6


def test_classes_can_be_given_and_others_are_bad_samples(root: Path) -> None:
    data = prepared(root, classes=["dog", "cat", "dim"])
    assert data.train[0][0][0].labels.tolist() == [1, 0]
    with pytest.raises(FileError, match=r"Annotations/c\.xml, object 1: a class must be known, but 'dim' is not"):
        prepared(root, classes=["dog", "cat"])
    [count] = prepared(root, classes=["dog", "cat"], max_bad_samples=1).counts
    assert (count["read"], count["used"], count["boxes"]["quarantined"], count["boxes"]["used"]) == (4, 4, 1, 3)


def test_bad_boxes_are_named_counted_and_left_aside(root: Path) -> None:
    boxes = [
        ("cat", 5, 5, 4, 9),
        ("cat", 5, 5, 5, 9),
        ("cat", "nan", 1, 2, 3),
        ("cat", 30, 1, 40, 9),
        ("dog", 10, -3, 40, 9),
        ("cat", 1, 1, 9, 9),
    ]
    (root / "Annotations" / "b.xml").write_text(voc_xml("b", boxes))
    with pytest.raises(
        FileError, match=r"b\.xml, object 1: a box must end right of where it begins, and below, but goes"
    ):
        prepared(root)
    told = list[str]()
    data = prepared(root, told, max_bad_samples=4)
    count = data.counts[0]["boxes"]
    assert count == {"read": 10, "used": 6, "quarantined": 4, "clipped": 1}
    assert data.train[0][0][1].boxes.tolist() == [[9, 0, 16, 9], [0, 0, 9, 9]]
    assert any("1 boxes reach over the edge of their picture" in line for line in told)
    [written] = (root.parent / "cache").rglob("quarantine.jsonl")
    assert [json.loads(line)["where"] for line in written.read_text().splitlines()] == [
        f"{root}/Annotations/b.xml, object {number}" for number in (1, 2, 3, 4)
    ]


def test_bad_pictures_and_annotations_are_counted_and_their_boxes_not(root: Path) -> None:
    (root / "JPEGImages" / "a.png").write_bytes(b"GIF89a")
    (root / "Annotations" / "b.xml").write_text("<annotation>")
    (root / "Annotations" / "c.xml").unlink()
    voc_folder(root.parent / "more", {"e": [("cat", 1, 1, 4, 4)], "d": []})
    for name in ("Annotations/e.xml", "JPEGImages/e.png", "ImageSets/Main/train.txt"):
        mode = "ab" if name.endswith("txt") else "wb"
        with (root / name).open(mode) as file:
            file.write((root.parent / "more" / name).read_bytes())
    [count] = prepared(root, max_bad_samples=3, classes=["cat", "dog"]).counts
    assert (count["read"], count["used"], count["quarantined"]) == (5, 2, 3)
    assert count["boxes"]["read"] == 2
    with pytest.raises(FileError, match=r"b\.xml: an annotation must be XML, but is not"):
        prepared(root)


def test_size_that_is_not_the_pictures_is_a_bad_sample(root: Path) -> None:
    (root / "JPEGImages" / "a.png").write_bytes(encoded(gradient(16, 12)))
    with pytest.raises(
        FileError, match=r"a\.png: a picture must be as large as its annotation says, 12 x 16 .* is 16 x 12"
    ):
        prepared(root)


def test_names_that_lead_outside_are_refused(root: Path) -> None:
    (root / "ImageSets/Main/train.txt").write_text("../../secret\n")
    with pytest.raises(FileError, match="leads outside"):
        prepared(root)
    (root / "ImageSets/Main/train.txt").write_text("a\n")
    (root / "JPEGImages" / "a.png").unlink()
    (root / "Annotations" / "a.xml").write_text(voc_xml("../../../etc/passwd", []))
    with pytest.raises(FileError, match="leads outside"):
        prepared(root, classes=["dog"])
    with pytest.raises(RecipeError, match="train_list must be of the form"):
        validate(VocConfig, {"path": "x", "size": [8, 8], "train_list": "../train"})


def test_lists_are_checked(root: Path) -> None:
    told = list[str]()
    (root / "ImageSets/Main/train.txt").write_text("a\nd\n")
    prepared(root, told)
    assert any("1 pictures are in train and in val, such as d" in line for line in told)
    (root / "ImageSets/Main/train.txt").write_text("\n")
    with pytest.raises(FileError, match=r"train\.txt must name pictures, a line each, but is empty"):
        prepared(root)
    with pytest.raises(UsageError, match=r"none\.txt does not exist"):
        prepared(root, train_list="none")
    with pytest.raises(RecipeError, match="validation_list must be another list than train_list"):
        validate(VocConfig, {"path": "x", "size": [8, 8], "validation_list": "train"})
    with pytest.raises(RecipeError, match=r"augment\[0\] \(crop\) must keep every object in its box"):
        validate(VocConfig, {"path": "x", "size": [8, 8], "augment": ["crop"]})


def test_any_box_changes_the_fingerprint(root: Path, tmp_path: Path) -> None:
    before = prepared(root).fingerprint
    assert prepared(root).fingerprint == before
    assert prepared(root, size=[24, 24]).fingerprint != before
    (root / "Annotations" / "d.xml").write_text(voc_xml("d", [("dog", 2, 4, 6, 9)]))
    assert prepared(root).fingerprint != before
    assets = tmp_path / "assets"
    assets.mkdir()
    prepared(root).save_assets(assets)
    assert json.loads((assets / "labels.json").read_text()) == ["cat", "dim", "dog"]
    assert json.loads((assets / "preprocessor_config.json").read_text())["dougong"]["letterbox"]["height"] == 24


def test_real_cells_are_read(tmp_path: Path) -> None:
    root = tmp_path / "bccd"
    shutil.copytree(shared("data/detection/bccd"), root)
    data = prepared(root, size=[240, 320])
    [count] = data.counts
    assert (len(data.train[0][0]), len(data.validation), data.labels) == (150, 50, ["Platelets", "RBC", "WBC"])
    assert count["boxes"] == {"read": 2702, "used": 2702, "quarantined": 0, "clipped": 0}
    name = (root / "ImageSets/Main/train.txt").read_text().split()[0]
    bad = shared("data/dirty/voc_bad_boxes.xml").read_text()
    (root / "Annotations" / f"{name}.xml").write_text(bad)
    with pytest.raises(FileError, match="object 20: a box must end right of where it begins"):
        prepared(root, size=[240, 320], classes=data.labels)
    data = prepared(root, size=[240, 320], classes=data.labels, max_bad_samples=4)
    boxes = data.train[0][0][0].boxes
    assert (len(boxes), data.counts[0]["boxes"]["quarantined"], data.counts[0]["boxes"]["clipped"]) == (22, 4, 2)
    assert np.isfinite(boxes).all()
    assert boxes[19].tolist() == [599, 399, 640, 480]
