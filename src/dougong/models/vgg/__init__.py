"""VGG: plain stacks of small convolutions (Simonyan and Zisserman 2015), configurations A, B, D and E.

Here are the config and the named sizes, which need no torch, so that a recipe is checked at once; the network is in
`network.py`. Knows no file format (see `checkpoint/convert/`), no objective and no data.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from dougong.core.config import Config, Fault
from dougong.nn.named import NormOverSpace, SpatialNorm

if TYPE_CHECKING:
    from torch import nn


class VGGConfig(Config):
    """A VGG. The defaults are those of configuration A, with 11 layers."""

    answers_as: ClassVar[str] = "image_classification"
    name: Literal["vgg"] = "vgg"
    """Which model family."""
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """Channels, height and width in pixels; absent: those of the data's pictures, or 3 x 224 x 224."""
    num_classes: PositiveInt | None = None
    """Number of classes; absent: that of the data."""
    depths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 1, 2, 2, 2)
    """Convolutions of each stage; a maximum over 2 x 2 after each stage halves height and width."""
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (64, 128, 256, 512, 512)
    """Channels of each stage."""
    norm: NormOverSpace = "none"
    """The norm after each convolution; over groups or none, no picture depends on the others of its batch."""
    norm_groups: PositiveInt | None = None
    """Groups of channels, if the norm is over groups; absent: 32."""
    pooled: PositiveInt = 7
    """Places, downwards and to the right, that the classifier sees: the last map is averaged to so many."""
    hidden_dim: PositiveInt = 4096
    """Width of the classifier's two hidden layers."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Probability of leaving out an element after each hidden layer, in training."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        if len(self.widths) != len(self.depths):
            yield Fault("widths", f"must have one number for each of {len(self.depths)} stages, but has {self.widths}.")
        if self.norm != "group" and self.norm_groups is not None:
            yield Fault("norm_groups", f"has no effect while norm is {self.norm}. Remove it.")
        groups = self.spatial_norm.groups
        odd = [width for width in self.widths if width % groups]
        if self.norm == "group" and odd:
            yield Fault("norm_groups", f"must divide every width, but {odd[0]} % {groups} is {odd[0] % groups}.")
        halved = 2 ** len(self.depths)
        small = self.image_shape is not None and min(self.image_shape[1:]) < halved
        if small and self.image_shape:
            sides = f"{self.image_shape[1]} x {self.image_shape[2]}"
            text = f"must have at least {halved} x {halved} pixels for {len(self.depths)} stages, but has {sides}."
            yield Fault("image_shape", f"{text} Take larger pictures or fewer stages.")

    @property
    def spatial_norm(self) -> SpatialNorm:
        """The norm after each convolution."""
        return SpatialNorm(self.norm, self.norm_groups or 32)

    def filled(self) -> VGGConfig:
        """Returns the same with the size of pictures written out."""
        return self if self.image_shape else self.replace(image_shape=IMAGENET_SHAPE)

    def trunk(self) -> nn.Module:
        """Returns the convolutions, not yet initialised: pictures to the maps of each stage, finest first."""
        return importlib.import_module(f"{__name__}.network").Trunk(self)

    def build(self) -> nn.Module:
        """Returns the model, not yet initialised.

        Raises:
            UsageError: The number of classes is not known.
        """
        return importlib.import_module(f"{__name__}.network").VGG(self)


PART = VGGConfig
IMAGENET_SHAPE = (3, 224, 224)
_DEPTHS = {"11": (1, 1, 2, 2, 2), "13": (2, 2, 2, 2, 2), "16": (2, 2, 3, 3, 3), "19": (2, 2, 4, 4, 4)}

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"vgg{layers}": {"depths": depths} for layers, depths in _DEPTHS.items()},
    **{f"vgg{layers}-bn": {"depths": depths, "norm": "batch"} for layers, depths in _DEPTHS.items()},
}

# Without batch statistics, by whose nature a picture in training depends on the others.
SMALL: dict[str, dict[str, Any]] = {
    "plain": {
        "num_classes": 3,
        "image_shape": (3, 20, 16),
        "depths": (1, 2),
        "widths": (4, 6),
        "pooled": 2,
        "hidden_dim": 10,
    },
    "grouped": {
        "num_classes": 4,
        "image_shape": (1, 9, 8),
        "depths": (2, 1),
        "widths": (4, 6),
        "norm": "group",
        "norm_groups": 2,
        "pooled": 1,
        "hidden_dim": 12,
        "dropout": 0.2,
    },
}


def __getattr__(name: str) -> Any:
    if name not in ("VGG", "Trunk", "example"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.network"), name)
