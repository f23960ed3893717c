from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dougong.core.errors import FileError, UsageError
from dougong.data.coco import read_coco

VALUES: dict[str, Any] = {
    "info": {"year": 2014},
    "images": [
        {"id": 9, "file_name": "b.png", "height": 12, "width": 16},
        {"id": 4, "file_name": "a.png", "height": 12, "width": 16},
        {"id": 5, "file_name": "none.png"},
    ],
    "licenses": [],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 90, "bbox": [1, 2, 3, 4.5], "segmentation": [[1, 2, 3, 4]]},
        {
            "id": 2,
            "image_id": 9,
            "category_id": 3,
            "bbox": [0, 0, 16, 12],
            "iscrowd": 1,
            "segmentation": {"counts": []},
        },
        {"id": 3, "image_id": 4, "category_id": 3, "bbox": [5, 5, 2, 2], "iscrowd": 0},
    ],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
}


def written(folder: Path, values: Any) -> Path:
    path = folder / "instances.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def changed(key: str, number: int, **changes: Any) -> dict[str, Any]:
    items = [dict(item) for item in VALUES[key]]
    items[number] |= changes
    return {**VALUES, key: items}


def test_categories_with_gaps_are_numbered_by_their_ids(tmp_path: Path) -> None:
    assert read_coco(written(tmp_path, VALUES)).labels == ["car", "toothbrush"]


def test_each_picture_has_its_objects_or_none(tmp_path: Path) -> None:
    found = read_coco(written(tmp_path, VALUES)).annotations
    assert [(each.picture, each.size, len(each.boxes)) for each in found] == [
        ("b.png", (12, 16), 1),
        ("a.png", (12, 16), 2),
        ("none.png", None, 0),
    ]
    first, second = found[1].boxes
    assert (first.label, first.corners, first.ignored) == ("toothbrush", (1.0, 2.0, 4.0, 6.5), False)
    assert (second.label, second.corners) == ("car", (5.0, 5.0, 7.0, 7.0))
    assert found[0].boxes[0].ignored


def test_what_is_read_does_not_depend_on_the_order_of_keys_or_on_spaces(tmp_path: Path) -> None:
    turned = json.dumps(dict(reversed(VALUES.items())), indent=3)
    assert read_coco(written(tmp_path, turned)) == read_coco(written(tmp_path, VALUES))
    marked = tmp_path / "instances.json"
    marked.write_bytes(b"\xef\xbb\xbf" + json.dumps(VALUES).encode())
    assert len(read_coco(marked).annotations) == 3


def test_boxes_that_are_none_have_no_numbers(tmp_path: Path) -> None:
    for wrong in (None, [1, 2, 3], [1, 2, 3, "4"], [1, 2, True, 4], [1, 2, 3, 10**400]):
        box = read_coco(written(tmp_path, changed("annotations", 0, bbox=wrong))).annotations[1].boxes[0]
        assert math.isnan(box.corners[0])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (changed("images", 0, id=4), r"images\[1\] must have an id of its own, but 4 was given before"),
        (changed("images", 0, id="9"), r"images\[0\] must have an integer as its id, but has '9'"),
        (changed("images", 0, file_name=""), r"images\[0\] must have a text as its file_name"),
        (changed("annotations", 1, image_id=77), "must be of a picture of the file, but image 77 is not there"),
        (changed("annotations", 1, category_id=77), "must be of a category of the file, but category 77 is not there"),
        (changed("categories", 1, name="toothbrush"), "must name each category once, but 'toothbrush' is there twice"),
        ({"annotations": [{}]}, r"annotations\[0\] must have an integer as its category_id"),
        ({"images": VALUES["images"], "annotations": []}, "must have categories, as COCO's files do"),
        ([], "must be COCO's JSON, but is not: '{' is missing at character 0"),
        ("", "must be COCO's JSON, but is not: '{' is missing"),
        ('{"images": [{"id": 1, "file_name": "a"}', "must be COCO's JSON, but is not"),
        ('{"info": [1 2]}', "',' is missing at character 12"),
        ({**VALUES, "annotations": [[]]}, r"annotations\[0\] must be an object, but is of type list"),
        ('{"images": [,]}', "must be COCO's JSON, but is not"),
        ('{"images": [], "images": []}', "'images' is no key, or given twice"),
        ('{"a": 1} x', "something follows after its end"),
        ('{"a": ' + "[" * 100_000, "it is nested too deep"),
    ],
)  # fmt: skip
def test_what_is_no_coco_is_refused_by_name(values: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=said) as caught:
        read_coco(written(tmp_path, values))
    assert str(tmp_path / "instances.json") in str(caught.value)


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_coco(tmp_path / "nothing.json")
