"""What changes a picture's colours and leaves its objects where they are; and the changes that RandAugment draws from.

Every draw comes from the generator that is given. Knows Pillow, whose whole numbers come out the same in any thread and
on any machine; knows no boxes. A picture has one channel or three; what needs colours leaves one of one channel alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from dougong.data.augment import Blur, Colour, Erase, Grey, Lighting, RandAugment
from dougong.data.augment.geometry import between, either, image_of, part

Picture = Image.Image
Row = tuple[float | int, float | int, float | int]

HUES = 255  # Pillow counts hues from 0 to 254; 255 is 0 again
MAGNITUDES = 31  # RandAugment's magnitude goes from 0 to 30

# The spread of ImageNet's colours (0 to 1) along their principal components: red, green and blue of each, as columns.
SPREAD = np.array([0.2175, 0.0188, 0.0045])
COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

ENHANCERS: dict[str, Callable[[Picture], Any]] = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


def colour(picture: Picture, options: Colour, rng: np.random.Generator) -> Picture:
    """Returns the picture with brightness, contrast, saturation and hue changed, in a random order."""
    names = list(type(options).model_fields)
    for number in rng.permutation(len(names)):
        name = names[number]
        most = getattr(options, name)
        if name == "hue":
            picture = turned(picture, either(rng, most))
        else:
            picture = enhanced(picture, name, between(rng, (max(0.0, 1 - most), 1 + most)))
    return picture


def enhanced(picture: Picture, what: str, factor: float) -> Picture:
    """Returns the picture with so many times the brightness, contrast, saturation or sharpness."""
    return picture if factor == 1 else ENHANCERS[what](picture).enhance(factor)


def turned(picture: Picture, turns: float) -> Picture:
    """Returns the picture with its hues moved around their circle; to a 255th of a turn."""
    if picture.mode == "L" or turns == 0:
        return picture
    hue, saturation, value = picture.convert("HSV").split()
    hue = hue.point([(level + round(turns * HUES)) % HUES for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def grey(picture: Picture, options: Grey, rng: np.random.Generator) -> Picture:
    """Returns the picture without colours, or as it is."""
    return picture.convert("L").convert(picture.mode) if rng.random() < options.probability else picture


def lighting(picture: Picture, options: Lighting, rng: np.random.Generator) -> Picture:
    """Returns the picture with each colour moved by the same number everywhere."""
    moves = 255 * COMPONENTS @ (SPREAD * rng.normal(0, options.std, 3))
    if picture.mode == "L":
        return picture
    levels = np.clip(np.round(np.arange(256) + moves[:, None]), 0, 255).astype(int)
    return picture.point(levels.ravel().tolist())


def blur(picture: Picture, options: Blur, rng: np.random.Generator) -> Picture:
    """Returns the picture blurred, or as it is."""
    sigma, often = between(rng, options.sigma), rng.random() < options.probability
    return picture.filter(ImageFilter.GaussianBlur(sigma)) if often else picture


def erase(picture: Picture, options: Erase, rng: np.random.Generator) -> Picture:
    """Returns the picture with a rectangle covered, or as it is."""
    if rng.random() >= options.probability:
        return picture
    window = part((picture.height, picture.width), options.scale, options.ratio, rng)
    if window is None:
        return picture
    left, top, right, bottom = window
    shape = (bottom - top, right - left, len(picture.getbands()))
    cover = rng.integers(0, 256, shape, dtype=np.uint8) if options.fill == "noise" else np.zeros(shape, np.uint8)
    covered = picture.copy()
    covered.paste(image_of(cover), (left, top))
    return covered


# RandAugment


def rand_augment(picture: Picture, options: RandAugment, rng: np.random.Generator) -> Picture:
    """Returns the picture after a few changes, drawn with repetition, each to either side."""
    level = options.magnitude / (MAGNITUDES - 1)
    for number in rng.integers(len(CHANGES), size=options.num_ops):
        sign = 1 if rng.random() < 0.5 else -1
        picture = list(CHANGES.values())[number](picture, level, sign)
    return picture


def _skewed(picture: Picture, right: Row, down: Row) -> Picture:
    """Returns the picture that has at each place what was at the place these rows of a matrix say."""
    return picture.transform(picture.size, Image.Transform.AFFINE, (*right, *down), resample=Image.Resampling.BILINEAR)


def _enhancing(what: str) -> Callable[[Picture, float, int], Picture]:
    return lambda picture, level, sign: enhanced(picture, what, 1 + sign * 0.9 * level)


# The fourteen changes, by picture, strength from 0 to 1, and side (table 6 of Cubuk et al. 2019, AutoAugment).
CHANGES: dict[str, Callable[[Picture, float, int], Picture]] = {
    "identity": lambda picture, level, sign: picture,
    "autocontrast": lambda picture, level, sign: ImageOps.autocontrast(picture),
    "equalize": lambda picture, level, sign: ImageOps.equalize(picture),
    "solarize": lambda picture, level, sign: ImageOps.solarize(picture, math.ceil(256 * (1 - level))),
    "posterize": lambda picture, level, sign: ImageOps.posterize(picture, 8 - round(4 * level)),
    "saturation": _enhancing("saturation"),
    "contrast": _enhancing("contrast"),
    "brightness": _enhancing("brightness"),
    "sharpness": _enhancing("sharpness"),
    "rotate": lambda picture, level, sign: picture.rotate(sign * 30 * level, Image.Resampling.BILINEAR),
    "shear_x": lambda picture, level, sign: _skewed(picture, (1, sign * 0.3 * level, 0), (0, 1, 0)),
    "shear_y": lambda picture, level, sign: _skewed(picture, (1, 0, 0), (sign * 0.3 * level, 1, 0)),
    "translate_x": lambda picture, level, sign: _skewed(
        picture, (1, 0, sign * 150 / 331 * level * picture.width), (0, 1, 0)
    ),
    "translate_y": lambda picture, level, sign: _skewed(
        picture, (1, 0, 0), (0, 1, sign * 150 / 331 * level * picture.height)
    ),
}
