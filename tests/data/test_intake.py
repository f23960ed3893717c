"""A picture that a trained model is asked about comes in as those did that it was validated on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dougong.core import log
from dougong.core.config import find_part, validate
from dougong.core.errors import FileError, UsageError
from dougong.data.image import read_picture
from dougong.data.intake import Intake, said_by_timm
from dougong.data.viewing import Viewing
from tests.data.pictures import encoded, folder, gradient, voc_folder

PHOTO = gradient(70, 95)
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
ROUNDING = 2 / (255 * 0.224)
"""Two shades of grey after the smallest of ImageNet's divisions: each side rounds to whole shades once or twice."""


def prepared(name: str, cache: Path, **values: Any) -> Any:
    with log.listening(lambda line: None):
        return validate(find_part("data.datasets", name).PART, values).prepare(cache)


def said_by(data: Any, to: Path) -> dict[str, Any]:
    to.mkdir(exist_ok=True)
    data.save_assets(to)
    return json.loads((to / "preprocessor_config.json").read_text())


# As in training


@pytest.mark.parametrize(
    "options",
    [
        {"size": 20},
        {"size": 20, "resize": 20},
        {"size": 20, "resize": 26},
        {"size": [20, 26]},
        {"size": [20, 26], "resize": 26},
        {"size": [20, 26], "resize": 31, "channels": 1},
        {"size": 20, "resize": 26, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]},
        {"size": 20, "resize": 26, "views": "ten"},
        {"size": 20, "scales": [22, 27]},
        {"size": 20, "scales": [22, 27], "views": "grid"},
        {},
        {"channels": 1},
    ],
    ids=str,
)
def test_a_picture_is_taken_as_one_to_validate_on(options: dict[str, Any], tmp_path: Path) -> None:
    root = folder(tmp_path / "wide", {"a": 14, "b": 14}, (31, 47))
    if "size" in options:
        folder(root, {"a": 3, "b": 3}, (53, 38))
    data = prepared("image_folder", tmp_path / "cache", path=str(root), **options)
    intake = Intake(said_by(data, tmp_path / "model"), data.determines["image_shape"])
    assert len(data.validation) > 1
    for number, wanted in enumerate(data.validation[index].pixels for index in range(len(data.validation))):
        found = intake.take(data.validation.pictures.name(number)).example.pixels
        assert found.dtype == np.float32
        assert np.array_equal(found, wanted)


def test_covering_and_a_shorter_side_are_told_apart() -> None:
    """The control: of a size that is no square they are not the same, so the folder must say which was meant."""
    config = find_part("data.datasets", "image_folder").PART
    for options, cover in (({"size": [20, 26]}, True), ({"size": [20, 26], "resize": 26}, False)):
        viewing = Viewing(validate(config, {"path": "x", **options}), (20, 26))
        said = viewing.preprocessor()
        assert said["size"] == {"shortest_edge": 26}
        assert (said.get("dougong", {}).get("fit") == "cover") == cover
    both = [Intake({**said, "dougong": own}, (3, 20, 26)).take(PHOTO) for own in ({}, {"fit": "cover"})]
    assert not np.array_equal(both[0].example.pixels, both[1].example.pixels)


