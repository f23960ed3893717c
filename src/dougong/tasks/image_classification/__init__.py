"""Image classification: name the class of a picture.

Here is the config, which needs no torch; the objective is in `objective.py`.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Literal

from pydantic import Field

from dougong.core.config import Config


class ImageClassificationConfig(Config):
    """Name the class of a picture."""

    about: ClassVar[str] = "pictures"
    name: Literal["image_classification"] = "image_classification"
    """The objective."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of each true class's probability that is spread over all classes (Szegedy et al. 2016)."""

    def build(self, model: Any, data: Any = None) -> Any:
        """Returns the task.

        Args:
            model: The model's config: gives `image_shape` (channels, height, width) and `num_classes`.
            data: The prepared data: gives `labels`, the names of the classes; None on the meta device.

        Raises:
            UsageError: A number is given by neither.
        """
        return importlib.import_module(f"{__name__}.objective").ImageClassification(self, model, data)


PART = ImageClassificationConfig
