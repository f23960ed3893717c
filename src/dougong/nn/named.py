"""What configs name of the blocks' kinds, apart from the blocks, so that a config needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from dougong.core.config import Config

Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]
NormOverSpace = Literal["batch", "group", "none"]


@dataclass(frozen=True)
class SpatialNorm:
    """Which norm follows the convolutions of a network over images.

    Attributes:
        kind: Over the batch, over groups of channels, or none.
        groups: How many groups, if it is over groups.
    """

    kind: NormOverSpace
    groups: int = 32


class LinearScaling(Config):
    """Position interpolation (Chen et al. 2023): every position is divided by a factor."""

    name: Literal["linear"] = "linear"
    """Which scaling."""
    factor: PositiveFloat
    """How many times longer texts become than those the model was trained on."""


class Llama3Scaling(Config):
    """The scaling of Llama 3.1: slow rotations are divided by a factor, fast ones kept, those between blended."""

    name: Literal["llama3"] = "llama3"
    """Which scaling."""
    factor: PositiveFloat = 8.0
    """By what the slow rotations are divided."""
    low_freq_factor: PositiveFloat = 1.0
    """Rotations with fewer turns than this in the original length are slow."""
    high_freq_factor: PositiveFloat = 4.0
    """Rotations with more turns than this in the original length are fast."""
    original_max_seq_len: PositiveInt = 8192
    """The length in tokens that the model was first trained on."""


RopeScaling = Annotated[LinearScaling | Llama3Scaling, Field(discriminator="name")]
