"""The residual network itself: stem, stages of blocks, head. What its config says, see `__init__.py`.

Knows convolutions and norms; knows no file format, no objective and no data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dougong.core.errors import UsageError
from dougong.models.resnet import IMAGENET_SHAPE, ResNetConfig
from dougong.nn.init import Linear, draw_normal
from dougong.nn.lengths import Window
from dougong.nn.normed import NormedConvolution2d, fill_convolutions
from dougong.nn.pooling import mean_of_space, pool_space

Images = Float[Tensor, "batch channels height width"]
Maps = Float[Tensor, "batch out_channels out_height out_width"]


class Basic(nn.Module):
    """`relu(F(x) + shortcut(x))` with F two convolutions of 3 x 3 (He et al. 2016, figure 5 left).

    Attributes:
        rectify: `F.relu`, or another function with its signature, chosen from outside.
    """

    rectify: Callable[[Tensor], Tensor] = staticmethod(F.relu)

    def __init__(self, config: ResNetConfig, channels: int, width: int, stride: int):
        super().__init__()
        norm = config.spatial_norm
        self.first = NormedConvolution2d(channels, width, Window(3, stride), norm)
        self.last = NormedConvolution2d(width, width, Window(3), norm)
        self.shortcut = make_shortcut(config, channels, width, stride)

    def forward(self, images: Images) -> Maps:
        """Returns the block's output."""
        return self.rectify(self.last(self.rectify(self.first(images))) + self.shortcut(images))


class Bottleneck(nn.Module):
    """`relu(F(x) + shortcut(x))` with F of 1 x 1, 3 x 3 and 1 x 1 (He et al. 2016, figure 5 right).

    Attributes:
        rectify: `F.relu`, or another function with its signature, chosen from outside.
    """

    rectify: Callable[[Tensor], Tensor] = staticmethod(F.relu)

    def __init__(self, config: ResNetConfig, channels: int, width: int, stride: int):
        super().__init__()
        norm, in_paper = config.spatial_norm, config.strided == "first"
        self.first = NormedConvolution2d(channels, width, Window(1, stride if in_paper else 1), norm)
        self.middle = NormedConvolution2d(width, width, Window(3, 1 if in_paper else stride), norm)
        self.last = NormedConvolution2d(width, 4 * width, Window(1), norm)
        self.shortcut = make_shortcut(config, channels, 4 * width, stride)

    def forward(self, images: Images) -> Maps:
        """Returns the block's output."""
        inside = self.rectify(self.middle(self.rectify(self.first(images))))
        return self.rectify(self.last(inside) + self.shortcut(images))


class Padded(nn.Module):
    """Option A: every so many places, and zeros for the channels that are new. It has no parameter."""

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride, self.new = stride, out_channels - channels

    def forward(self, images: Images) -> Maps:
        """Returns the input in the size of the block's output."""
        return F.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))


def make_shortcut(config: ResNetConfig, channels: int, out_channels: int, stride: int) -> nn.Module:
    """Returns the identity, where it fits, or what the config puts in its place."""
    if stride == 1 and channels == out_channels:
        return nn.Identity()
    if config.shortcut == "padded":
        return Padded(channels, out_channels, stride)
    return NormedConvolution2d(channels, out_channels, Window(1, stride), config.spatial_norm)


class Stem(nn.Module):
    """What stands before the stages: a convolution, and for large pictures a maximum."""

    def __init__(self, config: ResNetConfig, channels: int):
        super().__init__()
        self.pools = config.stem == "imagenet"
        window = Window(7, 2) if self.pools else Window(3)
        self.mixed = NormedConvolution2d(channels, config.width_of_stem, window, config.spatial_norm)

    def forward(self, images: Images) -> Maps:
        """Returns the first maps."""
        hidden = F.relu(self.mixed(images))
        return pool_space("max", hidden, Window(3, 2)) if self.pools else hidden


