"""Adapters: what a recipe may say of them, and a model's config with one.

Imports no torch; the layers are in `lora.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from dougong.core.config import Config

if TYPE_CHECKING:
    from torch import nn

Patterns = Annotated[tuple[str, ...], Field(min_length=1)]


class LoraConfig(Config):
    """Low-rank additions to linear layers, which train while the rest stays (Hu et al. 2022, section 4.1).

    There is no dropout here: that of the library draws from a generator, which no resumed run could put back.
    """

    name: Literal["lora"] = "lora"
    """The adapter."""
    rank: PositiveInt = 8
    """Width of the additions: two matrices of so many rows and columns stand beside each layer."""
    alpha: PositiveFloat = 16.0
    """The additions are multiplied by alpha / rank."""
    targets: Patterns = ("*attention.*",)
    """Linear layers that get one, by names in which `*` stands for anything: `[blocks.*.attention.qkv]`."""
    also: tuple[str, ...] = ()
    """Parameters that train in full, as those that init_new names do; a layer among them gets no addition."""
    merge: bool = True
    """Leave one model, the additions in its weights; or, false, the model as it was and `adapter/` in its folder."""


@dataclass(frozen=True)
class Adapted:
    """A model's config with an adapter; it answers as the config does, and builds the adapted network.

    Attributes:
        config: The model's.
        adapter: The adapter's.
        new: Parameters that start anew, by patterns, and so train in full.
    """

    config: Any
    adapter: LoraConfig
    new: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # as copying asks for, before there is a config
            raise AttributeError(name)
        return getattr(self.config, name)

    def replace(self, **changes: Any) -> Adapted:
        """Returns the config of another model, adapted as well."""
        return Adapted(self.config.replace(**changes), self.adapter, self.new)

    def build(self) -> nn.Module:
        """Returns the network with the additions, all else frozen; filled are neither."""
        lora = importlib.import_module(f"{__name__}.lora")
        return lora.attach(self.config.build(), self.adapter, self.new)