def test_a_digit_is_taken_as_one_to_validate_on(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = prepared("digits", tmp_path / "cache")
    intake = Intake(said_by(data, tmp_path / "model"), (1, 8, 8))
    for number in range(9):
        wanted = data.validation[number].pixels
        shades = np.rint(255 * wanted[0]).astype(np.uint8)
        assert np.abs(intake.take(shades).example.pixels - wanted).max() <= 0.5 / 255 + 1e-6
    assert intake.take(np.full((30, 40), 255, dtype=np.uint8)).example.pixels.shape == (1, 8, 8)


def test_a_picture_with_objects_is_taken_as_one_to_validate_on(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "voc", {str(n): [("cat", 1, 1, 9, 9)] for n in range(4)}, apart=2)
    data = prepared("voc", tmp_path / "cache", path=str(root), size=[24, 40])
    intake = Intake(said_by(data, tmp_path / "model"), (3, 24, 40))
    for number, name in enumerate("23"):
        wanted, taken = data.validation[number], intake.take(root / "JPEGImages" / f"{name}.png")
        found: Any = taken.example
        assert np.array_equal(found.pixels, wanted.pixels)
        assert (found.scale, found.size) == (wanted.scale, wanted.size) == ((2.0, 2.0), (12, 16))
        assert found.boxes.shape == (0, 4)
        assert np.array_equal(taken.pixels, gradient(shift=int(name)))


# As in transformers


PROCESSORS: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "cut": ("BitImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": 32, "resample": 2}, (32, 32)),
    "cut, bicubic": ("BitImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": 32, "resample": 3}, (32, 32)),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 56}, "crop_pct": 0.875, "resample": 3}, (56, 56)),
    "convnext warps": (
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 2},
        (384, 384),
    ),
    "squashed": ("ViTImageProcessor", {"size": {"height": 30, "width": 44}, "resample": 2}, (30, 44)),
    "as it is": ("BitImageProcessor", {"do_resize": False, "do_center_crop": False}, (70, 95)),
    "not normalised": ("ViTImageProcessor", {"size": {"height": 8, "width": 9}, "do_normalize": False}, (8, 9)),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_picture_is_taken_as_transformers_does(kind: str, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    name, options, size = PROCESSORS[kind]
    getattr(transformers, name)(**IMAGENET, **options).save_pretrained(tmp_path)
    said = json.loads((tmp_path / "preprocessor_config.json").read_text())
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    for pixels in (PHOTO, PHOTO.swapaxes(0, 1)) if kind != "as it is" else (PHOTO,):
        expected = theirs(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
        found = Intake(said, (3, *size)).take(np.ascontiguousarray(pixels)).example.pixels
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < ROUNDING
        assert np.abs(found - expected).mean() < ROUNDING / 20


@pytest.mark.parametrize("change", [{"resample": 0}, {"size": {"shortest_edge": 43}}, {"image_mean": [0.4] * 3}])
def test_another_way_to_make_ready_is_noticed(change: dict[str, Any]) -> None:
    """The control: what the tolerance lets pass is far less than what a wrong setting does."""
    said = {**IMAGENET, "do_center_crop": True, "size": {"shortest_edge": 40}, "resample": 2}
    one, other = (Intake(values, (3, 32, 32)).take(PHOTO).example.pixels for values in (said, {**said, **change}))
    assert np.abs(one - other).max() > 3 * ROUNDING


def test_sizes_as_older_folders_have_them_are_read() -> None:
    convnext = {**IMAGENET, "feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "size": 56}
    now = {**IMAGENET, "crop_pct": 0.875, "size": {"shortest_edge": 56}}
    vit = {**IMAGENET, "feature_extractor_type": "ViTFeatureExtractor", "size": 56}
    squashed = {**IMAGENET, "size": {"height": 56, "width": 56}}
    for old, new in ((convnext, now), (vit, squashed)):
        one, other = (Intake(said, (3, 56, 56)).take(PHOTO).example.pixels for said in (old, new))
        assert np.array_equal(one, other)
    assert not np.array_equal(*(Intake(said, (3, 56, 56)).take(PHOTO).example.pixels for said in (convnext, vit)))


def test_what_timm_says_is_read() -> None:
    config = {"input_size": [3, 32, 32], "crop_pct": 0.95, "interpolation": "bicubic", "crop_mode": "center"}
    said = said_by_timm({"pretrained_cfg": {**config, "mean": [0.5] * 3, "std": [0.2] * 3}})
    assert said == {"resample": 3, "size": {"shortest_edge": 33}, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    assert Intake(said, (3, 32, 32)).take(PHOTO).example.pixels.shape == (3, 32, 32)
    assert said_by_timm({"model_type": "resnet"}) == {}
    for wrong in ({"interpolation": "random"}, {"crop_mode": "squash"}):
        with pytest.raises(FileError, match=rf"{next(iter(wrong))} in config.json must be one of .*, but is '"):
            said_by_timm({"pretrained_cfg": {**config, **wrong}})


def test_where_nothing_is_said_it_is_imagenet_s_way() -> None:
    said = {**IMAGENET, "do_center_crop": True, "size": {"shortest_edge": 37}}
    silent, spoken = (Intake(values, (3, 32, 32)).take(PHOTO).example.pixels for values in ({}, said))
    assert np.array_equal(silent, spoken)


# Whatever form it has


def test_file_content_array_and_image_are_the_same_picture(tmp_path: Path) -> None:
    intake = Intake({}, (3, 32, 32))
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(PHOTO))
    forms: list[Any] = [path, str(path), path.read_bytes(), PHOTO, Image.fromarray(PHOTO)]
    first, *others = (intake.take(form) for form in forms)
    assert all(np.array_equal(first.example.pixels, other.example.pixels) for other in others)
    assert all(np.array_equal(PHOTO, each.pixels) for each in (first, *others))
    assert not np.array_equal(first.example.pixels, intake.take(PHOTO[::-1].copy()).example.pixels)


def test_grey_becomes_three_channels_and_colours_become_grey_as_pillow_has_it() -> None:
    grey = PHOTO[..., :1]
    coloured = Intake({}, (3, 32, 32))
    for form in (grey, grey[..., 0], Image.fromarray(grey[..., 0]), encoded(grey[..., 0])):
        found = coloured.take(form).pixels
        assert np.array_equal(found, np.repeat(grey, 3, axis=2))
    shades = Intake({"image_mean": [0.5], "image_std": [0.5]}, (1, 32, 32))
    wanted = read_picture(encoded(PHOTO), 1)
    assert np.abs(shades.take(PHOTO).pixels.astype(int) - wanted).max() <= 1
    assert np.array_equal(shades.take(encoded(PHOTO)).pixels, wanted)
    assert np.array_equal(shades.take(grey).pixels, grey)


# What is refused


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (PHOTO.astype(np.float32), UsageError, "must be whole numbers from 0 to 255 .* but is float32 of 70 x 95 x 3"),
        (np.zeros((4, 9, 9), np.uint8), UsageError, "must be .* height x width x 1 or 3, but is uint8 of 4 x 9 x 9"),
        (np.zeros((0, 9, 3), np.uint8), UsageError, "but is uint8 of 0 x 9 x 3"),
        (np.zeros(9, np.uint8), UsageError, "but is uint8 of 9"),
        ("nothing.png", UsageError, "nothing.png does not exist"),
        (b"words", FileError, "the picture: a picture must be JPEG, PNG, WebP, BMP or TIFF, but this is a text"),
        (encoded(PHOTO, "GIF"), FileError, "but this is a GIF; convert it"),
    ],
    ids=["floats", "channels first", "empty", "a row", "no file", "a text", "a gif"],
)
def test_what_is_no_picture_is_refused(source: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Intake({}, (3, 32, 32)).take(source)


def test_a_picture_is_called_by_its_name() -> None:
    with pytest.raises(FileError, match="^mine: a picture must"):
        Intake({}, (3, 32, 32)).take(b"words", "mine")
    fixed = Intake({**IMAGENET, "do_resize": False, "do_center_crop": False}, (3, 32, 32))
    with pytest.raises(FileError, match="^mine must be of 32 x 32 pixels, as the model takes it, but is 70 x 95"):
        fixed.take(PHOTO, "mine")


FILE = "preprocessor_config.json"
SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"rescale_factor": 1 / 127.5}, f"rescale_factor in {FILE} must be 1/255, but is 0.00784"),
    ({"do_rescale": False}, f"rescale_factor in {FILE} must be 1/255, but is 1.0"),
    ({"resample": 9}, f"resample in {FILE} must be from 0 to 5, Pillow's filters, but is 9"),
    ({"resample": "soft"}, f"{FILE} must say how pictures are made ready, but does not: .*'soft'"),
    ({"size": {"shortest_edge": "large"}}, f"{FILE} must say how pictures .*'large'"),
    ({"size": {"shortest_edge": 20}}, f"size in {FILE} must be at least the 32 pixels that the model takes, but is 20"),
    ({"image_mean": [0.5]}, f"{FILE} must say how pictures .* mean must have a number for each of the 3 channels"),
    ({"image_std": [0.0, 1.0, 1.0]}, f"{FILE} must say how pictures .* std"),
    ({"image_mean": 7}, f"{FILE} must say how pictures "),
    ({"dougong": 7}, f"{FILE} must say how pictures "),
    ({"dougong": {"views": "all"}}, f"{FILE} must say how pictures .*views"),
]


@pytest.mark.parametrize(("change", "said"), SETTINGS, ids=[str(change) for change, _ in SETTINGS])
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], said: str) -> None:
    sound = {**IMAGENET, "do_center_crop": True, "size": {"shortest_edge": 40}, "resample": 2}
    Intake(sound, (3, 32, 32))
    with pytest.raises(FileError, match=said):
        Intake({**sound, **change}, (3, 32, 32))


def test_a_model_of_other_than_one_or_three_channels_is_refused() -> None:
    with pytest.raises(FileError, match="must take pictures of 1 or 3 channels, but takes 4"):
        Intake({}, (4, 32, 32))
