"""Object detection: find the objects in a picture, and name the class of each.

Here is the config, which needs no torch; the objective is in `objective.py`, the figures in `figures.py`.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from dougong.core.config import Config

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class ObjectDetectionConfig(Config):
    """Find the objects in a picture, and name the class of each."""

    about: ClassVar[str] = "pictures"
    name: Literal["object_detection"] = "object_detection"
    """The objective."""
    focal_alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    """Weight of the class that is there; those that are not have the rest of 1 (Lin et al. 2017b, eq. 5)."""
    focal_gamma: NonNegativeFloat = 2.0
    """How much less what is already known counts in the loss of the classes."""
    box_beta: NonNegativeFloat = 0.0
    """Up to which error of a box its loss is a parabola (smooth L1); 0: nowhere (L1)."""
    box_weight: NonNegativeFloat = 1.0
    """Weight of the boxes' loss beside that of the classes."""
    score_threshold: Share = 0.05
    """Only what is surer than this is taken for an object."""
    nms_threshold: Share = 0.5
    """Of two objects of one class that overlap by more than this, the less sure one is left out."""
    candidates: PositiveInt = 1000
    """How many objects of each level are looked at, before overlaps are."""
    max_detections: PositiveInt = 100
    """How many objects of a picture are taken, in the end."""

    def build(self, model: Any, data: Any = None) -> Any:
        """Returns the task.

        Args:
            model: The model's config: gives `image_shape` (channels, height, width) and `num_classes`.
            data: The prepared data: gives `labels`, the names of the classes; None on the meta device.

        Raises:
            UsageError: A number is given by neither.
        """
        return importlib.import_module(f"{__name__}.objective").ObjectDetection(self, model, data)


PART = ObjectDetectionConfig
