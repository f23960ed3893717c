"""The feature pyramid (Lin et al. 2017a): maps of all resolutions, each of which has seen the coarse ones.

Knows maps and their widths; does not know what makes them or what is read from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dougong.nn.convolution import Convolution2d
from dougong.nn.init import draw_uniform, fans
from dougong.nn.lengths import Window
from dougong.nn.named import SpatialNorm
from dougong.nn.normed import NormedConvolution2d

Maps = Sequence[Float[Tensor, "batch _ _ _"]]


class FeaturePyramid(nn.Module):
    """Adds to each map, made as wide as all others, the next coarser one twice as large; then 3 x 3 each.

    Coarser maps follow (Lin et al. 2017b, section 4): each a convolution of 3 x 3 with stride 2, a ReLU between them.

    Args:
        widths: Channels of the maps that come in, the finest first.
        dim: Channels of those that go out.
        extra: How many coarser maps follow.
        source: What the first of these is made from: the coarsest map that comes in ("c5"), or that goes out ("p5").
        norm: What follows the convolutions, but for those of the coarser maps.
    """

    def __init__(self, widths: Sequence[int], dim: int, extra: int, source: Literal["c5", "p5"], norm: SpatialNorm):
        super().__init__()
        self.source = source
        self.lateral = nn.ModuleList(NormedConvolution2d(width, dim, Window(1), norm) for width in widths)
        self.output = nn.ModuleList(NormedConvolution2d(dim, dim, Window(3), norm) for _ in widths)
        first = widths[-1] if source == "c5" else dim
        self.extra = nn.ModuleList(
            Convolution2d(dim if number else first, dim, Window(3, stride=2)) for number in range(extra)
        )

    def fill(self, seed: int, prefix: str) -> None:
        """Fills every parameter and buffer.

        | parameter | value |
        |---|---|
        | weight of a convolution | uniform within `sqrt(3 / fan_in)`, which keeps the variance |
        | weight of a norm; running variance | 1 |
        | bias; running mean | 0 |

        Args:
            prefix: What stands before the parameters' names in the whole model.
        """
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if isinstance(tensor, nn.Parameter) and tensor.ndim == 4:
                draw_uniform(tensor, math.sqrt(3 / fans(tensor.shape)[0]), seed, prefix + name)
            elif name.endswith(("bias", "running_mean")):
                nn.init.zeros_(tensor)
            else:
                nn.init.ones_(tensor)

    def forward(self, maps: Maps) -> tuple[Float[Tensor, "batch dim _ _"], ...]:
        """Returns the maps of all levels, the finest first."""
        inner = [lateral(given) for lateral, given in zip(self.lateral, maps, strict=True)]
        for number in reversed(range(len(inner) - 1)):
            finer = inner[number]
            inner[number] = finer + F.interpolate(inner[number + 1], size=finer.shape[2:], mode="nearest")
        levels = [output(given) for output, given in zip(self.output, inner, strict=True)]
        coarser = maps[-1] if self.source == "c5" else levels[-1]
        for number, convolution in enumerate(self.extra):
            coarser = convolution(F.relu(coarser) if number else coarser)
            levels.append(coarser)
        return tuple(levels)