class Trunk(nn.Module):
    """Stem and stages: pictures to feature maps.

    Attributes:
        widths: Channels of the map that each stage gives.
        strides: Pixels of the picture from one place of each map to the next.
    """

    def __init__(self, config: ResNetConfig):
        super().__init__()
        channels, make = config.width_of_stem, Basic if config.block == "basic" else Bottleneck
        self.stem = Stem(config, (config.image_shape or IMAGENET_SHAPE)[0])
        self.stages = nn.ModuleList()
        for number, (depth, width, out) in enumerate(zip(config.depths, config.widths, config.widths_out, strict=True)):
            before = [channels, *[out] * (depth - 1)]
            strides = [2 if number else 1, *[1] * (depth - 1)]
            blocks = [make(config, given, width, stride) for given, stride in zip(before, strides, strict=True)]
            self.stages.append(nn.Sequential(*blocks))
            channels = out
        self.widths = config.widths_out
        first = 4 if config.stem == "imagenet" else 1
        self.strides = tuple(first * 2**number for number in range(len(config.depths)))
        self.zero_init_residual = config.zero_init_residual

    @property
    def blocks(self) -> nn.ModuleList:
        """The residual blocks, from the first to the last; compilation and recomputation are applied to its members."""
        return nn.ModuleList(block for stage in self.stages for block in stage.children())

    def fill(self, seed: int, prefix: str) -> None:
        """Fills every parameter and buffer, see `fill_convolutions`; the last norm of each block with 0 if asked for.

        Args:
            prefix: What stands before the parameters' names in the whole model.
        """
        fill_convolutions(self, seed, prefix)
        for name, parameter in self.named_parameters():
            if self.zero_init_residual and name.endswith("last.norm.weight"):
                nn.init.zeros_(parameter)

    def forward(self, images: Images) -> tuple[Tensor, ...]:
        """Returns the map of each stage, the finest first."""
        hidden = self.stem(images.to(self.stem.mixed.convolution.weight.dtype))
        maps = []
        for stage in self.stages:
            hidden = stage(hidden)
            maps.append(hidden)
        return tuple(maps)


class ResNet(nn.Module):
    """The model: trunk, mean over space, linear head.

    Attributes:
        config: What it was built from.
        SPLIT: How each parameter is split over a tensor-parallel axis: but for the head, not at all.
    """

    SPLIT: ClassVar[dict[str, str]] = {"trunk.*": "none", "head.*": "column"}

    def __init__(self, config: ResNetConfig):
        super().__init__()
        if config.num_classes is None:
            raise UsageError("model.num_classes must be known to build the model, but is absent. Set it.")
        self.config = config
        self.trunk = Trunk(config)
        self.head = Linear(config.widths_out[-1], config.num_classes)

    @property
    def blocks(self) -> nn.ModuleList:
        """The residual blocks of the trunk."""
        return self.trunk.blocks

    def init_weights(self, seed: int) -> None:
        """Fills every parameter and buffer.

        | parameter | value |
        |---|---|
        | weight of a convolution | normal, std `sqrt(2 / fan_out)` (He et al. 2015, eq. 14) |
        | weight of a norm; running variance | 1; the last norm of a block 0 with `zero_init_residual` |
        | weight of the head | normal, std 0.01 (Goyal et al. 2017, section 5.1) |
        | bias; running mean | 0 |
        """
        self.trunk.fill(seed, "trunk.")
        for name, parameter in self.head.named_parameters(prefix="head"):
            if parameter.ndim == 2:
                draw_normal(parameter, 0.01, seed, name)
            else:
                nn.init.zeros_(parameter)

    def features(self, images: Images) -> Float[Tensor, "batch dim"]:
        """Returns what the head looks at: the mean over space of the last map."""
        return mean_of_space(self.trunk(images)[-1])

    def forward(self, images: Images, noise: Int[Tensor, " batch"] | None = None) -> Float[Tensor, "batch classes"]:
        """Returns the logits of the classes; nothing here is drawn, so that `noise` changes nothing."""
        return self.head(self.features(images))


def example(config: ResNetConfig, batch_size: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Returns inputs of `forward`, different in every row."""
    shape = (batch_size, *(config.image_shape or IMAGENET_SHAPE))
    numbers = torch.arange(math.prod(shape), device=device, dtype=torch.float32)
    return {"images": (numbers * 0.37).sin().reshape(shape)}
