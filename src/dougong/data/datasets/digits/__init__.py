"""Handwritten digits that come with scikit-learn: 1,797 pictures of 8 by 8 in shades of grey, with nothing to fetch.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dougong.core.config import Config, Fault
from dougong.data.augment import Augmentations, faults_of
from dougong.data.split import HeldOutConfig


class DigitsConfig(Config):
    """Scikit-learn's handwritten digits, 8 by 8 (Alpaydin and Kaynak 1998)."""

    name: Literal["digits"] = "digits"
    """Which dataset."""
    validation: HeldOutConfig = HeldOutConfig(fraction=0.2)
    """Which pictures are kept apart to validate on."""
    augment: Augmentations = Field(default_factory=list)
    """Random changes of the training pictures, in this order; absent: they stay as they are."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong in the list of augmentations."""
        yield from faults_of(self.augment)

    def foreseen(self) -> dict[str, Any]:
        """Returns what of the model the data decides and is known before it is read."""
        return {"num_classes": 10, "image_shape": (1, 8, 8)}

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads the pictures; neither a cache nor a context is needed.

        Raises:
            MissingExtra: Scikit-learn is not installed.
        """
        return importlib.import_module(f"{__name__}.prepared").DigitsData(self)


PART = DigitsConfig
