"""Augmentation of pictures: what it does, as a list in a recipe, each below its own word.

Here are the configs, which need no arrays, so that a recipe is checked at once; what they do to pictures is in
`apply.py`. Knows no dataset: one that takes `augment` declares it as `Augmentations` and yields what `faults_of` finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from dougong.core.config import Fault, Form, Keyed, shown

Probability = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

KINDS: dict[str, type[Augmentation]] = {}


class Augmentation(Form):
    """One augmentation, written below its word.

    Attributes:
        crops: Whether it cuts the picture to the size that the model takes, so that no other may.
        mixes: Whether it takes a second picture, and so comes last.
        for_classes: Whether it may be used on pictures that have a class.
        no_boxes: Why it may not be used on pictures whose objects have boxes, and what to do; None: it may.
    """

    crops: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    for_classes: ClassVar[bool] = True
    no_boxes: ClassVar[str | None] = None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Enters an augmentation under its word."""
        if cls.word:
            KINDS[cls.word] = cls


def augmentations() -> Mapping[str, type[Augmentation]]:
    """Returns the configs by their words."""
    return KINDS


Augmentations = list[Annotated[Augmentation, Keyed("an augmentation", augmentations)]]


def faults_of(augment: Sequence[Augmentation], field: str = "augment", boxes: bool = False) -> Iterator[Fault]:
    """Yields what is wrong in a list of augmentations, for the `faults` of the config that holds it.

    Args:
        augment: The list.
        field: Where it stands in that config.
        boxes: Whether the pictures have boxes to keep, rather than a class.
    """
    crop: str | None = None
    words = [each.word for each in augment]
    for number, each in enumerate(augment):
        here = f"{field}[{number}]"
        if boxes and each.no_boxes is not None:
            yield Fault(here, f"({each.word}) must keep every object in its box, but {each.no_boxes}")
        if not boxes and not each.for_classes:
            text = "must be given boxes to keep, but these pictures have none. Use crop or affine instead."
            yield Fault(here, f"({each.word}) {text}")
        if each.crops and crop is not None:
            yield Fault(here, f"({each.word}) must be the only crop, but {crop} cuts, too. Keep one of them.")
        crop = f"{here} ({each.word})" if each.crops and crop is None else crop
        if not each.mixes:
            continue
        if each.word in words[:number]:
            yield Fault(here, f"({each.word}) must be given once, but stands twice. Remove one.")
        later = next((other.word for other in augment[number + 1 :] if not other.mixes), None)
        if later is not None:
            text = f"must come after all that changes a single picture, but {later} follows. Move it to the end."
            yield Fault(here, f"({each.word}) {text}")


def _falling(form: Augmentation, *fields: str) -> Iterator[Fault]:
    """Yields the ranges that do not go from the smaller to the larger number."""
    for name in fields:
        low, high = getattr(form, name)
        if low > high:
            text = f"must go from the smaller to the larger number, but is {shown([low, high])}. Swap them."
            yield Fault(name, text)


def _idle(form: Augmentation, advice: str) -> Iterator[Fault]:
    """Yields the fault of a form whose every option has the value that changes nothing."""
    if all(getattr(form, name) == info.default for name, info in type(form).model_fields.items()):
        names = ", ".join(type(form).model_fields)
        yield Fault("", f"must change something, but gives none of {names}. Write {advice}.")


# What cuts


class Crop(Augmentation):
    """A random part of the picture, scaled to the model's size (Szegedy et al. 2015, section 6)."""

    word: ClassVar[str] = "crop"
    main: ClassVar[str | None] = "scale"
    crops: ClassVar[bool] = True
    no_boxes: ClassVar[str | None] = "may cut all of them away. Use box_crop instead."
    scale: tuple[Share, Share] = (0.08, 1.0)
    """Smallest and largest area of the part, as a share of the picture's."""
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    """Smallest and largest width of the part over its height."""

    def faults(self) -> Iterator[Fault]:
        """Yields ranges that fall."""
        yield from _falling(self, "scale", "ratio")


