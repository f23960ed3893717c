from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong.core import log
from dougong.core.config import find_part, validate
from dougong.core.contracts import Dataset
from dougong.core.errors import FileError, RecipeError, UsageError
from dougong.data import image
from dougong.data.classified import ClassifiedData
from dougong.data.datasets.image_folder import ImageFolderConfig
from dougong.data.examples import LabelledImage, Picture
from dougong.data.image import read_picture
from dougong.data.loader import augmented, order
from tests.conftest import shared
from tests.data.pictures import BAD, encoded, folder, gradient

Prepare = Callable[..., ClassifiedData]


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def prepare(tmp_path: Path, told: list[str]) -> Prepare:
    def prepared(path: Path, **options: Any) -> ClassifiedData:
        with log.listening(told.append):
            return validate(ImageFolderConfig, {"path": str(path), **options}).prepare(tmp_path / "cache")

    return prepared


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    return folder(tmp_path / "animals", {"dog": 30, "cat": 40})


def complaints(**values: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        validate(ImageFolderConfig, {"path": "x", **values})
    return caught.value.complaints


# What there is


def test_folders_are_classes_and_every_picture_is_in_one_part(cats: Path, prepare: Prepare) -> None:
    data = prepare(cats)
    assert (data.labels, data.determines) == (["cat", "dog"], {"num_classes": 2, "image_shape": (3, 12, 16)})
    [count], [(train, weight)] = data.counts, data.train
    assert (count["read"], count["used"], count["quarantined"], weight) == (70, 70, 0, None)
    assert count["train"]["examples"] + count["validation"]["examples"] == 70
    assert count["train"]["examples"] == len(train)
    assert isinstance(train, Dataset)
    assert isinstance(data.validation, Dataset)
    assert isinstance(train[0], Picture)
    assert isinstance(data.validation[0], LabelledImage)
    names = [*map(train.name, range(len(train)))]
    assert all(("cat" in name) == (train[index].label == 0) for index, name in enumerate(names))


def test_equal_pictures_stay_together_and_adding_moves_none(cats: Path, prepare: Prepare) -> None:
    before = set(prepare(cats).validation.pictures.hashes)
    for number in range(40):
        (cats / "dog" / f"copy{number}.png").write_bytes((cats / "cat" / f"{number:03}.png").read_bytes())
    data = prepare(cats)
    assert set(data.validation.pictures.hashes) == before
    assert not before & set(data.train[0][0].hashes)
    assert set(prepare(cats, validation={"fold": 3}).validation.pictures.hashes).isdisjoint(before)


def test_folder_of_its_own_to_validate_on(cats: Path, tmp_path: Path, prepare: Prepare) -> None:
    apart = folder(tmp_path / "apart", {"dog": 3})
    data = prepare(cats, validation_path=str(apart))
    assert (len(data.train[0][0]), len(data.validation)) == (70, 3)
    assert {data.validation[index].label for index in range(3)} == {1}
    folder(apart, {"dogs": 1})
    with pytest.raises(FileError, match=r"apart/dogs must be a class to train on.* Did you mean dog\?"):
        prepare(cats, validation_path=str(apart))
    assert complaints(validation_path="y", validation={"fold": 1}) == [
        "validation has no effect where validation_path is given. Remove one of the two."
    ]


def test_class_without_pictures_is_named(cats: Path, prepare: Prepare) -> None:
    (cats / "emu").mkdir()
    (cats / "emu" / "notes.txt").write_text("none yet")
    with pytest.raises(
        FileError, match="animals/emu must hold pictures, as it is the folder of a class, but holds none"
    ):
        prepare(cats)


def test_folder_that_is_none_is_told(cats: Path, prepare: Prepare, tmp_path: Path) -> None:
    with pytest.raises(
        FileError, match="must hold a folder of pictures for each of two classes or more, but holds none"
    ):
        prepare(cats / "dog")
    with pytest.raises(UsageError, match="does not exist"):
        prepare(tmp_path / "nothing")
    with pytest.raises(FileError, match="Not a directory"):
        prepare(cats / "dog" / "000.png")


def test_class_that_is_nowhere_to_validate_on_is_told(cats: Path, prepare: Prepare, told: list[str]) -> None:
    folder(cats, {"emu": 1})
    prepare(cats)
    assert "dougong: warning: 1 of 3 classes have no picture to validate on: emu" in told


# What is made of it


def test_picture_is_resized_cut_and_normalised(cats: Path, prepare: Prepare) -> None:
    data = prepare(cats, size=8, resize=10, mean=[0.1, 0.2, 0.3], std=[1.0, 2.0, 4.0])
    pixels = data.validation.pictures[0].pixels
    expected = image.resize(pixels, 10, 13)[1:9, 2:10].astype(np.float64) / 255
    expected = (expected - [0.1, 0.2, 0.3]) / [1, 2, 4]
    assert np.abs(data.validation[0].pixels - expected.transpose(2, 0, 1)).max() < 1e-6


def test_without_a_size_pictures_stay_and_must_be_alike(cats: Path, prepare: Prepare) -> None:
    data = prepare(cats, channels=1)
    assert data.validation[0].pixels.shape == (1, 12, 16)
    (cats / "dog" / "large.png").write_bytes(encoded(gradient(13, 16)))
    with pytest.raises(
        FileError, match=r"all pictures must be of one size .* 12 x 16 and .*large\.png is 13 x 16\. Set"
    ):
        prepare(cats)
    assert prepare(cats, size=8).determines["image_shape"] == (3, 8, 8)


def test_views_are_those_of_the_papers(cats: Path, prepare: Prepare) -> None:
    one = prepare(cats, size=8, resize=10).validation[0].pixels
    ten = prepare(cats, size=8, resize=10, views="ten").validation[0].pixels
    grid = prepare(cats, size=8, scales=[10, 12], views="grid").validation[0].pixels
    assert (one.shape, ten.shape, grid.shape) == ((3, 8, 8), (10, 3, 8, 8), (100, 3, 8, 8))
    assert np.array_equal(ten[4], one)
    assert np.array_equal(ten[9], one[..., ::-1])
    assert np.array_equal(grid[0], ten[0])
    assert prepare(cats, size=8, scales=[8, 12]).validation[0].pixels.shape == (2, 3, 8, 8)


def test_without_augmentation_training_sees_what_evaluation_sees(cats: Path, prepare: Prepare) -> None:
    data = prepare(cats, size=8, resize=10)
    rng = np.random.default_rng(0)
    picture = data.validation.pictures[3]
    example = data.augment(picture, rng)
    assert np.array_equal(example.pixels, data.validation[3].pixels)
    assert (example.label, example.other, example.share) == (picture.label, None, 1.0)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_augmentation_is_a_function_of_seed_and_sample(cats: Path, prepare: Prepare) -> None:
    data = prepare(cats, size=8, augment=["crop", "flip", {"cutmix": 1.0}])
    examples = [augmented(order(data.train, seed), data.augment, seed) for seed in (5, 5, 6)]
    same = [np.array_equal(examples[0][n].pixels, examples[1][n].pixels) for n in (90, 3, 17, 3)]
    other = [np.array_equal(examples[0][n].pixels, examples[2][n].pixels) for n in range(5)]
    assert (all(same), any(other)) == (True, False)
    mixed = [examples[0][n] for n in range(40)]
    assert {example.pixels.shape for example in mixed} == {(3, 8, 8)}
    assert any(example.other not in (None, example.label) and 0 < example.share < 1 for example in mixed)
    epochs = [examples[0][n].pixels for n in range(len(data.train[0][0]) * 2)]
    assert len({pixels.tobytes() for pixels in epochs}) == len(epochs)


def test_draft_is_nearly_the_same_and_never_smaller_than_needed(tmp_path: Path, prepare: Prepare) -> None:
    root = tmp_path / "photos"
    for label, shift in (("a", 0), ("b", 9)):
        (root / label).mkdir(parents=True)
        for number in range(15):
            pixels = image.resize(gradient(6, 8, shift + number), 480, 640)
            (root / label / f"{number}.jpg").write_bytes(encoded(pixels, "JPEG"))
    whole, quick = (prepare(root, size=48, resize=56, draft=draft) for draft in (False, True))
    assert quick.train[0][0][0].pixels.shape == (120, 160, 3)
    assert whole.train[0][0][0].pixels.shape == (480, 640, 3)
    assert np.abs(whole.validation[0].pixels - quick.validation[0].pixels).mean() < 0.02
    assert whole.fingerprint != quick.fingerprint


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"resize": 9}, "resize needs a size to cut pictures to, but size is absent. Set size."),
        ({"size": 8, "resize": 7}, "resize must be at least size, which is 8, but is 7."),
        ({"size": [8, 9], "scales": [9, 8]}, "scales[1] must be at least size, which is 9, but is 8."),
        ({"size": 8, "resize": 9, "scales": [9]}, "resize must be absent where scales are given. Remove"),
        ({"size": 8, "views": "ten"}, "views must be center, but is 'ten': nothing is cut away. Set resize"),
        ({"size": 8, "resize": 8, "views": "grid"}, "resize must be larger than size, which is 8, but is 8."),
        ({"mean": [0.5]}, "mean must have a number for each of the 3 channels, but has 1."),
        ({"channels": 1, "std": [1.0, 1.0, 1.0]}, "std must have a number for each of the 1 channels, but has 3."),
        ({"augment": ["box_crop"]}, "augment[0] (box_crop) must be given boxes to keep, but these pictures have none."),
        ({"augment": [{"mixup": 0.2}, "flip"]}, "augment[0] (mixup) must come after all that changes a single picture"),
        ({"size": 0}, "size must be at least 1"),
        ({"size": [8]}, "size must be"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_does_not_fit_is_said_at_once(values: dict[str, Any], said: str) -> None:
    assert any(complaint.startswith(said) for complaint in complaints(**values)), complaints(**values)


def test_config_reads_back_as_itself(cats: Path) -> None:
    values = {"path": str(cats), "size": [8, 9], "resize": 12, "augment": ["flip", {"crop": [0.5, 1.0]}]}
    config = validate(ImageFolderConfig, values)
    assert validate(ImageFolderConfig, config.model_dump(mode="json")) == config
    assert config.foreseen() == {"image_shape": (3, 8, 9)}
    assert find_part("data.datasets", "image_folder").PART is ImageFolderConfig


# What changes, and what is left


def test_fingerprint_tells_content_labels_and_how_they_are_seen(cats: Path, prepare: Prepare) -> None:
    first = prepare(cats, size=8)
    assert prepare(cats, size=8).fingerprint == first.fingerprint
    others = [
        prepare(cats, size=8, **changes).fingerprint
        for changes in ({"resize": 9}, {"channels": 1}, {"mean": [0.5] * 3}, {"augment": ["flip"]}, {"scales": [8, 9]})
    ]
    (cats / "cat").rename(cats / "eel")
    others.append(prepare(cats, size=8).fingerprint)
    (cats / "dog" / "000.png").write_bytes(encoded(gradient(shift=77)))
    others.append(prepare(cats, size=8).fingerprint)
    assert len({first.fingerprint, *others}) == 8


def test_assets_are_what_transformers_computes(cats: Path, prepare: Prepare, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    root = tmp_path / "photos"
    for label in ("a", "b"):
        folder(root, {label: 12}, (40, 50))
    for number, options in enumerate(({"size": 20, "resize": 26}, {"size": [20, 24], "resize": 30}, {"size": 24}, {})):
        data, assets = prepare(root, **options), tmp_path / f"assets{number}"
        assets.mkdir()
        data.save_assets(assets)
        assert json.loads((assets / "labels.json").read_text()) == ["a", "b"]
        processor = transformers.AutoImageProcessor.from_pretrained(assets)
        pixels = data.validation.pictures[0].pixels
        theirs = processor(image.Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
        assert np.abs(theirs - data.validation[0].pixels).max() < 1e-5
    data = prepare(root, size=20, resize=26, views="ten")
    assert data.viewing.preprocessor()["dougong"] == {"views": "ten", "scales": None}


def test_bad_pictures_stop_or_are_left_aside_and_counted(cats: Path, prepare: Prepare, told: list[str]) -> None:
    for number, raw in enumerate(BAD.values()):
        (cats / "dog" / f"bad{number}.jpg").write_bytes(raw)
    with pytest.raises(FileError, match=r"dog/bad0\.jpg: a picture must have content, but this file is empty"):
        prepare(cats)
    [count] = prepare(cats, max_bad_samples=len(BAD)).counts
    assert (count["read"], count["used"], count["quarantined"]) == (70 + len(BAD), 70, len(BAD))
    assert f"{len(BAD)} bad samples are left aside, named in " in told[-1]
    with pytest.raises(FileError, match=f"bad sample {len(BAD)}, and max_bad_samples is {len(BAD) - 1}"):
        prepare(cats, max_bad_samples=len(BAD) - 1)


def test_real_photographs_are_read() -> None:
    root = shared("data/images/sign_digits")
    data = validate(ImageFolderConfig, {"path": str(root), "size": 32}).prepare()
    assert (len(data.labels), data.counts[0]["used"]) == (10, 400)
    whole = read_picture(data.train[0][0].name(7))
    assert np.array_equal(whole, data.train[0][0][7].pixels)
