"""Our own form, for models that no foreign class computes: our config and our names, in the same folder layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dougong.checkpoint.convert import Layout, Piece, need

MODEL_TYPE = "dougong-"
PREFIX = ""
IGNORED = r"(?!)"
TIED: dict[str, str] = {}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of our config, which stand under the key `dougong`."""
    return need(config, "dougong")


def write_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns config.json for any model."""
    return {"model_type": MODEL_TYPE + values["name"], "dougong": dict(values)}


def layout(values: Mapping[str, Any], names: Iterable[str]) -> Layout:
    """Returns each tensor under its own name."""
    return {name: (Piece(name),) for name in names}
