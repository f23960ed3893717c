"""Pictures that a trained model is asked about: from a file, its content, an array or a Pillow image to an example.

Knows what `preprocessor_config.json` says, ours and that of transformers' image processors, and what timm says instead;
does not know the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from dougong.core.config import validate
from dougong.core.errors import FileError, RecipeError, UsageError
from dougong.data import image
from dougong.data.examples import AnnotatedImage, LabelledImage
from dougong.data.image import Limits, Pixels, read_picture
from dougong.data.images import ClassifiedConfig
from dougong.data.viewing import Viewing

UNKNOWN = -1
_FILE = "preprocessor_config.json"
_SHARE = 224 / 256  # of the shorter side, that is seen where nothing is said
_WARPS = 384  # from this side on ConvNext's processor cuts nothing away
_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": image.BILINEAR, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's
Source = str | Path | bytes | np.ndarray | Any


@dataclass(frozen=True)
class Taken:
    """A picture as the model takes it, and as it was.

    Attributes:
        example: What the task collates; its class, or its objects, are unknown.
        pixels: The decoded picture.
    """

    example: LabelledImage | AnnotatedImage
    pixels: Pixels


class Intake:
    """Turns pictures into examples.

    Args:
        said: The content of `preprocessor_config.json`; empty: cut to the model's size, with ImageNet's scaling.
        shape: Channels, height and width, in pixels, of the pictures that the model takes.

    Raises:
        FileError: It makes no sense, or asks for what is not built here.
    """

    def __init__(self, said: Mapping[str, Any], shape: tuple[int, int, int]):
        channels, height, width = shape
        if channels not in (1, 3):
            raise FileError(f"the model must take pictures of 1 or 3 channels, but takes {channels}.")
        self.channels: Literal[1, 3] = 1 if channels == 1 else 3
        self.size, self.said = (height, width), said
        try:
            own = said.get("dougong") or {}
            self.resample = int(image.BILINEAR if said.get("resample") is None else said["resample"])
            self.letterbox: Mapping[str, Any] | None = own.get("letterbox")
            self.viewing = Viewing(self._config(own), self.size)
        except (RecipeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise FileError(
                f"{_FILE} must say how pictures are made ready, but does not: {reason}. Take the original file."
            ) from error
        if self.resample not in _FILTERS.values():
            raise FileError(f"resample in {_FILE} must be from 0 to 5, Pillow's filters, but is {self.resample}.")

    def _config(self, own: Mapping[str, Any]) -> ClassifiedConfig:
        """Returns what our datasets would have said to the same end."""
        said = self.said
        values: dict[str, Any] = {"channels": self.channels, "size": list(self.size)}
        if said.get("do_normalize", True):
            values |= {key: list(said[f"image_{key}"]) for key in ("mean", "std") if said.get(f"image_{key}")}
        else:
            values |= {"mean": [0.0] * self.channels, "std": [1.0] * self.channels}
        scale = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
        if abs(scale * 255 - 1) > 1e-6:
            raise FileError(f"rescale_factor in {_FILE} must be 1/255, but is {scale}: not built here.")
        if not said.get("do_resize", True) or self._squashes:
            values["size"] = None
        elif own.get("scales"):
            values |= {"scales": list(own["scales"])}
        elif own.get("fit") != "cover" and self._shorter is not None:
            if self._shorter < max(self.size):
                raise FileError(
                    f"size in {_FILE} must be at least the {max(self.size)} pixels that the model takes, but is "
                    f"{self._shorter}: what would be missing is not filled in here."
                )
            values |= {"resize": self._shorter}
        if own.get("views", "center") != "center":
            values |= {"views": own["views"]}
        return validate(ClassifiedConfig, values)

    @property
    def _squashes(self) -> bool:
        """Whether height and width are made the model's without regard to the picture's shape."""
        size = self.said.get("size")
        if self.said.get("do_center_crop", False):
            return False
        if self.said.get("crop_pct") and self._side is not None:
            return self._side >= _WARPS
        kind = str(self.said.get("image_processor_type") or self.said.get("feature_extractor_type"))
        return "height" in size if isinstance(size, Mapping) else size is not None and kind.startswith("ViT")

    @property
    def _side(self) -> int | None:
        """The length of a side that the size names, if it does."""
        size = self.said.get("size")
        side = size.get("shortest_edge") if isinstance(size, Mapping) else size
        return None if side is None else int(side)

    @property
    def _shorter(self) -> int | None:
        """The length of the shorter side before the middle is cut out."""
        if not self.said:
            return round(max(self.size) / _SHARE)
        share = self.said.get("crop_pct")  # ConvNext's: the size is that of the crop
        return self._side if self._side is None or not share else int(self._side / share)

    def take(self, source: Source, name: str | None = None) -> Taken:
        """Returns a picture as the model takes it.

        Args:
            source: A path, the content of a file, a Pillow image, or an array [height width] or [height width channel]
                of whole numbers from 0 to 255.
            name: What a message calls it.

        Raises:
            UsageError: The file does not exist, or the array is no picture.
            FileError: It is no picture, or a broken one.
        """
        pixels = self._decoded(source, name)
        if self.letterbox is not None:
            fitted, scale = image.letterbox(pixels, *self.size)
            nothing = np.zeros((0, 4), dtype=np.float32)
            labels, ignored = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
            height, width = pixels.shape[:2]
            example = AnnotatedImage(self._scaled(fitted), nothing, labels, ignored, 0, scale, (height, width))
            return Taken(example, pixels)
        resizes = self.said.get("do_resize", True)
        if not resizes and pixels.shape[:2] != self.size:
            found, wanted = (" x ".join(map(str, size)) for size in (pixels.shape[:2], self.size))
            raise FileError(
                f"{name or 'the picture'} must be of {wanted} pixels, as the model takes it, but is {found}."
            )
        if resizes and self._squashes:
            return Taken(LabelledImage(self._scaled(image.resize(pixels, *self.size, self.resample)), UNKNOWN), pixels)
        if resizes and self.resample != image.BILINEAR:
            shorter = self._shorter or max(self.size)
            middle = image.center_crop(image.resize_shorter(pixels, shorter, self.resample), *self.size)
            return Taken(LabelledImage(self._scaled(middle), UNKNOWN), pixels)
        return Taken(LabelledImage(self.viewing.views(pixels), UNKNOWN), pixels)

    def _scaled(self, pixels: Pixels) -> Float[np.ndarray, "channel height width"]:
        return self.viewing.normalised(pixels)

    def _decoded(self, source: Source, name: str | None) -> Pixels:
        if isinstance(source, str | Path | bytes):
            return read_picture(source, self.channels, name, Limits())
        found = np.asarray(source)
        found = found[..., None] if found.ndim == 2 else found
        if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] not in (1, 3) or min(found.shape) < 1:
            raise UsageError(
                f"{name or 'a picture'} must be whole numbers from 0 to 255 (uint8) of the shape height x width x 1 or "
                f"3, but is {found.dtype} of {' x '.join(map(str, found.shape))}. Convert it."
            )
        if found.shape[2] == self.channels:
            return found
        if self.channels == 3:
            return np.repeat(found, 3, axis=2)
        weights = np.array([299, 587, 114])  # as Pillow turns colours into shades of grey (ITU-R 601-2)
        return ((found * weights).sum(axis=2, keepdims=True) // 1000).astype(np.uint8)


def said_by_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the `pretrained_cfg` of timm's `config.json` says, as `preprocessor_config.json` would; or nothing.

    The shorter side is resized, and the middle cut out, which is timm's way where `crop_mode` is "center".

    Raises:
        FileError: It names a filter, or a way to cut, that is not built here.
    """
    theirs = config.get("pretrained_cfg")
    if not isinstance(theirs, Mapping) or "input_size" not in theirs:
        return {}
    for key, known in (("interpolation", tuple(_FILTERS)), ("crop_mode", ("center",))):
        if theirs.get(key, known[0]) not in known:
            raise FileError(f"{key} in config.json must be one of {', '.join(known)}, but is {theirs[key]!r}.")
    side, share = max(theirs["input_size"][1:]), theirs.get("crop_pct") or _SHARE
    return {
        "resample": _FILTERS[theirs.get("interpolation", "bilinear")],
        "size": {"shortest_edge": math.floor(side / share)},
        **{f"image_{key}": theirs[key] for key in ("mean", "std") if key in theirs},
    }
