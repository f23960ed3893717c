from __future__ import annotations

import numpy as np
import pytest

from dougong.core.config import validate
from dougong.core.errors import RecipeError
from dougong.data.datasets.digits import DigitsConfig
from dougong.data.loader import augmented, order

pytest.importorskip("sklearn")
KNOWN = "cc68e327"
"""How the fingerprint begins without augmentation: runs that were begun before it existed go on."""


def test_pixels_go_from_zero_to_one_and_nothing_is_drawn() -> None:
    data = DigitsConfig().prepare()
    train = data.train[0][0]
    assert (len(train), len(data.validation), data.fingerprint[:8]) == (1452, 345, KNOWN)
    assert (train.pixels.min(), train.pixels.max(), train[0].pixels.shape) == (0.0, 1.0, (1, 8, 8))
    assert not hasattr(data, "augment")


def test_augmentation_changes_training_alone() -> None:
    plain = DigitsConfig().prepare()
    data = validate(DigitsConfig, {"augment": [{"pad_crop": 1}, {"mixup": 0.5}]}).prepare()
    examples = augmented(order(data.train, 1), data.augment, 1)
    assert (examples[3].pixels.shape, examples[3].pixels.dtype) == ((1, 8, 8), np.float32)
    assert all(0 <= examples[n].pixels.min() <= examples[n].pixels.max() <= 1 for n in range(50))
    assert any(examples[n].other is not None for n in range(50))
    assert np.array_equal(data.validation[5].pixels, plain.validation[5].pixels)
    assert data.fingerprint != plain.fingerprint


def test_change_that_changes_nothing_gives_nearly_the_same_pixels() -> None:
    plain = DigitsConfig().prepare().train[0][0]
    data = validate(DigitsConfig, {"augment": [{"flip": 1.0}]}).prepare()
    rng = np.random.default_rng(0)
    for number in range(20):
        flipped = data.augment(data.train[0][0][number], rng).pixels
        assert np.abs(flipped[..., ::-1] - plain[number].pixels).max() <= 0.5 / 255 + 1e-6


def test_augmentation_for_boxes_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"augment\[0\] \(box_crop\) must be given boxes"):
        validate(DigitsConfig, {"augment": ["box_crop"]})
