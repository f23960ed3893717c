"""VGG folders of timm, whose classifier is two convolutions: `pre_logits.fc1.weight`. The rest is torchvision's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dougong.checkpoint.convert import Layout, Piece, timm_classes, timm_name, timm_shape, variant_values
from dougong.checkpoint.convert.torchvision_vgg import foreign

MODEL_TYPE = "timm-vgg"
PREFIX = ""
IGNORED = r".*num_batches_tracked"
TIED: dict[str, str] = {}

_CLASSIFIER = {"hidden.0": "pre_logits.fc1", "hidden.1": "pre_logits.fc2", "head": "head.fc"}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of our config, of a folder of timm.

    Raises:
        FileError: It is of a kind that is not built here.
    """
    values = variant_values("vgg", timm_name(config).replace("_", "-"))
    return {**values, "image_shape": timm_shape(config), "num_classes": timm_classes(config)}


def write_config(values: Mapping[str, Any]) -> None:
    """Returns nothing: it is a form that we only read."""


def layout(values: Mapping[str, Any], names: Iterable[str]) -> Layout:
    """Returns where each tensor lies."""
    return {name: (_piece(name, values),) for name in names}


def _piece(name: str, values: Mapping[str, Any]) -> Piece:
    part, _, kind = name.rpartition(".")
    if part not in _CLASSIFIER:
        return Piece(foreign(name, values["depths"], values["norm"] == "batch"))
    window = {"hidden.0": values["pooled"], "hidden.1": 1}.get(part)
    theirs = f"{_CLASSIFIER[part]}.{kind}"
    return Piece(theirs, window=window) if kind == "weight" and window is not None else Piece(theirs)
