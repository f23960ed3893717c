"""How a decoded picture becomes what a model takes, in evaluation: resized, cut, normalised, in one view or in several.

Knows the config of the pictures, and says the same in Hugging Face's words (`preprocessor_config.json`); does not know
labels, files or random changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from dougong.data import image
from dougong.data.image import Part, Pixels
from dougong.data.images import AnnotatedConfig, ClassifiedConfig, PicturesConfig


class Viewing:
    """What is seen of a picture to classify.

    Args:
        config: How pictures are resized, cut and normalised.
        size: Height and width that come out; those of all pictures, where the config names none.
    """

    def __init__(self, config: ClassifiedConfig, size: tuple[int, int]):
        self.config, self.size = config, size
        self.mean, self.std = config.scaling()

    @property
    def wanted(self) -> int | None:
        """The shorter side, in pixels, that a picture may be decoded to; None: as it is."""
        if not self.config.draft:
            return None
        return 2 * max(*self.size, self.config.resize or 0, *(self.config.scales or ()))

    def middle(self, pixels: Pixels) -> Part:
        """Returns the one view from the middle."""
        return image.center_crop(self._resized(pixels, self.config.resize), *self.size)

    def views(self, pixels: Pixels) -> Float[np.ndarray, "*view channel part_height part_width"]:
        """Returns the picture normalised; with a dim in front, if several views of it are to be averaged."""
        if self.config.views == "center" and self.config.scales is None:
            return self.normalised(self.middle(pixels))
        crops = {"center": _one_crop, "ten": image.ten_crop, "grid": image.grid_crop}[self.config.views]
        sides: list[Any] = self.config.scales or [self.config.resize]
        found = [view for side in sides for view in crops(self._resized(pixels, side), *self.size)]
        return np.stack([self.normalised(view) for view in found])

    def normalised(
        self, pixels: UInt8[np.ndarray, "height width channel"] | Float[np.ndarray, "height width channel"]
    ) -> Float[np.ndarray, "channel height width"]:
        """Returns pixels of 0 to 255 as the model takes them."""
        return image.normalise(pixels, self.mean, self.std)

    def preprocessor(self) -> dict[str, Any]:
        """Returns what `preprocessor_config.json` says."""
        height, width = self.size
        known = self.config.size is not None
        own: dict[str, Any] = {"views": self.config.views, "scales": self.config.scales}
        if known and self.config.resize is None and self.config.scales is None:
            own["fit"] = "cover"  # which is a shorter side of theirs where height and width are the same
        return {
            **_scaling(self.config),
            "image_processor_type": "BitImageProcessor",  # resize the shorter side, cut the middle, normalise
            "do_resize": known,
            "size": {"shortest_edge": self.config.resize or max(height, width)},
            "do_center_crop": known,
            "crop_size": {"height": height, "width": width},
            **({"dougong": own} if own != {"views": "center", "scales": None} else {}),
        }

    def _resized(self, pixels: Pixels, side: int | None) -> Part:
        if self.config.size is None:
            return pixels
        return image.cover(pixels, *self.size) if side is None else image.resize_shorter(pixels, side)


def _one_crop(pixels: Pixels, height: int, width: int) -> list[Part]:
    return [image.center_crop(pixels, height, width)]


def letterboxed(config: AnnotatedConfig) -> dict[str, Any]:
    """Returns what `preprocessor_config.json` says of pictures with objects to find."""
    height, width = config.size
    return {
        **_scaling(config),
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "do_center_crop": False,
        "dougong": {"letterbox": {"height": height, "width": width, "fill": 0, "place": "top left"}},
    }


def _scaling(config: PicturesConfig) -> Mapping[str, Any]:
    mean, std = config.scaling()
    return {
        "do_convert_rgb": config.channels == 3,
        "resample": image.BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
