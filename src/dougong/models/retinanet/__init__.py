"""RetinaNet, which finds objects in one look (Lin et al. 2017b): a trunk, a feature pyramid, and two heads.

Here are the config and the named sizes, which need no torch, so that a recipe is checked at once; the network is in
`network.py`. The trunk is any model whose config has a method `trunk`. Knows no file format (see
`checkpoint/convert/`), no objective and no data.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_core import core_schema

from dougong.core.config import Config, Fault, Part, find_part, part_names
from dougong.nn.named import NormOverSpace, SpatialNorm

if TYPE_CHECKING:
    from torch import nn


class TrunkPart(Part):
    """Marks a field whose config is that of a model with a trunk."""

    def names(self) -> list[str]:
        """Returns the names of the models that have a trunk."""
        return [name for name in part_names(self.kind) if _has_trunk(find_part(self.kind, name).PART)]

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        # Not of all models: this one is among them, and would be described within itself without end.
        parts = [find_part(self.kind, name).PART for name in self.names()]
        return handler(core_schema.union_schema([part.__pydantic_core_schema__ for part in parts]))


def _has_trunk(config: Any) -> bool:
    return callable(getattr(config, "trunk", None))


class RetinaNetConfig(Config):
    """A RetinaNet. The defaults are the paper's."""

    answers_as: ClassVar[str] = "object_detection"
    name: Literal["retinanet"] = "retinanet"
    """Which model family."""
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """Channels, height and width in pixels; absent: those of the data's pictures, or 3 x 512 x 512."""
    num_classes: PositiveInt | None = None
    """Number of classes, without one for nothing; absent: that of the data."""
    trunk: Annotated[Config, TrunkPart("models")]
    """The model whose maps are read, without its head: `{name: resnet, variant: resnet50}`."""
    finest_stride: PositiveInt = 8
    """Of the trunk's maps those are read whose places are at least so many pixels apart; 4 is for small objects."""
    extra_levels: NonNegativeInt = 2
    """How many coarser maps follow the trunk's coarsest, each half as high and wide as the one before."""
    extra_from: Literal["c5", "p5"] = "c5"
    """What the first of them is made from: the trunk's coarsest map (c5), or the pyramid's (p5)."""
    pyramid_dim: PositiveInt = 256
    """Channels of all levels of the pyramid, and inside the heads."""
    pyramid_norm: NormOverSpace = "none"
    """The norm in the pyramid; a network that begins with random weights needs one."""
    head_layers: NonNegativeInt = 4
    """Convolutions of each head before its last."""
    head_norm: Literal["group", "none"] = "none"
    """The norm in the heads, which all levels share: so none whose statistics would be those of the last level."""
    norm_groups: PositiveInt | None = None
    """Groups of channels, if a norm is over groups; absent: 32."""
    anchor_size: PositiveFloat = 4.0
    """Side of a level's smallest anchor, in steps from one place to the next: with 4, of 8 pixels each, 32 pixels."""
    anchor_scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    """By what that side is multiplied, for each of a place's sizes."""
    anchor_ratios: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Height over width, for each of a place's shapes."""
    prior: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    """Probability that the network gives to each class at each place when it begins (section 3.3)."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        if not _has_trunk(self.trunk):
            names = " or ".join(TrunkPart("models").names())
            yield Fault("trunk.name", f"must be a model with a trunk ({names}), but is {self.trunk.name}.")  # type: ignore[attr-defined]
        for name in ("image_shape", "num_classes"):
            if getattr(self.trunk, name, None) is not None:
                yield Fault(f"trunk.{name}", f"has no effect, as model.{name} decides. Remove it.")
        if not self.extra_levels and self.extra_from != type(self).model_fields["extra_from"].default:
            yield Fault("extra_from", "has no effect while extra_levels is 0. Remove it.")
        grouped = "group" in (self.pyramid_norm, self.head_norm)
        groups = self.norm_groups or 32
        if not grouped and self.norm_groups is not None:
            yield Fault("norm_groups", "has no effect while no norm is over groups. Remove it.")
        if grouped and self.pyramid_dim % groups:
            rest = self.pyramid_dim % groups
            yield Fault("norm_groups", f"must divide pyramid_dim, but {self.pyramid_dim} % {groups} is {rest}.")
        if not self.head_layers and self.head_norm != "none":
            yield Fault("head_norm", "has no effect while head_layers is 0. Remove it.")

    @property
    def norms(self) -> tuple[SpatialNorm, SpatialNorm]:
        """The norms of the pyramid and of the heads."""
        groups = self.norm_groups or 32
        return SpatialNorm(self.pyramid_norm, groups), SpatialNorm(self.head_norm, groups)

    @property
    def num_anchors(self) -> int:
        """How many anchors stand at each place."""
        return len(self.anchor_scales) * len(self.anchor_ratios)

    def filled(self) -> RetinaNetConfig:
        """Returns the same with the size of pictures written out."""
        return self if self.image_shape else self.replace(image_shape=PICTURE_SHAPE)

    def build(self) -> nn.Module:
        """Returns the model, not yet initialised.

        Raises:
            UsageError: The number of classes is not known, or the trunk's maps or the anchors do not fit.
        """
        return importlib.import_module(f"{__name__}.network").RetinaNet(self)


PART = RetinaNetConfig
PICTURE_SHAPE = (3, 512, 512)


def _on(trunk: str, **values: Any) -> dict[str, Any]:
    return {"trunk": {"name": "resnet", "variant": trunk}, **values}


# The heads of "v2" have a norm (Zhang et al. 2020, "ATSS", table 2 has what it brings).
VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18-fpn": _on("resnet18"),
    "resnet50-fpn": _on("resnet50", extra_from="p5"),
    "resnet50-fpn-v2": _on("resnet50", head_norm="group"),
    "resnet101-fpn": _on("resnet101"),
}

# Without batch statistics, by whose nature a picture in training depends on the others.
_NARROW = {"name": "resnet", "norm": "group", "norm_groups": 2, "depths": (1, 1, 1), "widths": (4, 4, 6)}
SMALL: dict[str, dict[str, Any]] = {
    "plain": {
        "image_shape": (3, 32, 48),
        "num_classes": 3,
        "trunk": _NARROW,
        "pyramid_dim": 6,
        "head_layers": 1,
        "extra_from": "p5",
        "anchor_scales": (1.0, 1.5),
        "anchor_ratios": (0.5, 2.0),
    },
    "normed": {
        "image_shape": (1, 16, 32),
        "num_classes": 2,
        "trunk": {"name": "vgg", "norm": "group", "norm_groups": 2, "depths": (1, 1, 1), "widths": (4, 4, 6)},
        "finest_stride": 2,
        "extra_levels": 0,
        "pyramid_dim": 8,
        "pyramid_norm": "group",
        "head_layers": 2,
        "head_norm": "group",
        "norm_groups": 4,
        "anchor_size": 3.0,
        "anchor_scales": (1.0,),
        "anchor_ratios": (0.7, 1.0),
        "prior": 0.1,
    },
}


def __getattr__(name: str) -> Any:
    if name not in ("RetinaNet", "example"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.network"), name)