class ScaleCrop(Augmentation):
    """The picture scaled at random, and a part of the model's size cut from it (Simonyan and Zisserman 2015)."""

    word: ClassVar[str] = "scale_crop"
    main: ClassVar[str | None] = "shorter"
    crops: ClassVar[bool] = True
    no_boxes: ClassVar[str | None] = "may cut all of them away. Use scale_jitter instead."
    shorter: tuple[PositiveInt, PositiveInt] = (256, 480)
    """Smallest and largest length that the shorter side is scaled to, in pixels."""

    def faults(self) -> Iterator[Fault]:
        """Yields a range that falls."""
        yield from _falling(self, "shorter")


class PadCrop(Augmentation):
    """The picture moved at random by a few pixels; black comes in at the edge (He et al. 2016, section 4.2)."""

    word: ClassVar[str] = "pad_crop"
    main: ClassVar[str | None] = "padding"
    crops: ClassVar[bool] = True
    no_boxes: ClassVar[str | None] = "cuts to the model's size at once. Use scale_jitter or affine instead."
    padding: PositiveInt = 4
    """How far at most, in pixels of the model's size."""


class BoxCrop(Augmentation):
    """A random part of the picture, with the objects that are in it (Liu et al. 2016, section 2.2)."""

    word: ClassVar[str] = "box_crop"
    main: ClassVar[str | None] = "scale"
    crops: ClassVar[bool] = True
    for_classes: ClassVar[bool] = False
    scale: tuple[Share, Share] = (0.3, 1.0)
    """Smallest and largest area of the part, as a share of the picture's."""
    ratio: tuple[Positive, Positive] = (0.5, 2.0)
    """Smallest and largest width of the part over its height."""
    visible: Share | None = None
    """Least share of an object's box that must be left for it to count; absent: its centre must be."""
    probability: Probability = 0.8
    """How often it is cut; a part without any object is never taken."""
    enlarge: Annotated[float, Field(ge=1)] = 1.0
    """Largest factor by which half of the pictures, before, come to lie on a black ground; 1: none do."""

    def faults(self) -> Iterator[Fault]:
        """Yields ranges that fall."""
        yield from _falling(self, "scale", "ratio")


class ScaleJitter(Augmentation):
    """The picture scaled at random, then cut or padded to the model's size (Ghiasi et al. 2021, section 3)."""

    word: ClassVar[str] = "scale_jitter"
    main: ClassVar[str | None] = "scale"
    for_classes: ClassVar[bool] = False
    scale: tuple[Positive, Positive] = (0.8, 1.25)
    """Smallest and largest size, where 1 is that at which the whole picture just fits."""

    def faults(self) -> Iterator[Fault]:
        """Yields a range that falls."""
        yield from _falling(self, "scale")


# What moves


class Flip(Augmentation):
    """The picture mirrored from left to right."""

    word: ClassVar[str] = "flip"
    main: ClassVar[str | None] = "probability"
    probability: Probability = 0.5
    """How often."""


class FlipVertical(Augmentation):
    """The picture mirrored from top to bottom."""

    word: ClassVar[str] = "flip_vertical"
    main: ClassVar[str | None] = "probability"
    probability: Probability = 0.5
    """How often."""


class Rotate(Augmentation):
    """The picture turned about its centre; the corners that come free are black."""

    word: ClassVar[str] = "rotate"
    main: ClassVar[str | None] = "degrees"
    degrees: Annotated[float, Field(gt=0, le=180)] = 15.0
    """How far at most, to either side, in degrees."""


class Affine(Augmentation):
    """The picture turned, scaled and slanted about its centre, and moved; what comes free is black."""

    word: ClassVar[str] = "affine"
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """How far it is turned at most, to either side, in degrees."""
    translate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How far it is moved at most along each axis, as a share of the picture's length there."""
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    """Smallest and largest factor by which it is scaled."""
    shear: Annotated[float, Field(ge=0, lt=45)] = 0.0
    """How far it is slanted at most along each axis, in degrees."""

    def faults(self) -> Iterator[Fault]:
        """Yields a range that falls, and the fault of a form that says nothing."""
        yield from _falling(self, "scale")
        yield from _idle(self, "degrees: 15, for example")


# What colours


