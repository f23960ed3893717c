"""ResNet folders: `ResNetForImageClassification` of transformers.

The size of pictures stands in no field of theirs; it goes under `image_size`, which transformers keeps and ignores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dougong.checkpoint.convert import Layout, Piece, need, norm_names, number_of_labels, refuse

MODEL_TYPE = "resnet"
PREFIX = "resnet."
IGNORED = r".*\.num_batches_tracked"
TIED: dict[str, str] = {}

_FIXED = {"name": "resnet", "norm": "batch", "stem": "imagenet", "shortcut": "projection"}
_PLACES = {"basic": ("first", "last"), "bottleneck": ("first", "middle", "last")}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of our config.

    Raises:
        FileError: It asks for a computation that we do not have.
    """
    for key, wanted in (("hidden_act", "relu"), ("downsample_in_first_stage", False)):
        if config.get(key, wanted) != wanted:
            raise refuse(key, str(wanted).lower(), config[key])
    block = config.get("layer_type", "bottleneck")
    if block not in _PLACES:
        raise refuse("layer_type", "basic or bottleneck", block)
    side = config.get("image_size", 224)
    size = side if isinstance(side, list) else [side, side]
    first = block == "bottleneck" and config.get("downsample_in_bottleneck", False)
    return {
        **_FIXED,
        "image_shape": [config.get("num_channels", 3), *size],
        "num_classes": number_of_labels(config),
        "block": block,
        "depths": need(config, "depths"),
        "widths": [size // (4 if block == "bottleneck" else 1) for size in need(config, "hidden_sizes")],
        "stem_dim": need(config, "embedding_size"),
        "strided": "first" if first else "middle",
        "zero_init_residual": config.get("zero_init_residual", False),
    }


def write_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns their config, or None where their ResNet cannot compute what ours says."""
    if not all(values.get(key) == value for key, value in _FIXED.items()):
        return None
    channels, *size = values["image_shape"] or (3, 224, 224)
    expansion = 4 if values["block"] == "bottleneck" else 1
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": MODEL_TYPE,
        "num_channels": channels,
        "image_size": size,
        "embedding_size": values["stem_dim"] or values["widths"][0],
        "hidden_sizes": [width * expansion for width in values["widths"]],
        "depths": list(values["depths"]),
        "layer_type": values["block"],
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": values["strided"] == "first",
        "zero_init_residual": values["zero_init_residual"],
        "num_labels": values["num_classes"],
    }


def layout(values: Mapping[str, Any], names: Iterable[str]) -> Layout:
    """Returns where each tensor lies."""
    return {name: (Piece(_foreign(name, _PLACES[values["block"]])),) for name in names}


def counters(names: Iterable[str]) -> list[str]:
    """Returns the names of their count of batches beside each running mean; without them transformers warns."""
    before = (name.removesuffix("running_mean") for name in names if name.endswith(".running_mean"))
    return [name + "num_batches_tracked" for name in before]


def _foreign(name: str, places: tuple[str, ...]) -> str:
    if name.startswith("head."):
        return name.replace("head", "classifier.1")
    name = norm_names(name.removeprefix("trunk."))
    name = name.replace(".norm.", ".normalization.")
    if name.startswith("stem.mixed."):
        return "resnet.embedder.embedder." + name.removeprefix("stem.mixed.")
    found = re.fullmatch(r"stages\.(\d+)\.(\d+)\.(\w+)\.(.+)", name)
    assert found is not None, name
    stage, block, place, rest = found.groups()
    inner = "shortcut" if place == "shortcut" else f"layer.{places.index(place)}"
    return f"resnet.encoder.stages.{stage}.layers.{block}.{inner}.{rest}"
