"""What the tests of augmentation share: lists as recipes write them, pictures of noise, and pictures of rectangles."""

from __future__ import annotations

from typing import Any

import numpy as np

from dougong.core.config import Config, validate
from dougong.data.augment import Augmentation, Augmentations
from dougong.data.augment.apply import Pipeline
from dougong.data.examples import AnnotatedPicture, Picture

SIZE = (32, 40)
GROUND = 128
# One colour for each class: one channel is bright and the others are dark.
PAINTS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))

# Where a word alone says nothing, or may change nothing: what to write beside it.
SAYING: dict[str, dict[str, Any]] = {
    "affine": {"degrees": 20, "translate": 0.1, "scale": [0.8, 1.2], "shear": 10},
    "colour": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2},
    "scale_crop": {"shorter": [48, 64]},
}


class Holder(Config):
    """A config that holds a list of augmentations, as that of a dataset does."""

    augment: Augmentations
    """The list."""


def forms(*words: Any) -> list[Augmentation]:
    return validate(Holder, {"augment": list(words)}).augment


def saying(word: str) -> dict[str, Any]:
    return {word: SAYING.get(word)}


def pipeline(*words: Any, size: tuple[int, int] = SIZE) -> Pipeline:
    return Pipeline(forms(*words), size)


def noise(height: int = 50, width: int = 60, channels: int = 3, number: int = 0) -> Picture:
    """Returns a picture of coarse noise, so that every change of it shows."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (-(-height // 5), -(-width // 5), channels), dtype=np.uint8)
    return Picture(small.repeat(5, 0).repeat(5, 1)[:height, :width].copy(), number)


def classified(pipe: Pipeline, number: int, channels: int = 3) -> tuple[np.ndarray, int | None, float]:
    """Returns sample `number`, among ten pictures of noise."""
    rng = np.random.default_rng((7, number))
    picture = noise(channels=channels, number=number % 10)
    return pipe.classified(picture, lambda i: noise(channels=channels, number=i), 10, rng)


def rectangles(seed: int, height: int = 120, width: int = 160) -> AnnotatedPicture:
    """Returns grey with a rectangle of each colour, none over another."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), GROUND, dtype=np.uint8)
    boxes = []
    for number, paint in enumerate(PAINTS):
        third = width // 3
        left, right = number * third + _ends(third, rng)
        top, bottom = _ends(height, rng)
        pixels[top:bottom, left:right] = paint
        boxes.append([left, top, right, bottom])
    return AnnotatedPicture(
        pixels, np.array(boxes, dtype=np.float32), np.arange(3), np.array([False, True, False]), 100 + seed
    )


def _ends(length: int, rng: np.random.Generator) -> np.ndarray:
    """Returns where something begins and ends, at least ten pixels later, away from both edges."""
    return np.sort(rng.choice(length - 14, 2, replace=False)) + np.array([2, 12])


def found(pixels: np.ndarray, label: int) -> np.ndarray | None:
    """Returns the box around the pixels of a class's colour, or None where there is none."""
    others = np.delete(pixels, label, axis=-1).max(-1)
    rows, columns = np.nonzero((pixels[..., label] > 160) & (others < 96))
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
