"""The VGG network itself: stages of convolutions, then a classifier of three layers. Its config: see `__init__.py`.

Knows convolutions and norms; knows no file format, no objective and no data.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dougong.core.errors import UsageError
from dougong.models.vgg import IMAGENET_SHAPE, VGGConfig
from dougong.nn.dropout import dropout
from dougong.nn.init import Linear, draw_normal
from dougong.nn.lengths import Window
from dougong.nn.normed import NormedConvolution2d, fill_convolutions
from dougong.nn.pooling import pool_space

Images = Float[Tensor, "batch channels height width"]
_HALVING = Window(2, 2, padding="none")


class Stage(nn.Module):
    """Convolutions of 3 x 3, each followed by its norm and a ReLU."""

    def __init__(self, config: VGGConfig, channels: int, width: int, depth: int):
        super().__init__()
        # The convolutions keep their bias beside a norm, as in torchvision, whose files so hold one.
        norm, widths = config.spatial_norm, [channels, *[width] * depth]
        layers = [NormedConvolution2d(given, out, Window(3), norm, bias=True) for given, out in pairwise(widths)]
        self.layers = nn.ModuleList(layers)

    def forward(self, images: Images) -> Float[Tensor, "batch out_channels height width"]:
        """Returns the stage's map, of the height and width of its input."""
        for layer in self.layers:
            images = F.relu(layer(images))
        return images


class Trunk(nn.Module):
    """The convolutions: pictures to feature maps, a maximum over 2 x 2 between them.

    Attributes:
        widths: Channels of the map that each stage gives.
        strides: Pixels of the picture from one place of each map to the next.
    """

    def __init__(self, config: VGGConfig):
        super().__init__()
        channels = [(config.image_shape or IMAGENET_SHAPE)[0], *config.widths]
        sizes = zip(pairwise(channels), config.depths, strict=True)
        self.stages = nn.ModuleList(Stage(config, given, width, depth) for (given, width), depth in sizes)
        self.widths = config.widths
        self.strides = tuple(2**number for number in range(len(config.widths)))

    @property
    def blocks(self) -> nn.ModuleList:
        """The stages, from the first to the last; compilation and recomputation are applied to its members."""
        return nn.ModuleList(self.stages)

    def fill(self, seed: int, prefix: str) -> None:
        """Fills every parameter and buffer, see `fill_convolutions`.

        Args:
            prefix: What stands before the parameters' names in the whole model.
        """
        fill_convolutions(self, seed, prefix)

    def forward(self, images: Images) -> tuple[Tensor, ...]:
        """Returns the map of each stage before its maximum is taken, the finest first."""
        maps = [self.stages[0](images.to(next(self.parameters()).dtype))]
        for stage in self.stages[1:]:
            maps.append(stage(pool_space("max", maps[-1], _HALVING)))
        return tuple(maps)


class VGG(nn.Module):
    """The model: trunk, average to a grid of fixed size, two hidden layers, output.

    Attributes:
        config: What it was built from.
        SPLIT: How each parameter is split over a tensor-parallel axis.
    """

    SPLIT: ClassVar[dict[str, str]] = {
        "trunk.*": "none",
        "hidden.0.*": "column",
        "hidden.1.weight": "row",
        "hidden.1.bias": "none",
        "head.*": "none",
    }

    def __init__(self, config: VGGConfig):
        super().__init__()
        if config.num_classes is None:
            raise UsageError("model.num_classes must be known to build the model, but is absent. Set it.")
        self.config = config
        self.trunk = Trunk(config)
        seen = config.widths[-1] * config.pooled**2
        self.hidden = nn.ModuleList([Linear(seen, config.hidden_dim), Linear(config.hidden_dim, config.hidden_dim)])
        self.head = Linear(config.hidden_dim, config.num_classes)

    @property
    def blocks(self) -> nn.ModuleList:
        """The stages of the trunk."""
        return self.trunk.blocks

    def init_weights(self, seed: int) -> None:
        """Fills every parameter and buffer.

        | parameter | value |
        |---|---|
        | weight of a convolution | normal, std `sqrt(2 / fan_out)` (He et al. 2015, eq. 14) |
        | weight of a norm; running variance | 1 |
        | weight of the classifier's layers | normal, std 0.01 (Simonyan and Zisserman 2015, section 3.1) |
        | bias; running mean | 0 |
        """
        self.trunk.fill(seed, "trunk.")
        for name, parameter in self.named_parameters():
            if name.startswith("trunk."):
                continue
            if parameter.ndim == 2:
                draw_normal(parameter, 0.01, seed, name)
            else:
                nn.init.zeros_(parameter)

    def features(self, images: Images, noise: Int[Tensor, " batch"] | None = None) -> Float[Tensor, "batch dim"]:
        """Returns what the head looks at: the second hidden layer."""
        maps = pool_space("max", self.trunk(images)[-1], _HALVING)
        hidden = F.adaptive_avg_pool2d(maps, self.config.pooled).flatten(1)
        for place, layer in enumerate(self.hidden):
            hidden = dropout(F.relu(layer(hidden)), self.config.dropout, noise, place)
        return hidden

    def forward(self, images: Images, noise: Int[Tensor, " batch"] | None = None) -> Float[Tensor, "batch classes"]:
        """Returns the logits of the classes; `noise` is what dropout draws from, None switches it off."""
        return self.head(self.features(images, noise))


def example(config: VGGConfig, batch_size: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Returns inputs of `forward`, different in every row."""
    shape = (batch_size, *(config.image_shape or IMAGENET_SHAPE))
    numbers = torch.arange(math.prod(shape), device=device, dtype=torch.float32)
    return {"images": (numbers * 0.37).sin().reshape(shape)}
