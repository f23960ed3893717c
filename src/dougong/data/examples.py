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
        segments: For each token whether it belongs to the first text (0) or the second (1); None: there is no second.
    """

    tokens: Int[np.ndarray, " length"]
    label: int
    segments: Int[np.ndarray, " length"] | None = None


@dataclass(frozen=True)
class EncoderText:
    """A text, or two, as an encoder reads them: `[CLS] first [SEP]`, or `[CLS] first [SEP] second [SEP]`.

    Attributes:
        tokens: Token ids, with those of the frame.
        segments: For each token whether it belongs to the first text (0) or the second (1).
        follows: Whether the second follows the first where they come from; None: there is no second.
    """

    tokens: Int[np.ndarray, " length"]
    segments: Int[np.ndarray, " length"]
    follows: bool | None = None


@dataclass(frozen=True)
class TaggedText:
    """A text with a tag for each of its words.

    Attributes:
        tokens: Token ids.
        tags: For each token the number of its tag; -1 where none counts (the frame, and all but a word's first token).
        number: Which sentence of its dataset it is; a long one gives several examples, one after the other.
        spans: For each word's first token the characters of the text that the word stands for, from and to; -1, -1
            elsewhere. None: there is no text, but a list of words.
    """

    tokens: Int[np.ndarray, " length"]
    tags: Int[np.ndarray, " length"]
    number: int
    spans: Int[np.ndarray, "length 2"] | None = None


@dataclass(frozen=True)
class QuestionWindow:
    """A question with a part of the text that may answer it: `[CLS] question [SEP] part [SEP]`.

    Attributes:
        tokens: Token ids, with those of the frame.
        segments: 0 for the question, 1 for the text.
        start: The place among `tokens` of the answer's first token; 0 (`[CLS]`) where this part has no answer.
        end: The place of its last token; 0 where there is none.
        spans: For each token the characters of the text that it stands for, from and to; -1, -1 outside the text.
        question: Which question of its dataset it is; a long text gives several windows of one question.
    """

    tokens: Int[np.ndarray, " length"]
    segments: Int[np.ndarray, " length"]
    start: int
    end: int
    spans: Int[np.ndarray, "length 2"]
    question: int


@dataclass(frozen=True)
class TextPair:
    """A text and its translation.

    Attributes:
        source: Token ids of the text, with the token that ends it.
        target: Token ids of the translation, with the token that ends it.
        number: Which pair of its dataset it is.
    """

    source: Int[np.ndarray, " source"]
    target: Int[np.ndarray, " target"]
    number: int


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
