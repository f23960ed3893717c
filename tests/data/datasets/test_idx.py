from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong.core.config import validate
from dougong.core.errors import FileError, RecipeError
from dougong.data.classified import ClassifiedData
from dougong.data.datasets.idx import IdxConfig
from tests.conftest import shared
from tests.data.pictures import idx

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 6, 5)).astype(np.uint8)
LABELS = np.arange(60) % 3


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two parts, of which one is packed."""
    contents = {
        "images_path": ("images.idx", idx(IMAGES)),
        "labels_path": ("labels.idx", idx(LABELS)),
        "validation_images_path": ("v-images.gz", gzip.compress(idx(IMAGES[:7]))),
        "validation_labels_path": ("v-labels.gz", gzip.compress(idx(LABELS[:7]))),
    }
    for name, raw in contents.values():
        (tmp_path / name).write_bytes(raw)
    return {field: str(tmp_path / name) for field, (name, _) in contents.items()}


def prepared(files: dict[str, str], **options: Any) -> ClassifiedData:
    return validate(IdxConfig, {**files, **options}).prepare()


def alone(files: dict[str, str]) -> dict[str, str]:
    return {field: files[field] for field in ("images_path", "labels_path")}


def test_pictures_and_labels_belong_together(files: dict[str, str]) -> None:
    data = prepared(files)
    assert (data.labels, data.determines) == (["0", "1", "2"], {"num_classes": 3, "image_shape": (1, 6, 5)})
    assert (len(data.train[0][0]), len(data.validation)) == (60, 7)
    assert np.array_equal(data.train[0][0][8].pixels[..., 0], IMAGES[8])
    example = data.validation[4]
    assert (example.label, example.pixels.dtype) == (1, np.float32)
    assert np.abs(example.pixels[0] - (IMAGES[4] / 255 - 0.5) / 0.5).max() < 1e-6
    assert data.counts[0]["read"] == data.counts[0]["used"] == 67


def test_part_is_kept_apart_where_none_is_named(files: dict[str, str]) -> None:
    data = prepared(alone(files), validation={"fraction": 0.3})
    train, apart = data.train[0][0], data.validation.pictures
    assert len(train) + len(apart) == 60
    assert 8 < len(apart) < 28
    assert not set(train.hashes) & set(apart.hashes)
    pictures = {bytes(IMAGES[number]): LABELS[number] for number in range(60)}
    assert all(pictures[train[n].pixels.tobytes()] == train[n].label for n in range(len(train)))


def test_shades_become_three_channels_and_are_resized_and_changed(files: dict[str, str]) -> None:
    data = prepared(files, channels=3, size=8, classes=["a", "b", "c"], augment=[{"pad_crop": 1}])
    assert data.labels == ["a", "b", "c"]
    assert data.validation[0].pixels.shape == (3, 8, 8)
    assert data.augment(data.train[0][0][0], np.random.default_rng(0)).pixels.shape == (3, 8, 8)
    same = prepared(files, augment=["flip"])
    assert same.augment(same.train[0][0][0], np.random.default_rng(0)).pixels.shape == (1, 6, 5)


@pytest.mark.parametrize(
    ("field", "raw", "said"),
    [
        ("labels_path", idx(LABELS[:59]), "must hold as many pictures as labels, but hold 60 and 59"),
        ("labels_path", idx(IMAGES), "must hold labels, whole numbers in 1 dimension, but holds uint8 in 3"),
        ("images_path", idx(LABELS), "must hold pictures, bytes in 3 dimensions, but holds uint8 in 1"),
        ("images_path", idx(IMAGES)[:-1], "must hold the 60 items that its header states, but holds 59"),
        ("images_path", idx(np.zeros((60, 1, 1))), "must hold pictures of 2 pixels high and wide or more"),
        ("validation_labels_path", idx(LABELS[:7] + 1), r"0 to 2, but label 3 is 3\. Complete classes"),
    ],
    ids=["fewer labels", "labels", "images", "cut", "tiny", "unknown"],
)
def test_files_that_do_not_fit_are_named(files: dict[str, str], field: str, raw: bytes, said: str) -> None:
    path = Path(files[field])
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    with pytest.raises(FileError, match=said) as caught:
        prepared(files)
    assert str(path) in str(caught.value)


def test_half_a_part_and_two_ways_to_validate_are_refused(files: dict[str, str]) -> None:
    half = {field: path for field, path in files.items() if field != "validation_labels_path"}
    with pytest.raises(RecipeError, match="validation_labels_path must be given, as the other file"):
        validate(IdxConfig, half)
    with pytest.raises(RecipeError, match="validation has no effect where files to validate on are given"):
        validate(IdxConfig, {**files, "validation": {"fold": 1}})
    with pytest.raises(RecipeError, match="draft has no effect"):
        validate(IdxConfig, {**files, "size": 6, "draft": True})


def test_any_edit_changes_the_fingerprint(files: dict[str, str]) -> None:
    before = prepared(files).fingerprint
    assert prepared(files).fingerprint == before
    labels = LABELS.copy()
    labels[5] = 0
    Path(files["labels_path"]).write_bytes(idx(labels))
    assert prepared(files).fingerprint != before


def test_real_digits_are_read() -> None:
    folder = shared("data/images/mnist")
    paths = {
        f"{part}{kind}_path": str(folder / f"{name}-{kind}-{form}-ubyte.gz")
        for part, name in (("", "train"), ("validation_", "t10k"))
        for kind, form in (("images", "idx3"), ("labels", "idx1"))
    }
    data = prepared(paths)
    assert (len(data.train[0][0]), len(data.validation), len(data.labels)) == (7000, 1000, 10)
