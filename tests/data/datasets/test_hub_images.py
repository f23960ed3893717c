from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dougong.core import log
from dougong.core.config import validate
from dougong.core.errors import FileError, MissingExtra, RecipeError, UsageError
from dougong.data.classified import ClassifiedData
from dougong.data.datasets.hub_images import HubImagesConfig
from tests.data.pictures import encoded, folder, gradient

datasets = pytest.importorskip("datasets")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A data set as it lies on the hub: a card, and two splits in Parquet, pictures inside."""
    root = tmp_path / "set"
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A set\n")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["eel", "cat"])})
    for split, count in {"train": 40, "test": 6}.items():
        pictures = [{"bytes": encoded(gradient(shift=n + 100 * count)), "path": None} for n in range(count)]
        columns = {"image": pictures, "label": [n % 2 for n in range(count)]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(root / "data" / f"{split}-0.parquet")
    return root


def prepared(root: Path, **options: Any) -> ClassifiedData:
    with log.listening(lambda line: None):
        config = validate(HubImagesConfig, {"dataset": str(root), **options})
        return config.prepare(root.parent / "cache")


def test_pictures_inside_a_table_are_read(table: Path) -> None:
    data = prepared(table, validation_split="test")
    assert (data.labels, len(data.train[0][0]), len(data.validation)) == (["eel", "cat"], 40, 6)
    assert data.licence == "cc-by-4.0"
    assert [data.train[0][0][n].label for n in range(4)] == [0, 1, 0, 1]
    assert (data.train[0][0][3].pixels == gradient(shift=4003)).all()
    assert data.train[0][0].name(3) == f"{table}, train, record 4"
    assert data.determines == {"num_classes": 2, "image_shape": (3, 12, 16)}


def test_part_is_kept_apart_where_no_split_is_named(table: Path) -> None:
    data = prepared(table, validation={"fraction": 0.3}, licence="mine")
    assert len(data.train[0][0]) + len(data.validation) == 40
    assert data.licence == "mine"


def test_folder_of_pictures_is_read_as_the_library_lays_it_out(tmp_path: Path) -> None:
    folder(tmp_path / "set" / "train", {"cat": 20, "dog": 20})
    folder(tmp_path / "set" / "test", {"cat": 2, "dog": 2})
    data = prepared(tmp_path / "set", validation_split="test")
    assert (data.labels, len(data.train[0][0]), len(data.validation)) == (["cat", "dog"], 40, 4)
    (tmp_path / "set" / "train" / "cat" / "003.png").write_bytes(b"GIF89a")
    with pytest.raises(FileError, match=r"train, record 4: a picture must be .* but this is a GIF"):
        prepared(tmp_path / "set", validation_split="test")


def test_records_without_picture_or_class_are_counted(table: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["eel", "cat"])})
    pictures: list[Any] = [{"bytes": encoded(gradient(shift=n)), "path": None} for n in range(30)]
    pictures[4], pictures[5] = None, {"bytes": b"<html>", "path": None}
    columns = {"image": pictures, "label": [-1, None, *(n % 2 for n in range(28))]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(table / "data" / "train-0.parquet")
    [count] = prepared(table, max_bad_samples=4).counts
    assert (count["read"], count["used"], count["quarantined"]) == (30, 26, 4)
    with pytest.raises(FileError, match="record 1: a picture must have a class, but this has none"):
        prepared(table)
    with pytest.raises(
        FileError, match="record 5: a record must have a picture, but this has none. That is bad sample 3"
    ):
        prepared(table, max_bad_samples=2)


def test_wrong_names_are_usage_errors(table: Path) -> None:
    with pytest.raises(UsageError, match="must have the column 'picture', but has none of this name"):
        prepared(table, picture_field="picture")
    with pytest.raises(UsageError, match="the column 'label' must hold pictures, but holds ClassLabel"):
        prepared(table, picture_field="label", label_field="image")
    with pytest.raises(UsageError, match="must be readable, but is not"):
        prepared(table, split="dev")
    with pytest.raises(RecipeError, match="validation_split must be another split than 'train'"):
        validate(HubImagesConfig, {"dataset": "x", "validation_split": "train"})


def test_missing_library_is_named_with_what_to_type(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'dougong\[hub\]'"):
        prepared(table)
