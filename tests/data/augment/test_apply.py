from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch

from dougong.core.config import try_validate
from dougong.core.errors import UsageError
from dougong.data.augment import KINDS
from dougong.data.augment.apply import TONES, Pipeline
from dougong.data.examples import AnnotatedPicture, Picture
from dougong.data.image import center_crop, cover
from tests.data.augment.pictures import SIZE, Holder, classified, forms, noise, pipeline, rectangles, saying

PLAIN = [word for word, kind in KINDS.items() if kind.for_classes]
BOXED = [word for word, kind in KINDS.items() if kind.no_boxes is None]
CHAIN = (
    *("crop", "flip", "flip_vertical", saying("affine"), "rotate", saying("colour"), "grey", "lighting", "blur"),
    *("rand_augment", "erase", "mixup", "cutmix"),
)
SAMPLES = 40


# The result


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("word", PLAIN)
def test_what_comes_out_is_a_picture_of_the_size(word: str, channels: int) -> None:
    pipe = pipeline(saying(word))
    for height, width in [(50, 60), (60, 50), SIZE, (17, 12), (2, 2), (2, 300)]:
        picture = noise(height, width, channels)
        for number in range(4):
            pixels, _, share = pipe.classified(picture, lambda i: picture, 1, np.random.default_rng(number))  # noqa: B023
            assert pixels.shape == (*SIZE, channels)
            assert (pixels.dtype, pixels.flags.writeable, pixels.base is None or channels == 1) == (
                np.uint8,
                True,
                True,
            )
            assert 0 <= share <= 1


@pytest.mark.parametrize("word", PLAIN)
def test_the_picture_that_is_given_stays_as_it_is(word: str) -> None:
    picture = noise(*SIZE)
    before = picture.pixels.copy()
    picture.pixels.flags.writeable = False
    for number in range(6):
        pixels = pipeline(saying(word)).classified(picture, lambda i: picture, 1, np.random.default_rng(number))[0]
        pixels[:] = 0
    assert np.array_equal(picture.pixels, before)


def test_without_augmentation_a_picture_is_as_in_evaluation() -> None:
    picture = noise(70, 50)
    pixels, other, share = pipeline().classified(picture, lambda i: picture, 1, np.random.default_rng(0))
    assert np.array_equal(pixels, center_crop(cover(picture.pixels, *SIZE), *SIZE))
    assert (other, share) == (None, 1.0)


def test_a_picture_with_alpha_is_refused_in_a_sentence() -> None:
    picture = noise(channels=4)
    with pytest.raises(UsageError, match="must have one channel or three, but has 4. Decode it as grey or as RGB."):
        pipeline("flip").classified(picture, lambda i: picture, 1, np.random.default_rng(0))


def test_scale_crop_that_makes_pictures_too_small_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="to at least the 224 pixels that the model takes, but begins at 200. Raise"):
        Pipeline(forms({"scale_crop": [200, 300]}), (224, 224))


def test_grey_pictures_have_no_hue_to_turn_and_no_colours_to_lose() -> None:
    plain, words = classified(pipeline(), 3, 1)[0], [{"colour": {"hue": 0.5}}, {"colour": {"saturation": 1.0}}]
    for word in [*words, {"grey": 1.0}, {"lighting": 5.0}]:
        assert np.array_equal(classified(pipeline(word), 3, 1)[0], plain)
        assert not np.array_equal(classified(pipeline(word), 3, 3)[0], classified(pipeline(), 3, 3)[0])
    assert not np.array_equal(classified(pipeline({"colour": {"brightness": 0.9}}), 3, 1)[0], plain)


# Every option changes something


def alternatives(annotation: Any, value: Any) -> list[Any]:
    """Returns other values of an option, some of which are allowed."""
    if get_origin(annotation) is Literal:
        return [other for other in get_args(annotation) if other != value]
    if isinstance(value, tuple):
        low, high = value
        middle = (low + high) // 2 if isinstance(low, int) else (low + high) / 2
        return [(low, middle), (low / 2, high)] if middle != high else [(low / 2, high)]
    if value is None:
        return [0.9]
    return [value + 3] if isinstance(value, int) else [value / 2, value + 1.0]


