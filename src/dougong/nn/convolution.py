"""Convolution over time and over space (LeCun et al. 1998; dilated: Yu and Koltun 2016; depthwise: Chollet 2017).

Also the cutting of an image into patches (Dosovitskiy et al. 2021), which is a convolution whose stride is its kernel.
How many outputs there are, `lengths.py` says. Knows no model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dougong.core.errors import UsageError
from dougong.nn.lengths import Window
from dougong.nn.mask import blanked


class Convolution1d(nn.Module):
    """`y_i = bias + sum_k weight_k x_(i stride - before + k dilation)`: a window over time.

    With `groups` equal to `dim` it is depthwise. Masked places count as zero, as those beyond the ends do; what the
    output holds at masked places has no meaning.
    """

    def __init__(self, dim: int, out_dim: int, window: Window, groups: int = 1, bias: bool = True):
        super().__init__()
        _check_groups(dim, out_dim, groups)
        self.window, self.groups = window, groups
        self.weight = nn.Parameter(torch.empty(out_dim, dim // groups, window.kernel))
        self.bias = nn.Parameter(torch.empty(out_dim)) if bias else None

    def forward(
        self, hidden: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch out_time out_dim"]:
        """Returns `window.length(time)` places."""
        window = self.window
        check_room(window, hidden.shape[1])
        hidden = blanked(hidden, mask)
        even = window.before == window.after
        if not even:
            hidden = F.pad(hidden, (0, 0, window.before, window.after))
        padding = window.before if even else 0
        return _over_time(hidden, self.weight, self.bias, window, padding, self.groups)


def _over_time(
    hidden: Float[Tensor, "batch time dim"],
    weight: Float[Tensor, "out_dim group_dim kernel"],
    bias: Float[Tensor, " out_dim"] | None,
    window: Window,
    padding: int,
    groups: int,
) -> Float[Tensor, "batch out_time out_dim"]:
    """`F.conv1d` as an image one row high, whose channels lie last already: so nothing is turned round in memory."""
    mixed = F.conv2d(
        hidden.transpose(1, 2).unsqueeze(2),
        weight.unsqueeze(2),
        bias,
        (1, window.stride),
        (0, padding),
        (1, window.dilation),
        groups,
    )
    return mixed.squeeze(2).transpose(1, 2)


class Convolution2d(nn.Module):
    """A square window over height and width; with `groups` equal to `channels` it is depthwise."""

    def __init__(self, channels: int, out_channels: int, window: Window, groups: int = 1, bias: bool = True):
        super().__init__()
        _check_groups(channels, out_channels, groups)
        check_spatial(window)
        self.window, self.groups = window, groups
        self.weight = nn.Parameter(torch.empty(out_channels, channels // groups, window.kernel, window.kernel))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Returns `window.length(height)` rows and `window.length(width)` columns."""
        window = self.window
        check_room(window, *images.shape[2:])
        # In memory the channels lie last, as the kernels want them: turned once, at the first convolution.
        images = images.contiguous(memory_format=torch.channels_last)
        even = window.before == window.after
        if not even:
            images = F.pad(images, (window.before, window.after) * 2)
        padding = window.before if even else 0
        return F.conv2d(images, self.weight, self.bias, window.stride, padding, window.dilation, self.groups)


class Patches(nn.Module):
    """Cuts images into square patches, and projects each to a vector: a sequence, row by row from the top left.

    Dosovitskiy et al. 2021, eq. 1, without the class token and the positions.
    """

    def __init__(self, channels: int, dim: int, size: int, bias: bool = True):
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(dim, channels, size, size))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch time dim"]:
        """Returns one vector per patch.

        Raises:
            UsageError: The patches do not cover the image.
        """
        for axis, length in zip(("height", "width"), images.shape[2:], strict=True):
            if length % self.size:
                raise UsageError(
                    f"the patch size must divide the {axis}, but {length} % {self.size} is {length % self.size}. "
                    "Choose another size, or other images."
                )
        return flatten_space(F.conv2d(images, self.weight, self.bias, self.size))


def flatten_space(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch time channels"]:
    """Returns the places of an image as a sequence, row by row from the top left, which lies so in memory as well."""
    return images.flatten(2).transpose(1, 2).contiguous()


def check_spatial(window: Window) -> None:
    """Refuses a window that has no meaning over space.

    Raises:
        UsageError: It is causal.
    """
    if window.padding == "causal":
        raise UsageError("the padding of a window over space must be centred or none, but is causal.")


def check_room(window: Window, *places: int) -> None:
    """Refuses what is shorter than a window that has no padding.

    Raises:
        UsageError: It is.
    """
    if window.padding == "none" and min(places) <= window.reach:
        raise UsageError(
            f"there must be at least {window.reach + 1} places for a window without padding, but there are "
            f"{min(places)}. Pad the input, choose a smaller kernel, or set padding: centred."
        )


def _check_groups(dim: int, out_dim: int, groups: int) -> None:
    if dim % groups or out_dim % groups:
        raise UsageError(
            f"groups must divide what goes in and what comes out, but is {groups} for {dim} and {out_dim}. Choose a "
            "common divisor."
        )
