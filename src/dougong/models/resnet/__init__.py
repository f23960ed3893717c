"""Residual networks for pictures: He et al. 2016, for ImageNet (18 to 152 layers) and for CIFAR (6 n + 2 layers).

Here are the config and the named sizes, which need no torch, so that a recipe is checked at once; the network is in
`network.py`. Knows no file format (see `checkpoint/convert/`), no objective and no data.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from dougong.core.config import Config, Fault
from dougong.nn.named import NormOverSpace, SpatialNorm

if TYPE_CHECKING:
    from torch import nn


class ResNetConfig(Config):
    """A residual network. The defaults are those of ResNet-18."""

    answers_as: ClassVar[str] = "image_classification"
    name: Literal["resnet"] = "resnet"
    """Which model family."""
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """Channels, height and width in pixels; absent: those of the data's pictures, or 3 x 224 x 224."""
    num_classes: PositiveInt | None = None
    """Number of classes; absent: that of the data."""
    block: Literal["basic", "bottleneck"] = "basic"
    """`basic`: two convolutions of 3 x 3; `bottleneck`: 1 x 1, 3 x 3 and 1 x 1, the last four times as wide."""
    depths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (2, 2, 2, 2)
    """Blocks of each stage; every stage but the first halves height and width."""
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (64, 128, 256, 512)
    """Channels inside the blocks of each stage."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """`imagenet`: 7 x 7 with stride 2, then a maximum over 3 x 3 with stride 2; `cifar`: 3 x 3 alone."""
    stem_dim: PositiveInt | None = None
    """Channels after the stem; absent: as in the first stage."""
    shortcut: Literal["projection", "padded"] = "projection"
    """How a shortcut changes its size: option B, a convolution of 1 x 1, or option A, zeros for the new channels."""
    strided: Literal["first", "middle"] = "middle"
    """Which convolution of a bottleneck has the stride: the 1 x 1, as in the paper, or the 3 x 3 ("V1.5")."""
    norm: NormOverSpace = "batch"
    """The norm after each convolution; over groups or none, no picture depends on the others of its batch."""
    norm_groups: PositiveInt | None = None
    """Groups of channels, if the norm is over groups; absent: 32."""
    zero_init_residual: bool = False
    """Whether the last norm of each block begins at 0, so that the block begins as the identity (Goyal et al. 2017)."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        if len(self.widths) != len(self.depths):
            yield Fault("widths", f"must have one number for each of {len(self.depths)} stages, but has {self.widths}.")
        if self.block == "basic" and self.strided != "middle":
            yield Fault("strided", "has no effect while block is basic. Remove it.")
        if self.norm != "group" and self.norm_groups is not None:
            yield Fault("norm_groups", f"has no effect while norm is {self.norm}. Remove it.")
        if self.norm == "none" and self.zero_init_residual:
            yield Fault("zero_init_residual", "has no effect while norm is none. Remove it.")
        groups = self.spatial_norm.groups
        odd = [width for width in (self.width_of_stem, *self.widths) if width % groups]
        if self.norm == "group" and odd:
            yield Fault("norm_groups", f"must divide every width, but {odd[0]} % {groups} is {odd[0] % groups}.")
        widths = (self.width_of_stem, *self.widths_out)
        if self.shortcut == "padded" and any(after < before for before, after in pairwise(widths)):
            yield Fault("shortcut", "must be projection where a stage has fewer channels than the one before it.")

    @property
    def width_of_stem(self) -> int:
        """Channels after the stem."""
        return self.stem_dim or self.widths[0]

    @property
    def widths_out(self) -> tuple[int, ...]:
        """Channels that each stage gives."""
        return tuple(width * (4 if self.block == "bottleneck" else 1) for width in self.widths)

    @property
    def spatial_norm(self) -> SpatialNorm:
        """The norm after each convolution."""
        return SpatialNorm(self.norm, self.norm_groups or 32)

    def filled(self) -> ResNetConfig:
        """Returns the same with the size of pictures written out."""
        return self if self.image_shape else self.replace(image_shape=IMAGENET_SHAPE)

    def trunk(self) -> nn.Module:
        """Returns the network below the head, not yet initialised: pictures to the maps of each stage, finest first."""
        return importlib.import_module(f"{__name__}.network").Trunk(self)

    def build(self) -> nn.Module:
        """Returns the model, not yet initialised.

        Raises:
            UsageError: The number of classes is not known.
        """
        return importlib.import_module(f"{__name__}.network").ResNet(self)


PART = ResNetConfig
IMAGENET_SHAPE = (3, 224, 224)


def _imagenet(block: str, *depths: int) -> dict[str, Any]:
    return {"block": block, "depths": depths}


def _cifar(n: int) -> dict[str, Any]:
    """Returns the sizes of the network of 6 n + 2 layers (section 4.2)."""
    return {"depths": (n, n, n), "widths": (16, 32, 64), "stem": "cifar", "shortcut": "padded"}


VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18": _imagenet("basic", 2, 2, 2, 2),
    "resnet34": _imagenet("basic", 3, 4, 6, 3),
    "resnet50": _imagenet("bottleneck", 3, 4, 6, 3),
    "resnet101": _imagenet("bottleneck", 3, 4, 23, 3),
    "resnet152": _imagenet("bottleneck", 3, 8, 36, 3),
    "resnet50-v1": {**_imagenet("bottleneck", 3, 4, 6, 3), "strided": "first"},
    "resnet101-v1": {**_imagenet("bottleneck", 3, 4, 23, 3), "strided": "first"},
    "resnet152-v1": {**_imagenet("bottleneck", 3, 8, 36, 3), "strided": "first"},
    "cifar-resnet20": _cifar(3),
    "cifar-resnet32": _cifar(5),
    "cifar-resnet44": _cifar(7),
    "cifar-resnet56": _cifar(9),
    "cifar-resnet110": _cifar(18),
}

# With norms over groups or none, as by the nature of batch statistics a picture in training depends on the others.
_GROUPED = {"num_classes": 3, "norm": "group", "norm_groups": 2}
SMALL: dict[str, dict[str, Any]] = {
    "basic": {**_GROUPED, "image_shape": (3, 20, 24), "depths": (1, 2), "widths": (4, 8)},
    "bottleneck": {
        **_GROUPED,
        "image_shape": (3, 16, 16),
        "block": "bottleneck",
        "depths": (1, 1),
        "widths": (4, 6),
        "stem_dim": 8,
    },
    "cifar": {"num_classes": 4, "norm": "none", "image_shape": (1, 9, 8), **_cifar(1), "widths": (4, 6, 6)},
}


def __getattr__(name: str) -> Any:
    if name not in ("ResNet", "Trunk", "example"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.network"), name)
