"""What Pillow makes of pictures, compared with kornia, another library, which computes in floating point."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dougong.data.augment.geometry import Scene, image_of, mapped, pixels_of
from dougong.data.augment.tone import CHANGES, enhanced, turned
from tests.data.augment.pictures import noise

kornia = pytest.importorskip("kornia", reason="kornia is compared with, but not installed")

LEVEL = 0.6
TONES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "brightness": (
        lambda x: enhanced(x, "brightness", 0.7),
        lambda x: kornia.enhance.adjust_brightness_accumulative(x, 0.7),
    ),
    "contrast": (
        lambda x: enhanced(x, "contrast", 1.4),
        lambda x: kornia.enhance.adjust_contrast_with_mean_subtraction(x, 1.4),
    ),
    "saturation": (
        lambda x: enhanced(x, "saturation", 1.4),
        lambda x: kornia.enhance.adjust_saturation_with_gray_subtraction(x, 1.4),
    ),
    "hue": (lambda x: turned(x, 0.2), lambda x: kornia.enhance.adjust_hue(x, 0.2 * 2 * math.pi)),
    "sharpness": (
        lambda x: CHANGES["sharpness"](x, LEVEL, 1),
        lambda x: kornia.enhance.sharpness(x, 1 + 0.9 * LEVEL),
    ),
    "solarize": (
        lambda x: CHANGES["solarize"](x, LEVEL, 1),
        lambda x: kornia.enhance.solarize(x, math.ceil(256 * (1 - LEVEL)) / 255),
    ),
    "autocontrast": (
        lambda x: CHANGES["autocontrast"](x, LEVEL, 1),
        lambda x: kornia.enhance.normalize_min_max(x),
    ),
}


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def apart(one: Any, two: torch.Tensor) -> float:
    """Returns the mean distance of two pictures, in steps of brightness."""
    return float((tensor(pixels_of(one)) - two).abs().mean()) * 255


@pytest.mark.parametrize("name", TONES)
def test_colours_are_those_of_kornia(name: str) -> None:
    ours, theirs = TONES[name]
    pixels = noise().pixels // 2 + 40  # so that it can be stretched
    made, wanted = ours(image_of(pixels)), theirs(tensor(pixels))
    assert apart(made, wanted) < 1.5
    assert apart(image_of(pixels), wanted) > 3  # which leaving it as it is would not pass


@pytest.mark.parametrize("sign", [1, -1])
def test_affine_maps_are_those_of_kornia(sign: int) -> None:
    pixels = np.array(
        Image.fromarray(noise(60, 80).pixels).resize((80, 60), Image.Resampling.BICUBIC, (20, 20, 40, 40))
    )
    angle, move = sign * 0.3, (5.0, -3.0)
    linear = 1.2 * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    scene = Scene(image_of(pixels), np.zeros((0, 4)), np.zeros(0, dtype=int))
    # Kornia counts from the middle of the first pixel.
    centre = torch.tensor([[39.5, 29.5]])
    degrees, scale = torch.tensor([math.degrees(angle)]), torch.tensor([[1.2, 1.2]])
    matrix = kornia.geometry.get_affine_matrix2d(torch.tensor([move]), centre, scale, degrees)[:, :2]
    wanted = kornia.geometry.warp_affine(tensor(pixels), matrix, (60, 80))
    assert apart(mapped(scene, linear, move).picture, wanted) < 2
    assert apart(mapped(scene, linear.T, move).picture, wanted) > 8
