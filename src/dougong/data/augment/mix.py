"""What mixes two pictures: MixUp and CutMix. Knows arrays of one size; does not know where the second comes from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dougong.data.augment import CutMix, MixUp
from dougong.data.image import Pixels


def mixup(first: Pixels, second: Pixels, options: MixUp, rng: np.random.Generator) -> tuple[Pixels, float]:
    """Returns the weighted mean, rounded to whole numbers, and the share of the first (Zhang et al. 2018, eq. 1)."""
    share = float(rng.beta(options.alpha, options.alpha))
    mean = first * np.float32(share) + second * np.float32(1 - share)
    return np.rint(mean).astype(np.uint8), share


def cutmix(first: Pixels, second: Pixels, options: CutMix, rng: np.random.Generator) -> tuple[Pixels, float]:
    """Returns the first with a rectangle of the second, and the share of the area that is left of the first.

    Yun et al. 2019, equations 1 and 2; a rectangle that reaches over the edge is cut there.
    """
    rows, columns = first.shape[:2]
    side = math.sqrt(1 - rng.beta(options.alpha, options.alpha))
    top, bottom = _along(rows, round(rows * side), rng)
    left, right = _along(columns, round(columns * side), rng)
    mixed = first.copy()
    mixed[top:bottom, left:right] = second[top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (rows * columns)


def _along(length: int, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Returns where a side begins and ends, whose middle is anywhere."""
    start = int(rng.integers(length)) - side // 2
    return max(0, start), min(length, start + side)


MIXES: dict[str, Callable[[Pixels, Pixels, Any, np.random.Generator], tuple[Pixels, float]]] = {
    "mixup": mixup,
    "cutmix": cutmix,
}
