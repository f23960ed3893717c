from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dougong.data.augment import KINDS
from dougong.data.augment.apply import MOVES, TONES
from dougong.data.examples import AnnotatedPicture
from dougong.data.image import letterbox
from tests.data.augment.pictures import GROUND, SIZE, found, noise, pipeline, rectangles, saying

LARGE = (240, 260)  # larger than the pictures, so that a pixel's breadth is small
MOVING: list[Any] = [
    "flip",
    "flip_vertical",
    "rotate",
    {"rotate": 90},
    saying("affine"),
    {"affine": {"shear": 30}},
    {"affine": {"translate": 0.4}},
    {"affine": {"scale": [0.5, 2.0]}},
    "box_crop",
    {"box_crop": {"enlarge": 3.0}},
    {"scale_jitter": [0.4, 2.0]},
]


def check(word: Any, size: tuple[int, int], seeds: range = range(25)) -> int:
    """Asserts that each box is the box around the pixels of its object; returns how many boxes were lost."""
    pipe, lost = pipeline(word, size=size), 0
    for seed in seeds:
        given = rectangles(seed)
        picture = pipe.annotated(given, np.random.default_rng(seed))
        assert picture.pixels.shape == (*size, 3)
        assert (picture.boxes.dtype, picture.number) == (np.float32, given.number)
        assert picture.ignored.tolist() == [label == 1 for label in picture.labels]
        shown = np.rint(min(size[0] / 120, size[1] / 160) * np.array([160, 120]))  # the rest is padding
        lost += 3 - len(picture.boxes)
        for box, label in zip(picture.boxes, picture.labels, strict=True):
            around = found(picture.pixels, int(label))
            assert around is not None, (word, seed, label)
            # A mixed pixel at the edge may count as either, and enlarging makes several of one.
            grown = max(1.0, float(np.max(np.array(size) / given.pixels.shape[:2])))
            turned = (isinstance(word, dict) and "affine" in word) or "rotate" in word
            tolerance = (2.5 if turned else 1.5) * grown
            inside = np.concatenate([box[:2] - around[:2], around[2:] - box[2:]])
            assert inside.max() < tolerance, (word, seed, label, box, around)
            edge = (box[:2] <= 0.01).tolist() + (box[2:] >= shown - 0.01).tolist()
            if not turned or not any(edge):  # of a slanted object that is cut off, less is seen than its box holds
                assert inside.min() > -tolerance, (word, seed, label, box, around)
    return lost


@pytest.mark.parametrize("word", MOVING, ids=str)
@pytest.mark.parametrize("size", [(120, 160), LARGE, (90, 200)])
def test_boxes_are_those_of_the_pixels(word: Any, size: tuple[int, int]) -> None:
    check(word, size)


def test_words_that_move_nothing_leave_boxes_where_the_fit_puts_them() -> None:
    for word in [word for word in TONES if KINDS[word].no_boxes is None]:
        pipe, plain = pipeline(saying(word), size=LARGE), pipeline(size=LARGE)
        for seed in range(5):
            one, two = (each.annotated(rectangles(seed), np.random.default_rng(seed)) for each in (pipe, plain))
            assert np.array_equal(one.boxes, two.boxes)
            assert np.array_equal(one.labels, two.labels)


@pytest.mark.parametrize("word", ["flip", "flip_vertical", "rotate", "box_crop", "scale_jitter"])
def test_boxes_that_stay_behind_are_noticed(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    move = MOVES[word]

    def without_boxes(scene: Any, *rest: Any) -> Any:
        return replace(scene, picture=move(scene, *rest).picture)

    monkeypatch.setitem(MOVES, word, without_boxes)
    with pytest.raises(AssertionError):
        check({word: {"degrees": 45} if word == "rotate" else None}, (120, 160))


def test_without_augmentation_a_picture_is_letterboxed_as_in_evaluation() -> None:
    given = rectangles(0)
    picture = pipeline(size=(100, 50)).annotated(given, np.random.default_rng(0))
    pixels, (down, right) = letterbox(given.pixels, 100, 50)
    assert np.array_equal(picture.pixels, pixels)
    assert np.allclose(picture.boxes, given.boxes * [right, down, right, down])
    assert (picture.pixels[38:] == 0).all()
    assert check("flip", (100, 50)) == 0


@pytest.mark.parametrize("word", [word for word, kind in KINDS.items() if kind.no_boxes is None])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_without_objects_and_of_one_channel_come_through(word: str, channels: int) -> None:
    for height, width in [(50, 60), (2, 2), (3, 200), SIZE]:
        pixels = noise(height, width, channels).pixels
        empty = AnnotatedPicture(pixels, np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool), 3)
        for seed in range(5):
            picture = pipeline(saying(word)).annotated(empty, np.random.default_rng(seed))
            assert picture.pixels.shape == (*SIZE, channels)
            assert (picture.boxes.shape, picture.labels.shape, picture.ignored.shape) == ((0, 4), (0,), (0,))


def test_box_crop_always_leaves_an_object_and_drops_those_it_cuts() -> None:
    lost = [
        len(pipeline("box_crop").annotated(rectangles(seed), np.random.default_rng(seed)).boxes) for seed in range(200)
    ]
    assert min(lost) >= 1
    assert {1, 2, 3} == set(lost)


def test_the_visible_share_decides_which_cut_object_counts() -> None:
    kept = []
    for visible in (0.01, None, 0.95):
        pipe = pipeline({"box_crop": {"probability": 1.0, "visible": visible}})
        kept.append(sum(len(pipe.annotated(rectangles(s), np.random.default_rng(s)).boxes) for s in range(100)))
    assert kept[0] > kept[1] + 20 > kept[2] + 40


def test_enlarging_puts_the_picture_on_a_black_ground() -> None:
    pipe = pipeline({"box_crop": {"probability": 0.001, "enlarge": 4.0}}, size=(120, 160))
    black = [
        float((pipe.annotated(rectangles(seed), np.random.default_rng(seed)).pixels == 0).all(-1).mean())
        for seed in range(200)
    ]
    assert 0.4 < np.mean([share == 0 for share in black]) < 0.6
    assert 0.85 < max(black) < 0.95


def test_a_box_too_thin_to_be_found_is_dropped() -> None:
    pixels = np.full((400, 400, 3), GROUND, dtype=np.uint8)
    boxes = np.array([[10, 10, 15, 200], [10, 10, 200, 200], [30, 30, 30, 90]], dtype=np.float32)
    given = AnnotatedPicture(pixels, boxes, np.array([4, 5, 6]), np.zeros(3, bool), 0)
    assert pipeline(size=(40, 40)).annotated(given, np.random.default_rng(0)).labels.tolist() == [5]
    assert pipeline(size=(400, 400)).annotated(given, np.random.default_rng(0)).labels.tolist() == [4, 5]


def test_jitter_scales_as_it_says() -> None:
    pipe, widths = pipeline({"scale_jitter": [0.5, 1.0]}, size=(120, 160)), []
    for seed in range(100):
        given = rectangles(1)
        picture = pipe.annotated(given, np.random.default_rng(seed))
        widths.append((picture.boxes[:, 2] - picture.boxes[:, 0]) / (given.boxes[:, 2] - given.boxes[:, 0]))
    assert 0.49 < np.min(widths) < 0.53
    assert 0.97 < np.max(widths) < 1.01