def samples(word: str, options: dict[str, Any], boxes: bool) -> list[Any]:
    pipe = pipeline({word: options})
    if not boxes:
        return [part for number in range(SAMPLES) for part in classified(pipe, number)]
    pictures = [pipe.annotated(rectangles(number), np.random.default_rng(number)) for number in range(SAMPLES)]
    return [part for each in pictures for part in (each.pixels, each.boxes)]


def idle_options(words: list[str]) -> set[str]:
    """Returns the options of augmentations that change no picture."""
    idle = set()
    for word in words:
        (form,) = forms(saying(word))
        options, boxes = form.model_dump()[word], not KINDS[word].for_classes
        before = samples(word, options, boxes)
        for name, field in KINDS[word].model_fields.items():
            others = [{**options, name: other} for other in alternatives(field.annotation, getattr(form, name))]
            allowed = [other for other in others if try_validate(Holder, {"augment": [{word: other}]})[0] is not None]
            assert allowed, f"{word}.{name} has no other value to try"
            after = samples(word, allowed[0], boxes)
            if len(before) == len(after) and all(map(np.array_equal, before, after)):
                idle.add(f"{word}.{name}")
    return idle


def test_every_option_of_every_augmentation_changes_the_picture() -> None:
    assert idle_options(list(KINDS)) == set()


def test_an_option_that_changes_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TONES, "lighting", lambda picture, options, rng: picture)
    assert idle_options(["lighting", "grey"]) == {"lighting.std"}


# Randomness is a function (law 1)


def digest(pipe: Pipeline, numbers: list[int]) -> dict[int, str]:
    """Returns a hash of each of some samples, made in the order that is given."""
    made = {number: classified(pipe, number) for number in numbers}
    return {
        number: hashlib.sha256(pixels.tobytes() + repr((other, share)).encode()).hexdigest()
        for number, (pixels, other, share) in made.items()
    }


def differs_by_order(pipe: Pipeline) -> bool:
    numbers = list(range(SAMPLES))
    return digest(pipe, numbers) != digest(pipe, numbers[::-1])


def from_the_global_generator(picture: Any, options: Any, rng: np.random.Generator) -> Any:
    return picture.point(lambda level: level ^ int(np.random.randint(256)))


def touches_global_generators(make: Callable[[], Any]) -> bool:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2]  # type: ignore[index,union-attr]
    make()
    after = torch.get_rng_state(), np.random.get_state()[1], np.random.get_state()[2]  # type: ignore[index]
    return not (torch.equal(before[0], after[0]) and np.array_equal(before[1], after[1]) and before[2] == after[2])


@pytest.mark.parametrize("word", [*PLAIN, "all"])
def test_a_sample_is_a_function_of_its_number_whatever_came_before(word: str) -> None:
    pipe = pipeline(*(CHAIN if word == "all" else [saying(word)]))
    assert not touches_global_generators(lambda: digest(pipe, [0, 1, 2, 3]))
    assert not differs_by_order(pipe)


@pytest.mark.parametrize("word", BOXED)
def test_so_is_a_sample_with_boxes(word: str) -> None:
    pipe = pipeline(saying(word))

    def made(numbers: range) -> dict[int, AnnotatedPicture]:
        return {n: pipe.annotated(rectangles(n), np.random.default_rng(n)) for n in numbers}

    assert not touches_global_generators(lambda: made(range(4)))
    one, two = made(range(10)), made(range(9, -1, -1))
    assert all(np.array_equal(one[n].pixels, two[n].pixels) for n in one)
    assert all(np.array_equal(one[n].boxes, two[n].boxes) for n in one)


def test_a_draw_from_the_global_generator_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TONES, "lighting", from_the_global_generator)
    np.random.seed(0)
    assert touches_global_generators(lambda: digest(pipeline("lighting"), [0]))
    assert differs_by_order(pipeline("lighting"))


