"""ResNets under torchvision's names, which timm's are too: `layer1.0.conv1.weight`.

A folder of timm says the architecture by its name; torchvision's files say nothing but names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dougong.checkpoint.convert import (
    Layout,
    Piece,
    Shapes,
    norm_names,
    timm_classes,
    timm_name,
    timm_shape,
    variant_values,
)

MODEL_TYPE = "timm-resnet"
PREFIX = ""
IGNORED = r".*num_batches_tracked"
TIED: dict[str, str] = {}

_PLACES = {"first": "1", "middle": "2"}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of our config, of a folder of timm.

    Raises:
        FileError: It is of a kind that is not built here.
    """
    values = variant_values("resnet", timm_name(config))
    return {**values, "image_shape": timm_shape(config), "num_classes": timm_classes(config)}


def write_config(values: Mapping[str, Any]) -> None:
    """Returns nothing: what we write opens in transformers."""


def recognise(shapes: Shapes) -> dict[str, Any] | None:
    """Returns the values of our config for a file of torchvision's, or None if it is none of a ResNet."""
    if "conv1.weight" not in shapes or "fc.weight" not in shapes or "layer1.0.conv1.weight" not in shapes:
        return None
    return {**trunk_values(shapes), "num_classes": shapes["fc.weight"][0]}


def trunk_values(shapes: Shapes, prefix: str = "") -> dict[str, Any]:
    """Returns the values of the trunk, whose tensors' names begin with a prefix."""
    depths: list[int] = []
    while f"{prefix}layer{len(depths) + 1}.0.conv1.weight" in shapes:
        stage = rf"{re.escape(prefix)}layer{len(depths) + 1}\.\d+\.conv1\.weight"
        depths.append(sum(re.fullmatch(stage, name) is not None for name in shapes))
    stages = range(1, len(depths) + 1)
    stem = shapes[f"{prefix}conv1.weight"]
    return {
        "name": "resnet",
        "image_shape": (stem[1], 224, 224),
        "block": "bottleneck" if f"{prefix}layer1.0.conv3.weight" in shapes else "basic",
        "depths": depths,
        "widths": [shapes[f"{prefix}layer{stage}.0.conv1.weight"][0] for stage in stages],
        "stem_dim": stem[0],
    }


def layout(values: Mapping[str, Any], names: Iterable[str]) -> Layout:
    """Returns where each tensor lies."""
    return {name: (Piece(foreign(name, values["block"])),) for name in names}


def foreign(name: str, block: str) -> str:
    """Returns torchvision's name of a tensor of ours."""
    if name.startswith("head."):
        return name.replace("head", "fc")
    name = norm_names(name.removeprefix("trunk."))
    if name.startswith("stem.mixed."):
        return _numbered(name.removeprefix("stem.mixed."), "1")
    found = re.fullmatch(r"stages\.(\d+)\.(\d+)\.(\w+)\.(.+)", name)
    assert found is not None, name
    stage, number, place, rest = found.groups()
    before = f"layer{int(stage) + 1}.{number}."
    if place == "shortcut":
        return before + "downsample." + rest.replace("convolution.", "0.").replace("norm.", "1.")
    last = "3" if block == "bottleneck" else "2"
    return before + _numbered(rest, _PLACES.get(place, last))


def _numbered(rest: str, number: str) -> str:
    return rest.replace("convolution.", f"conv{number}.").replace("norm.", f"bn{number}.")
