from __future__ import annotations

import numpy as np
import pytest

from dougong.core.errors import UsageError
from dougong.data.image import normalise
from dougong.data.sheet import Tile, annotated_picture, colour_of, contact_sheet, unnormalised
from tests.conftest import shared

GREY = np.full((60, 80, 3), 128, dtype=np.uint8)


def places(picture: object, colour: tuple[int, int, int]) -> np.ndarray:
    """Returns the rows and columns that have a colour."""
    return np.argwhere((np.asarray(picture) == colour).all(-1))


def test_a_box_is_drawn_around_its_object_in_the_colour_of_its_class() -> None:
    boxes = np.array([[10.2, 30, 39.6, 50], [50, 25, 70, 45]], dtype=np.float32)
    picture = annotated_picture(GREY, boxes, [0, 3], names=["a", "b", "c", "d"])
    assert picture.size == (80, 60)
    for box, label in zip(boxes, (0, 3), strict=True):
        found = places(picture, colour_of(label))
        columns, rows = found[:, 1], found[:, 0]
        assert (columns.min(), columns.max() + 1, rows.max() + 1) == (*np.rint(box[[0, 2]]), box[3])
        inside = np.asarray(picture)[int(box[1]) + 4 : int(box[3]) - 4, int(box[0]) + 5 : int(box[2]) - 5]
        assert (inside == 128).all()


def test_labels_and_scores_are_written() -> None:
    boxes = np.array([[10, 30, 40, 50]], dtype=np.float32)
    bare = np.asarray(annotated_picture(GREY, boxes, [1]))
    named = np.asarray(annotated_picture(GREY, boxes, [1], names=["x", "heron"]))
    scored = np.asarray(annotated_picture(GREY, boxes, [1], [0.5], ["x", "heron"]))
    assert not np.array_equal(bare, named)
    assert not np.array_equal(named, scored)
    for picture in (bare, named, scored):
        assert (picture[:30] != 128).any()  # above the box
        assert (picture[51:] == 128).all()


@pytest.mark.parametrize("box", [[0, 0, 80, 60], [70, 0, 80, 5], [-20, -20, 200, 200], [79, 59, 79, 59], [5, 5, 4, 4]])
def test_boxes_at_or_over_the_edge_are_drawn(box: list[float]) -> None:
    picture = annotated_picture(GREY, np.array([box], dtype=np.float32), [0], [1.0], ["a very long name of a class"])
    assert picture.size == (80, 60)
    assert len(places(picture, colour_of(0)))


def test_the_surest_box_is_over_the_others() -> None:
    boxes = np.array([[10, 30, 40, 50]] * 2, dtype=np.float32)
    for scores, on_top, below in ([0.9, 0.1], 0, 1), ([0.1, 0.9], 1, 0):
        picture = annotated_picture(GREY, boxes, [0, 1], scores)
        assert len(places(picture, colour_of(on_top))) > len(places(picture, colour_of(below)))


def test_classes_have_colours_of_their_own() -> None:
    colours = np.array([colour_of(label) for label in range(40)])
    assert len(np.unique(colours, axis=0)) == 40
    assert colour_of(1234) == colour_of(1234)


def test_a_sheet_holds_every_picture_once_in_reading_order() -> None:
    shades = [30 * (number + 1) for number in range(7)]
    tiles = [Tile(np.full((10, 20, 1), shade, dtype=np.uint8), f"number {shade}") for shade in shades]
    sheet = np.asarray(contact_sheet(tiles, side=100, columns=3))
    middles = []
    for shade in shades:
        found = places(sheet, (shade, shade, shade))
        inside = found[(np.asarray(sheet)[found[:, 0], found[:, 1] - 1] == shade).all(-1)]
        middles.append(np.median(inside, axis=0))
        assert len(found) >= 100 * 50  # fitted into the square, its shape kept
    rows, columns = np.array(middles).T
    assert np.array_equal(np.lexsort((columns.round(-1), rows.round(-1))), np.arange(7))
    assert sheet.shape[1] == 3 * 108 + 8


def test_captions_are_written_and_cut_where_they_are_too_long() -> None:
    def ink(caption: str) -> int:
        return int((np.asarray(contact_sheet([Tile(GREY, caption)], side=100)) < 100).any(-1).sum())

    assert ink("") == 0
    assert 0 < ink("cat") < ink("cat\ndog")
    assert abs(ink("w" * 50) - ink("w" * 500)) == 0
    assert contact_sheet([Tile(GREY, "w" * 500)], side=100).width == 116


def test_a_small_picture_is_enlarged_with_its_boxes() -> None:
    pixels = np.zeros((8, 8, 1), dtype=np.uint8)
    pixels[2:4, 2:6] = 255
    box = np.array([[2, 2, 6, 4]], dtype=np.float32)
    bare = np.asarray(contact_sheet([Tile(pixels)], side=160))
    assert set(np.unique(bare)) == {0, 255}  # nothing smoothed
    lines = places(contact_sheet([Tile(pixels, "", box)], side=160), colour_of(0))
    assert (lines.min(0) - 8).tolist() == [40, 40]
    assert (lines.max(0) - 7).tolist() == [80, 120]


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="must have at least one picture, but has none"):
        contact_sheet([])


def test_unnormalised_is_the_way_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    assert np.array_equal(unnormalised(normalise(pixels, mean, std), mean, std), pixels)
    assert not np.array_equal(unnormalised(normalise(pixels, mean, std), mean, std[::-1]), pixels)
    far = np.array([[[-9.0]], [[9.0]], [[0.0]]], dtype=np.float32)
    assert unnormalised(far, mean, std).tolist() == [[[0, 255, 153]]]


def test_real_photographs_make_a_sheet() -> None:
    from PIL import Image

    paths = sorted(shared("data/images/trashnet").glob("*/*.jpg"))[:6]
    tiles = [Tile(np.asarray(Image.open(path).convert("RGB")), path.parent.name) for path in paths]
    sheet = contact_sheet(tiles)
    assert sheet.width >= 2 * 224
    assert np.asarray(sheet).std() > 10
