"""RetinaNet itself: trunk, pyramid, heads, and the anchors that the heads' answers belong to.

What its config says, see `__init__.py`; how answers become boxes, `nn/detection.py`. Of the trunk knows its maps'
widths and strides; knows no file format, no objective and no data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dougong.core.errors import UsageError
from dougong.models.retinanet import PICTURE_SHAPE, RetinaNetConfig
from dougong.nn.boxes import anchor_shapes, grid_anchors
from dougong.nn.convolution import Convolution2d
from dougong.nn.init import draw_normal
from dougong.nn.lengths import Window
from dougong.nn.named import SpatialNorm
from dougong.nn.normed import NormedConvolution2d
from dougong.nn.pyramid import FeaturePyramid

_STD = 0.01


class Head(nn.Module):
    """Convolutions of 3 x 3 with a ReLU after each, and one more that answers for every anchor of a place.

    Args:
        dim: Channels of the maps, and inside.
        num_layers: How many convolutions stand before the last.
        num_anchors: How many anchors stand at each place.
        outputs: How many numbers are answered for each anchor.
        norm: What follows the convolutions before the last.
    """

    def __init__(self, dim: int, num_layers: int, num_anchors: int, outputs: int, norm: SpatialNorm):
        super().__init__()
        self.outputs = outputs
        self.hidden = nn.ModuleList(NormedConvolution2d(dim, dim, Window(3), norm) for _ in range(num_layers))
        self.answer = Convolution2d(dim, num_anchors * outputs, Window(3))

    def fill(self, seed: int, prefix: str, begin: float = 0.0) -> None:
        """Fills every parameter; `begin` is what the last convolution's bias begins at."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 4:
                draw_normal(parameter, _STD, seed, prefix + name)
            else:
                nn.init.constant_(parameter, 1.0 if name.endswith("norm.weight") else 0.0)
        assert self.answer.bias is not None
        nn.init.constant_(self.answer.bias, begin)

    def forward(self, maps: Sequence[Float[Tensor, "batch channels _ _"]]) -> Float[Tensor, "batch anchors outputs"]:
        """Returns the answers for the anchors of all levels: level by level, row by row, place by place."""
        return torch.cat([self._level(level) for level in maps], dim=1)

    def _level(self, hidden: Tensor) -> Tensor:
        for layer in self.hidden:
            hidden = F.relu(layer(hidden))
        answers = self.answer(hidden).permute(0, 2, 3, 1)  # [batch, row, column, anchor x output]
        return answers.reshape(len(answers), -1, self.outputs)


