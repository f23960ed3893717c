"""What the datasets yield. Knows arrays; does not know where they come from or what is done with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8


@dataclass(frozen=True)
class TokenRow:
    """A slice of the stream of tokens: inputs are `tokens[:-1]`, targets `tokens[1:]`.

    Attributes:
        tokens: Token ids; one more than the context, as rows overlap by one.
        documents: For each token the number of its document, counted through the whole dataset (not from 0 in
            each row); it never falls. Always there: metrics need it to tell documents apart.
        across_documents: Whether attention may cross from one document into the next. If not, a collate makes
            segments from `documents[:-1]`.
    """

    tokens: Int[np.ndarray, " length"]
    documents: Int[np.ndarray, " length"]
    across_documents: bool


@dataclass(frozen=True)
class LabelledText:
    """A text to classify.

    Attributes:
        tokens: Token ids, at least one.
        label: The number of its class.
    """

    tokens: Int[np.ndarray, " length"]
    label: int


@dataclass(frozen=True)
class Picture:
    """A decoded picture with its class, not yet cut to the size that the model wants.

    Attributes:
        pixels: Brightness by colour, 0 to 255.
        label: The number of its class.
    """

    pixels: UInt8[np.ndarray, "height width channel"]
    label: int


@dataclass(frozen=True)
class LabelledImage:
    """A picture to classify, as the model takes it.

    Attributes:
        pixels: Normalised brightness by colour; with a further dim in front, several views of one picture, whose
            answers are averaged.
        label: The number of its class.
        other: The number of the class of a second picture that is mixed in; None: there is none.
        share: The share of the first.
    """

    pixels: Float[np.ndarray, "*view channel height width"]
    label: int
    other: int | None = None
    share: float = 1.0


@dataclass(frozen=True)
class AnnotatedPicture:
    """A decoded picture with the objects in it, not yet cut to the size that the model wants.

    Attributes:
        pixels: Brightness by colour, 0 to 255.
        boxes: Left, top, right and lower edge of each object, in pixels.
        labels: The number of each object's class.
        ignored: Which objects neither count as found nor as missed (VOC's "difficult", COCO's "crowd").
        number: Which picture of its dataset it is.
    """

    pixels: UInt8[np.ndarray, "height width channel"]
    boxes: Float[np.ndarray, "box 4"]
    labels: Int[np.ndarray, " box"]
    ignored: Bool[np.ndarray, " box"]
    number: int


@dataclass(frozen=True)
class AnnotatedImage:
    """A picture with the objects to find in it, as the model takes it.

    Attributes:
        pixels: Normalised brightness by colour.
        boxes: Left, top, right and lower edge of each object, in pixels of `pixels`.
        labels: The number of each object's class.
        ignored: Which objects neither count as found nor as missed.
        number: Which picture of its dataset it is.
        scale: How many pixels of `pixels` one pixel of the file is, downwards and to the right.
        size: Height and width of the picture in its file, in pixels.
    """

    pixels: Float[np.ndarray, "channel height width"]
    boxes: Float[np.ndarray, "box 4"]
    labels: Int[np.ndarray, " box"]
    ignored: Bool[np.ndarray, " box"]
    number: int
    scale: tuple[float, float]
    size: tuple[int, int]
