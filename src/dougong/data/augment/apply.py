"""A list of augmentations applied to one picture, as a function of the picture and of a generator alone (law 1).

Draws from the generator that is given and from no other, and keeps no state: it may run in any thread or process, in
any order. Pictures come out as 8-bit pixels, 0 to 255. Does not know how pictures are decoded or normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dougong.core.errors import UsageError
from dougong.data.augment import Augmentation, ScaleCrop, geometry, tone
from dougong.data.augment.geometry import Scene, Size, image_of, pixels_of
from dougong.data.augment.mix import MIXES
from dougong.data.examples import AnnotatedPicture, Picture
from dougong.data.image import Pixels, center_crop, cover

MOVES: dict[str, Callable[[Scene, Any, Size, np.random.Generator], Scene]] = {
    "crop": geometry.crop,
    "scale_crop": geometry.scale_crop,
    "pad_crop": geometry.pad_crop,
    "box_crop": geometry.box_crop,
    "scale_jitter": geometry.scale_jitter,
    "flip": geometry.flip,
    "flip_vertical": geometry.flip_vertical,
    "rotate": geometry.rotate,
    "affine": geometry.affine,
}
TONES: dict[str, Callable[[Any, Any, np.random.Generator], Any]] = {
    "colour": tone.colour,
    "grey": tone.grey,
    "lighting": tone.lighting,
    "blur": tone.blur,
    "rand_augment": tone.rand_augment,
    "erase": tone.erase,
}
CUT_FROM_WHOLE = ("crop", "scale_crop")  # what takes the picture as it comes; before all others it is fitted


class Pipeline:
    """A list of augmentations, and the size that comes out.

    Args:
        augmentations: In their order; MixUp and CutMix at the end.
        size: Height and width, in pixels.

    Raises:
        UsageError: On applying it: a picture has other than one or three channels. At once: `scale_crop` makes
            pictures smaller than the size.
    """

    def __init__(self, augmentations: Sequence[Augmentation], size: tuple[int, int]):
        self.size = size
        self.single = [each for each in augmentations if not each.mixes]
        self.mixes = [each for each in augmentations if each.mixes]
        for each in augmentations:
            if isinstance(each, ScaleCrop) and each.shorter[0] < min(size):
                raise UsageError(
                    f"augment's scale_crop must scale the shorter side to at least the {min(size)} pixels that the "
                    f"model takes, but begins at {each.shorter[0]}. Raise scale_crop.shorter."
                )

    def classified(
        self, picture: Picture, partner: Callable[[int], Picture], count: int, rng: np.random.Generator
    ) -> tuple[Pixels, int | None, float]:
        """Returns the pixels, the class of a second picture that is mixed in (None: none is), and the first's share.

        Without `crop` or `scale_crop`, the picture is first resized to cover the size, and its middle cut out.

        Args:
            picture: The picture.
            partner: Returns training picture i of `count`; asked for MixUp and CutMix alone. It goes through the
                same list, with draws of its own.
            count: How many training pictures there are.
            rng: What is drawn from.
        """
        pixels = self._changed(picture, rng)
        if not self.mixes:
            return pixels, None, 1.0
        mix: Any = self.mixes[rng.integers(len(self.mixes))]
        if rng.random() >= mix.probability:
            return pixels, None, 1.0
        second = partner(int(rng.integers(count)))
        mixed, share = MIXES[mix.word](pixels, self._changed(second, rng), mix, rng)
        return mixed, second.label, share

    def annotated(self, picture: AnnotatedPicture, rng: np.random.Generator) -> AnnotatedPicture:
        """Returns a picture of exactly the size, with the boxes that are left, where they have come to lie.

        What is not of the size's shape is padded with black below or at its right. A box is left if it is at least a
        pixel wide and high, and if enough of it is: what `box_crop.visible` says, and a quarter after `affine`,
        `rotate` and `scale_jitter`.
        """
        kept = np.arange(len(picture.boxes))
        scene = Scene(_image(picture.pixels), picture.boxes.astype(np.float64), kept)
        scene = geometry.letterboxed(self._through(scene, rng), self.size)
        return AnnotatedPicture(
            pixels_of(scene.picture),
            scene.boxes.astype(np.float32),
            picture.labels[scene.kept],
            picture.ignored[scene.kept],
            picture.number,
        )

    def _changed(self, picture: Picture, rng: np.random.Generator) -> Pixels:
        pixels = picture.pixels
        if not any(each.word in CUT_FROM_WHOLE for each in self.single):
            pixels = center_crop(cover(pixels, *self.size), *self.size)
        scene = Scene(_image(pixels), np.zeros((0, 4)), np.zeros(0, dtype=int))
        return pixels_of(self._through(scene, rng).picture)

    def _through(self, scene: Scene, rng: np.random.Generator) -> Scene:
        for each in self.single:
            if each.word in MOVES:
                scene = MOVES[each.word](scene, each, self.size, rng)
            else:
                scene = Scene(TONES[each.word](scene.picture, each, rng), scene.boxes, scene.kept)
        return scene


def _image(pixels: Pixels) -> Any:
    """Returns Pillow's image of a picture.

    Raises:
        UsageError: It has other than one or three channels.
    """
    channels = pixels.shape[-1]
    if channels not in (1, 3):
        raise UsageError(
            f"a picture to augment must have one channel or three, but has {channels}. Decode it as grey or as RGB."
        )
    return image_of(pixels)