class Colour(Augmentation):
    """Brightness, contrast, saturation and hue changed at random, in random order (Howard 2013)."""

    word: ClassVar[str] = "colour"
    brightness: Annotated[float, Field(ge=0)] = 0.0
    """Brightness is multiplied by a number that is at most so far from 1."""
    contrast: Annotated[float, Field(ge=0)] = 0.0
    """The distance from the mean brightness is multiplied by a number that is at most so far from 1."""
    saturation: Annotated[float, Field(ge=0)] = 0.0
    """The distance from grey is multiplied by a number that is at most so far from 1; grey pictures stay."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """How far at most hues are moved around their circle, to either side, in turns; grey pictures stay."""

    def faults(self) -> Iterator[Fault]:
        """Yields the fault of a form that says nothing."""
        yield from _idle(self, "brightness: 0.4, for example")


class Grey(Augmentation):
    """The picture without its colours."""

    word: ClassVar[str] = "grey"
    main: ClassVar[str | None] = "probability"
    probability: Probability = 0.1
    """How often."""


class Lighting(Augmentation):
    """Noise along the principal components of ImageNet's colours (Krizhevsky et al. 2012, section 4.1).

    Pictures of one channel stay as they are.
    """

    word: ClassVar[str] = "lighting"
    main: ClassVar[str | None] = "std"
    std: Positive = 0.1
    """Standard deviation of the factor of each component."""


class Blur(Augmentation):
    """The picture blurred by a Gaussian (Chen et al. 2020, appendix A)."""

    word: ClassVar[str] = "blur"
    main: ClassVar[str | None] = "sigma"
    sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Smallest and largest standard deviation, in pixels."""
    probability: Probability = 0.5
    """How often."""

    def faults(self) -> Iterator[Fault]:
        """Yields a range that falls."""
        yield from _falling(self, "sigma")


class RandAugment(Augmentation):
    """A few of fourteen changes of colour and shape, drawn anew for each picture (Cubuk et al. 2020)."""

    word: ClassVar[str] = "rand_augment"
    main: ClassVar[str | None] = "magnitude"
    no_boxes: ClassVar[str | None] = "moves the picture without its boxes. Use affine and colour instead."
    num_ops: PositiveInt = 2
    """How many, one after the other (the paper's N)."""
    magnitude: Annotated[float, Field(ge=0, le=30)] = 9.0
    """How strong, from 0 to 30 (the paper's M)."""


class Erase(Augmentation):
    """A random rectangle of the picture covered (Zhong et al. 2020)."""

    word: ClassVar[str] = "erase"
    main: ClassVar[str | None] = "probability"
    no_boxes: ClassVar[str | None] = "may cover one. Remove it."
    probability: Probability = 0.5
    """How often."""
    scale: tuple[Share, Share] = (0.02, 0.4)
    """Smallest and largest area of the rectangle, as a share of the picture's."""
    ratio: tuple[Positive, Positive] = (0.3, 1 / 0.3)
    """Smallest and largest width of the rectangle over its height."""
    fill: Literal["noise", "black"] = "noise"
    """What covers it."""

    def faults(self) -> Iterator[Fault]:
        """Yields ranges that fall."""
        yield from _falling(self, "scale", "ratio")


# What mixes


class MixUp(Augmentation):
    """The weighted mean of two pictures, and of their losses (Zhang et al. 2018). With cutmix, one of both is drawn."""

    word: ClassVar[str] = "mixup"
    main: ClassVar[str | None] = "alpha"
    mixes: ClassVar[bool] = True
    no_boxes: ClassVar[str | None] = "lets two pictures shine through each other. Remove it."
    alpha: Positive = 0.2
    """The weight is drawn from Beta(alpha, alpha)."""
    probability: Probability = 1.0
    """How often."""


class CutMix(Augmentation):
    """A rectangle of another picture pasted in, losses weighted by area (Yun et al. 2019).

    With mixup, one of both is drawn.
    """

    word: ClassVar[str] = "cutmix"
    main: ClassVar[str | None] = "alpha"
    mixes: ClassVar[bool] = True
    no_boxes: ClassVar[str | None] = "may cover one. Remove it."
    alpha: Positive = 1.0
    """The share of the area that stays is drawn from Beta(alpha, alpha)."""
    probability: Probability = 1.0
    """How often."""