class RetinaNet(nn.Module):
    """The model: for every anchor the logits of all classes, then where the object is, relative to the anchor.

    Attributes:
        config: What it was built from.
        strides: Pixels from one place to the next, of each level.
        shapes: The anchors around a place of each level, in whole pixels: kept with the weights, as the answers mean
            nothing without them.
        SPLIT: How each parameter is split over a tensor-parallel axis: not at all.
    """

    SPLIT: ClassVar[dict[str, str]] = {"*": "none"}
    shapes: Tensor

    def __init__(self, config: RetinaNetConfig):
        super().__init__()
        if config.num_classes is None:
            raise UsageError("model.num_classes must be known to build the model, but is absent. Set it.")
        self.config = config
        self.trunk = _trunk(config)
        used = [number for number, stride in enumerate(self.trunk.strides) if stride >= config.finest_stride]
        if not used:
            raise UsageError(
                f"model.finest_stride must be at most {self.trunk.strides[-1]}, the stride of the trunk's coarsest "
                f"map, but is {config.finest_stride}. Lower it."
            )
        self.first = used[0]
        coarsest = self.trunk.strides[-1]
        coarser = [coarsest * 2**number for number in range(1, config.extra_levels + 1)]
        self.strides = (*self.trunk.strides[self.first :], *coarser)
        norm, head_norm = config.norms
        self.pyramid = FeaturePyramid(
            self.trunk.widths[self.first :], config.pyramid_dim, config.extra_levels, config.extra_from, norm
        )
        size = config.pyramid_dim, config.head_layers, config.num_anchors
        self.classes = Head(*size, config.num_classes, head_norm)
        self.boxes = Head(*size, 4, head_norm)
        self._anchors = [anchor_shapes(sizes, config.anchor_ratios) for sizes in self._sizes()]
        self._check_anchors()
        self.register_buffer("shapes", torch.empty(len(self.strides), config.num_anchors, 4, dtype=torch.int64))
        if config.image_shape is not None:
            self._check_size(*config.image_shape[1:])

    @property
    def blocks(self) -> nn.ModuleList:
        """The trunk's blocks, if it has some; compilation and recomputation are applied to its members."""
        return nn.ModuleList(getattr(self.trunk, "blocks", ()))

    def init_weights(self, seed: int) -> None:
        """Fills every parameter and buffer.

        | parameter | value |
        |---|---|
        | trunk | as its own model says |
        | pyramid: weight of a convolution | uniform within `sqrt(3 / fan_in)` |
        | heads: weight of a convolution | normal, std 0.01 (Lin et al. 2017b, section 4.1) |
        | last bias of the classes | `-log((1 - prior) / prior)`, so that each begins with the probability `prior` |
        | weight of a norm; running variance | 1 |
        | other biases; running mean | 0 |
        | shapes of the anchors | as the config says |
        """
        self.trunk.fill(seed, "trunk.")
        self.pyramid.fill(seed, "pyramid.")
        self.classes.fill(seed, "classes.", -math.log((1 - self.config.prior) / self.config.prior))
        self.boxes.fill(seed, "boxes.")
        self.fill_constants()

    def fill_constants(self) -> None:
        """Fills what nothing learns and the config alone decides: the shapes of the anchors."""
        self.shapes.copy_(torch.tensor(self._anchors, device="cpu"))

    def forward(
        self, images: Float[Tensor, "batch channels height width"], noise: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch anchors outputs"]:
        """Returns for each of `anchors(height, width)` the logits of all classes and its box, as `encode` writes it.

        Nothing here is drawn, so that `noise` changes nothing.

        Raises:
            UsageError: The picture's sides are no multiples of the stride of the trunk's coarsest map.
        """
        self._check_size(*images.shape[2:])
        images = images.to(self.classes.answer.weight.dtype)
        levels = self.pyramid(self.trunk(images)[self.first :])
        return torch.cat([self.classes(levels), self.boxes(levels)], dim=-1)

    def anchors(self, height: int, width: int) -> list[Float[Tensor, "_ 4"]]:
        """Returns the anchors of each level of a picture of so many pixels, in the order of `forward`'s answers."""
        own = len(self.strides) - self.config.extra_levels
        grids = [(height // stride, width // stride) for stride in self.strides[:own]]
        for _ in range(self.config.extra_levels):
            grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
        levels = zip(self.shapes, grids, strict=True)
        return [grid_anchors(shapes, grid, (height, width)) for shapes, grid in levels]

    def _sizes(self) -> Iterable[list[float]]:
        """Yields the sides of the anchors of each level, in pixels."""
        for stride in self.strides:
            side = self.config.anchor_size * stride
            yield [side * scale for scale in self.config.anchor_scales]

    def _check_anchors(self) -> None:
        """Refuses anchors that whole pixels leave nothing of."""
        for level, stride in zip(self._anchors, self.strides, strict=True):
            if any(right <= left or low <= top for left, top, right, low in level):
                raise UsageError(
                    f"model.anchor_size must make every anchor at least 2 pixels wide and high, but with "
                    f"{self.config.anchor_size:g} some of those {stride} pixels apart are less. Raise it, or the "
                    "scales, or take less narrow ratios."
                )

    def _check_size(self, height: int, width: int) -> None:
        coarsest = self.trunk.strides[-1]
        if height % coarsest or width % coarsest:
            raise UsageError(
                f"height and width of a picture must be multiples of {coarsest} pixels, the stride of the trunk's "
                f"coarsest map, but are {height} and {width}. Make the pictures of another size, or pad them."
            )


def _trunk(config: RetinaNetConfig) -> Any:
    """Returns the trunk, for pictures of the detector's colours."""
    trunk: Any = config.trunk
    return trunk.replace(image_shape=config.image_shape or PICTURE_SHAPE).trunk()


def example(config: RetinaNetConfig, batch_size: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Returns inputs of `forward`, different in every row."""
    shape = (batch_size, *(config.image_shape or PICTURE_SHAPE))
    numbers = torch.arange(math.prod(shape), device=device, dtype=torch.float32)
    return {"images": (numbers * 0.37).sin().reshape(shape)}
