"""A convolution over space with the norm that follows it, and both as one convolution once training is over.

What ResNets, VGGs and feature pyramids are made of. Knows no model.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dougong.nn.convolution import Convolution2d
from dougong.nn.init import draw_normal, fans
from dougong.nn.lengths import Window
from dougong.nn.named import SpatialNorm
from dougong.nn.norm import BatchNorm2d, GroupNorm2d


class NormedConvolution2d(nn.Module):
    """`norm(convolution(images))`; with the norm "none" the convolution alone.

    Args:
        channels: Of what comes in.
        out_channels: Of what goes out.
        window: Where each output looks.
        norm: Its kind, and how many groups it has if it is over groups.
        bias: Whether the convolution has a bias; absent: if no norm follows, which would take it away again.
    """

    def __init__(self, channels: int, out_channels: int, window: Window, norm: SpatialNorm, bias: bool | None = None):
        super().__init__()
        biased = norm.kind == "none" if bias is None else bias
        self.convolution = Convolution2d(channels, out_channels, window, bias=biased)
        self.norm = make_norm_2d(norm, out_channels)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Returns the normalised channels."""
        mixed = self.convolution(images)
        return mixed if self.norm is None else self.norm(mixed)


def make_norm_2d(norm: SpatialNorm, channels: int) -> BatchNorm2d | GroupNorm2d | None:
    """Returns the norm of a kind, or None for "none"."""
    if norm.kind == "none":
        return None
    return BatchNorm2d(channels) if norm.kind == "batch" else GroupNorm2d(norm.groups, channels)


@torch.no_grad()
def fold(module: nn.Module) -> int:
    """Folds each batch normalisation in a model into the convolution before it, in place; returns how many there were.

    With the running statistics a norm is a linear map of each channel, and so is part of the convolution (Jacob et al.
    2018, section 3.2): `weight * scale` and `bias + (b - mean) * scale`, with `scale = gain / sqrt(variance + eps)`.
    The outputs in evaluation are the same up to rounding; the model cannot be trained any more.
    """
    pairs = [part for part in module.modules() if isinstance(part, NormedConvolution2d)]
    pairs = [part for part in pairs if isinstance(part.norm, BatchNorm2d)]
    for part in pairs:
        norm, old = part.norm, part.convolution
        assert isinstance(norm, BatchNorm2d)
        scale = norm.weight.double() / (norm.running_variance.double() + norm.eps).sqrt()
        before = 0.0 if old.bias is None else old.bias.double()
        bias = norm.bias.double() + (before - norm.running_mean.double()) * scale
        weight = old.weight.double() * scale[:, None, None, None]
        old.weight.copy_(weight)
        old.bias = nn.Parameter(bias.to(old.weight), requires_grad=False)
        part.norm = None
    return len(pairs)


@torch.no_grad()
def fill_convolutions(module: nn.Module, seed: int, prefix: str = "") -> None:
    """Fills all convolutions and norms of a network: each value is a function of the seed and the parameter's name.

    | parameter | value |
    |---|---|
    | weight of a convolution | normal, std `sqrt(2 / fan_out)` (He et al. 2015, eq. 14) |
    | weight of a norm; running variance | 1 |
    | bias; running mean | 0 |
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(tensor, nn.Parameter) and tensor.ndim == 4:
            draw_normal(tensor, (2.0 / fans(tensor.shape)[1]) ** 0.5, seed, prefix + name)
        elif name.endswith(("bias", "running_mean")):
            tensor.zero_()
        else:
            tensor.fill_(1.0)