def test_samples_are_the_same_in_threads_and_in_other_processes() -> None:
    pipe, numbers = pipeline(*CHAIN), list(range(SAMPLES))
    expected = digest(pipe, numbers)
    assert len(set(expected.values())) == SAMPLES
    with ThreadPoolExecutor(4) as pool:
        assert {
            n: made for each in pool.map(lambda n: digest(pipe, [n]), numbers) for n, made in each.items()
        } == expected
    code = (
        "import tests.data.augment.test_apply as t, tests.data.augment.pictures as p;"
        f"print(t.digest(p.pipeline(*t.CHAIN), {numbers[::-1]}))"
    )
    root = Path(__file__).parents[3]
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "2", "PYTHONPATH": str(root)},
        **{"capture_output": True, "text": True, "check": True, "cwd": root},  # type: ignore[call-overload]
    )
    assert process.stdout.strip() == repr({number: expected[number] for number in numbers[::-1]})


# What is drawn, how often


def times(pipe: Pipeline, picture: Picture, changed: Callable[[np.ndarray], bool], of: int) -> int:
    return sum(
        changed(pipe.classified(picture, lambda i: picture, 1, np.random.default_rng((3, number)))[0])
        for number in range(of)
    )


def bounds(probability: float, of: int) -> tuple[float, float]:
    """Returns between what the number of successes lies, but for one time in fifteen thousand."""
    spread = 4 * (of * probability * (1 - probability)) ** 0.5
    return of * probability - spread, of * probability + spread


@pytest.mark.parametrize("word", ["flip", "flip_vertical", "grey", "erase", "blur"])
@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_what_has_a_probability_happens_as_often(word: str, probability: float) -> None:
    picture, of = noise(*SIZE), 1000
    options = {"probability": probability} | ({"sigma": [2.0, 3.0]} if word == "blur" else {})
    count = times(pipeline({word: options}), picture, lambda pixels: not np.array_equal(pixels, picture.pixels), of)
    low, high = bounds(probability, of)
    assert low < count < high
    low, high = bounds(probability + 0.15, of)
    assert not low < count < high  # the bounds are narrow enough to tell


def test_pad_crop_moves_to_every_place_alike() -> None:
    pixels = np.zeros((*SIZE, 1), dtype=np.uint8)
    pixels[16, 20] = 255
    picture, pipe, places = Picture(pixels, 0), pipeline({"pad_crop": 2}), np.zeros((5, 5))
    for number in range(2500):
        moved = pipe.classified(picture, lambda i: picture, 1, np.random.default_rng(number))[0]
        row, column = np.argwhere(moved[..., 0] == 255)[0]
        places[row - 14, column - 18] += 1
    low, high = bounds(1 / 25, 2500)
    assert (low < places).all()
    assert (places < high).all()


def test_crops_have_the_areas_and_shapes_that_are_asked_for() -> None:
    down, right = np.mgrid[:256, :256].astype(np.uint8)
    picture = Picture(np.stack([down, right, right], axis=-1), 0)  # whose colours say where they come from
    pipe, areas, shapes = pipeline({"crop": {"scale": [0.2, 0.6], "ratio": [0.5, 2.0]}}, size=(64, 64)), [], []
    for number in range(400):
        pixels = pipe.classified(picture, lambda i: picture, 1, np.random.default_rng(number))[0].astype(float)
        height, width = ((pixels[-1, -1, axis] - pixels[0, 0, axis]) * 64 / 63 for axis in (0, 1))
        areas.append(height * width / 256**2)
        shapes.append(width / height)
    assert 0.19 < min(areas) < 0.22
    assert 0.58 < max(areas) < 0.61
    assert 0.48 < min(shapes) < 0.55
    assert 1.8 < max(shapes) < 2.08
    assert abs(np.mean(areas) - 0.4) < 0.03
    assert abs(np.mean(np.log(shapes))) < 0.1


def test_scale_crop_scales_the_shorter_side() -> None:
    down, right = np.mgrid[:200, :100].astype(np.uint8)
    picture, pipe = (
        Picture(np.stack([down, right, right], axis=-1), 0),
        pipeline({"scale_crop": [80, 120]}, size=(64, 64)),
    )
    sides = []
    for number in range(200):
        pixels = pipe.classified(picture, lambda i: picture, 1, np.random.default_rng(number))[0].astype(float)
        steps = [(pixels[-1, -1, axis] - pixels[0, 0, axis]) / 63 for axis in (0, 1)]
        assert abs(steps[0] / steps[1] - 1) < 0.06  # the shape of things is kept
        sides.append(100 / steps[1])
    assert 77 < min(sides) < 84
    assert 117 < max(sides) < 125
