"""What all datasets of pictures let a recipe say: sizes, normalisation, views, random changes, bad files.

Knows the fields and how they must fit each other; needs no arrays, so that a recipe is checked at once. What is made of
them is in `viewing.py`, `classified.py` and `annotated.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from dougong.core.config import Config, Fault
from dougong.data.augment import Augmentations, faults_of
from dougong.data.split import HeldOutConfig

Mean = Annotated[list[Annotated[float, Field(ge=0.0, le=1.0)]], Field(min_length=1, max_length=3)]
Std = Annotated[list[PositiveFloat], Field(min_length=1, max_length=3)]
Side = Annotated[int, Field(ge=1, le=16384)]
Size = Annotated[list[Side], Field(min_length=2, max_length=2)]
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and standard deviation of ImageNet's training pictures, for red, green and blue from 0 to 1."""
_HALF = ([0.5], [0.5])


class PicturesConfig(Config):
    """What the datasets of pictures have in common.

    Attributes:
        has_boxes: Whether objects are to be found in them, rather than a class told.
    """

    has_boxes: ClassVar[bool] = False
    channels: Literal[1, 3] = 3
    """Numbers of a pixel: 1 (shades of grey) or 3 (red, green, blue)."""
    mean: Mean | None = None
    """Mean of each channel, from 0 to 1, that is taken away; absent: ImageNet's for 3 channels, 0.5 for 1."""
    std: Std | None = None
    """Standard deviation of each channel that is divided by; absent: ImageNet's for 3 channels, 0.5 for 1."""
    augment: Augmentations = Field(default_factory=list)
    """Random changes of the training pictures, in this order; absent: they are treated as in evaluation."""
    max_pixels: Annotated[int, Field(ge=4, le=170_000_000)] = 40_000_000
    """Pixels of the largest picture that is decoded."""
    licence: str = "unknown"
    """Licence of the pictures, for the model card."""
    max_bad_samples: NonNegativeInt = 0
    """Bad samples (broken or missing pictures, rows and labels) to leave aside before reading stops."""

    def faults(self) -> Iterator[Fault]:
        """Yields the faults of means and deviations that are not one for each channel, and of the augmentations."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.channels:
                yield Fault(
                    name, f"must have a number for each of the {self.channels} channels, but has {len(values)}."
                )
        yield from faults_of(self.augment, boxes=self.has_boxes)

    def scaling(self) -> tuple[list[float], list[float]]:
        """Returns mean and standard deviation of each channel."""
        mean, std = IMAGENET if self.channels == 3 else _HALF
        return self.mean or mean, self.std or std


class ClassifiedConfig(PicturesConfig):
    """What the datasets of pictures to classify have in common."""

    size: Side | Size | None = None
    """Height and width that the model takes, in pixels; absent: all pictures are of one size, and stay of it."""
    resize: Side | None = None
    """Shorter side before the middle is cut out, in evaluation; absent: what just covers `size`."""
    views: Literal["center", "ten", "grid"] = "center"
    """What is averaged in evaluation: the middle; `ten`: corners, middle, all mirrored; `grid`: 5 by 5, mirrored."""
    scales: Annotated[list[Side], Field(min_length=1)] | None = None
    """Several shorter sides, instead of `resize`, whose views are averaged."""
    draft: bool = False
    """Whether a large JPEG is decoded smaller, to no less than twice what is needed: quicker, slightly other pixels."""

    def faults(self) -> Iterator[Fault]:
        """Yields the faults of sizes that are too small for each other, or have no effect."""
        yield from super().faults()
        if self.size is None:
            for name in ("resize", "scales", "draft"):
                if getattr(self, name):
                    yield Fault(name, "needs a size to cut pictures to, but size is absent. Set size.")
        if self.resize is not None and self.scales is not None:
            yield Fault("resize", "must be absent where scales are given. Remove one of the two.")
        least = max(self.height_and_width or (1, 1))
        strictly = self.views != "center"
        for field, side in self._sides():
            if side < least or (strictly and side == least):
                wish = "larger than" if strictly else "at least"
                yield Fault(field, f"must be {wish} size, which is {least}, but is {side}.")
        if strictly and not self._sides():
            yield Fault("views", f"must be center, but is {self.views!r}: nothing is cut away. Set resize beyond size.")

    @property
    def height_and_width(self) -> tuple[int, int] | None:
        """The size that the model takes, if the recipe gives it."""
        if self.size is None:
            return None
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])

    def _sides(self) -> list[tuple[str, int]]:
        """Returns the shorter sides that pictures are resized to, and the field that names each."""
        if self.resize is not None:
            return [("resize", self.resize)]
        return [(f"scales[{number}]", side) for number, side in enumerate(self.scales or [])]

    def seen_shape(self) -> dict[str, Any]:
        """Returns `image_shape` (channels, height, width), if the recipe gives it."""
        size = self.height_and_width
        return {} if size is None else {"image_shape": (self.channels, *size)}


class SplitConfig(ClassifiedConfig):
    """Pictures to classify that may come with a part of their own to validate on."""

    validation: HeldOutConfig | None = None
    """Which pictures are kept apart to validate on, by a hash of each file; absent: a tenth, if no part is named."""

    @property
    def held_out(self) -> HeldOutConfig:
        """Which pictures are kept apart where no part to validate on is named."""
        return self.validation or HeldOutConfig()


class AnnotatedConfig(PicturesConfig):
    """What the datasets of pictures with objects to find have in common."""

    has_boxes: ClassVar[bool] = True
    size: Size
    """Height and width that the model takes, in pixels: each picture is made to fit, and the rest filled."""

    def seen_shape(self) -> dict[str, Any]:
        """Returns `image_shape` (channels, height, width)."""
        return {"image_shape": (self.channels, *self.size)}
