"""What `dougong data` shows are the very examples that training takes, as a person sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dougong.core import log
from dougong.core.errors import UsageError
from dougong.data.sheet import Tile, contact_sheet, unnormalised
from dougong.recipe import load
from dougong.run import showing
from dougong.run.parts import prepare
from dougong.run.showing import Shown, show
from tests.data.pictures import folder, voc_folder
from tests.faults.pictures_run import MODEL, TRAIN
from tests.tiny import tiny_recipe


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))


def recipe(root: Path, **data: Any) -> dict[str, Any]:
    values = {"name": "image_folder", "path": str(root), "size": 8, **data}
    return {"model": MODEL, "task": {"name": "image_classification"}, "data": values, "train": TRAIN}


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    return folder(tmp_path / "animals", {"cat": 20, "dog": 20})


def shown(source: Any, *arguments: Any, **options: Any) -> Shown:
    with log.listening(lambda line: None):
        return show(source, *arguments, **options)


def tiles_of(monkeypatch: pytest.MonkeyPatch) -> list[Tile]:
    """Returns a list that the tiles of the next sheet come into."""
    found: list[Tile] = []

    def sheet(tiles: list[Tile], names: Any) -> Image.Image:
        found.extend(tiles)
        return contact_sheet(tiles, names)

    monkeypatch.setattr(showing, "contact_sheet", sheet)
    return found


def test_facts_are_told_without_a_picture(animals: Path, tmp_path: Path) -> None:
    found = shown(recipe(animals, licence="CC0-1.0"))
    assert (found.sheet, found.texts) == (None, ())
    facts = found.facts
    assert (facts["classes"], facts["licence"], facts["source"]) == (["cat", "dog"], "CC0-1.0", str(animals))
    assert facts["training examples"] + facts["validation examples"] == 40
    [count] = facts["counts"]
    assert (count["read"], count["used"]) == (40, 40)
    assert json.loads(json.dumps(dict(facts))) == facts


def test_examples_are_those_of_training_in_their_order(
    animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = recipe(animals, augment=["crop", "flip", {"cutmix": {"probability": 0.5}}])
    tiles = tiles_of(monkeypatch)
    found = shown(values, tmp_path / "sheet.png", 12)
    assert found.sheet == tmp_path / "sheet.png"
    assert np.asarray(Image.open(found.sheet)).std() > 0
    with log.listening(lambda line: None):
        parts = prepare(load(values))
    mean, std = parts.data.config.scaling()
    batches = parts.batches()
    images = np.concatenate([batches[step]["images"].numpy() for step in (0, 1)])[:12]
    for tile, image in zip(tiles, images, strict=True):
        assert np.array_equal(tile.pixels, unnormalised(image, mean, std))
    captions = [tile.caption for tile in tiles]
    assert any(caption in ("cat", "dog") for caption in captions)
    assert any("% " in caption and ", " in caption for caption in captions)


def test_another_seed_shows_others(animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what is shown follows the run's seed."""
    tiles = tiles_of(monkeypatch)
    for seed in ("0", "0", "1"):
        shown(recipe(animals), tmp_path / "sheet.png", 5, overrides=[f"train.seed={seed}"])
    first, same, other = ([tile.pixels.tobytes() for tile in tiles[at : at + 5]] for at in (0, 5, 10))
    assert first == same != other


def test_those_to_validate_on_are_shown_as_they_are_seen(
    animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = tiles_of(monkeypatch)
    values = recipe(animals, resize=10, views="ten", augment=["flip"])
    apart = shown(values, tmp_path / "sheet.png", 999, validation=True).facts["validation examples"]
    assert len(tiles) == apart
    assert {tile.pixels.shape for tile in tiles} == {(8, 8, 3)}


def test_boxes_are_drawn_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = voc_folder(tmp_path / "voc", {str(n): [("cat", 1, 1, 9, 9), ("dog", 5, 2, 12, 11)] for n in range(6)})
    values = {
        "model": {"name": "retinanet", "trunk": {"name": "resnet", "variant": "resnet18"}},
        "task": {"name": "object_detection"},
        "data": {"name": "voc", "path": str(root), "size": [24, 32], "augment": ["flip"]},
        "train": TRAIN,
    }
    tiles = tiles_of(monkeypatch)
    shown(values, tmp_path / "sheet.png", 3)
    shown(values, tmp_path / "sheet.png", 3, validation=True)
    assert {tile.caption for tile in tiles} == {"2 objects"}
    assert all(tile.boxes is not None and tile.labels == [0, 1] for tile in tiles)
    assert np.array_equal(tiles[-1].boxes, [[0, 0, 18, 18], [8, 2, 24, 22]])


def test_digits_are_shown_as_brightness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    model = {**MODEL, "input": {"image": {"channels": 1, "height": 8, "width": 8}}}
    tiles = tiles_of(monkeypatch)
    shown({**recipe(tmp_path), "model": model, "data": {"name": "digits"}}, tmp_path / "sheet.png", 8)
    assert {tile.pixels.shape for tile in tiles} == {(8, 8, 1)}
    assert max(int(tile.pixels.max()) for tile in tiles) == 255
    assert all(tile.caption in "0123456789" for tile in tiles)


def test_text_is_printed(tmp_path: Path) -> None:
    found = shown(tiny_recipe(tmp_path), None, 3)
    assert len(found.texts) == 3
    assert found.sheet is None
    assert all("line" in text or "cat" in text or "mat" in text for text in found.texts)


def test_what_is_taken_all_at_once_is_shown_too(animals: Path, tmp_path: Path) -> None:
    values = recipe(animals)
    values["train"] = {**TRAIN, "batch_size": "all"}
    assert shown(values, tmp_path / "sheet.png", 200).sheet == tmp_path / "sheet.png"


def test_a_picture_without_a_file_and_fewer_than_none_are_refused(animals: Path) -> None:
    with pytest.raises(UsageError, match=r"a file must be named for the pictures\. Name it with --to FILE\.png"):
        shown(recipe(animals), None, 4)
    with pytest.raises(UsageError, match="must be 0 or more, but is -1"):
        shown(recipe(animals), None, -1)
