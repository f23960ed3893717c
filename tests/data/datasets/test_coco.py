from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dougong.core import log
from dougong.core.config import validate
from dougong.core.errors import FileError
from dougong.data.annotated import AnnotatedData
from dougong.data.datasets.coco import CocoConfig
from tests.data.pictures import encoded, gradient

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, count in (("train", 4), ("val", 2)):
        (tmp_path / part).mkdir()
        for number in range(count):
            (tmp_path / part / f"{number}.png").write_bytes(encoded(gradient(shift=number + 10 * count)))
        images = [{"id": 50 + n, "file_name": f"{n}.png", "height": 12, "width": 16} for n in range(count)]
        boxes = [box(1, 50, 7, [1, 2, 5, 6]), box(2, 50, 3, [0, 0, 16, 12], iscrowd=1), box(3, 51, 3, [4, 4, 4, 4])]
        values = {"images": images, "annotations": boxes, "categories": CATEGORIES}
        (tmp_path / f"{part}.json").write_text(json.dumps(values))
    return tmp_path


def box(number: int, image: int, category: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, **more}


def edited(root: Path, part: str, **changes: Any) -> None:
    path = root / f"{part}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def prepared(root: Path, **options: Any) -> AnnotatedData:
    values = {
        "images_path": str(root / "train"),
        "annotations_path": str(root / "train.json"),
        "validation_images_path": str(root / "val"),
        "validation_annotations_path": str(root / "val.json"),
        "size": [12, 20],
    }
    with log.listening(lambda line: None):
        return validate(CocoConfig, {**values, **options}).prepare(root / "cache")


def test_pictures_of_both_parts_come_with_their_objects(root: Path) -> None:
    data = prepared(root)
    assert (data.labels, len(data.train[0][0]), len(data.validation)) == (["cat", "dog"], 4, 2)
    first = data.train[0][0][0]
    assert (first.boxes.tolist(), first.labels.tolist()) == ([[1, 2, 6, 8], [0, 0, 16, 12]], [1, 0])
    assert first.ignored.tolist() == [False, True]
    example = data.validation[1]
    assert (example.boxes.tolist(), example.scale, example.pixels.shape) == ([[4, 4, 8, 8]], (1.0, 1.0), (3, 12, 20))


def test_pictures_without_objects_are_kept(root: Path) -> None:
    assert [len(each.boxes) for each in map(prepared(root).train[0][0].__getitem__, range(4))] == [2, 1, 0, 0]


def test_classes_are_told_by_name_whatever_their_ids(root: Path) -> None:
    edited(root, "val", categories=[{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}])
    assert prepared(root).validation[0].labels.tolist() == [0, 1]
    edited(root, "val", categories=[{"id": 3, "name": "dogs"}, {"id": 7, "name": "cat"}])
    with pytest.raises(
        FileError, match=r"val\.json, annotations\[1\]: a class must be known, but 'dogs' is not. Did you"
    ):
        prepared(root)


def test_bad_boxes_and_missing_pictures_are_counted(root: Path) -> None:
    boxes = [box(1, 50, 7, [1, 2, 0, 6]), box(2, 51, 7, [-4, 2, 8, 60]), {**box(3, 52, 3, []), "bbox": None}]
    edited(root, "train", annotations=boxes)
    with pytest.raises(FileError, match=r"annotations\[0\]: a box must end right"):
        prepared(root)
    (root / "train" / "3.png").unlink()
    [count] = prepared(root, max_bad_samples=2).counts
    assert (count["read"], count["used"], count["quarantined"]) == (6, 5, 1)
    assert count["boxes"] == {"read": 6, "used": 4, "quarantined": 2, "clipped": 1}


def test_names_that_lead_outside_are_refused(root: Path) -> None:
    edited(root, "train", images=[{"id": 1, "file_name": "../val/0.png"}], annotations=[])
    with pytest.raises(FileError, match="leads outside"):
        prepared(root)


def test_part_without_pictures_is_refused(root: Path) -> None:
    for number in range(2):
        (root / "val" / f"{number}.png").write_bytes(b"")
    with pytest.raises(FileError, match="must have pictures to validate on, but has none"):
        prepared(root, max_bad_samples=2)
