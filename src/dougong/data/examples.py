"""What the datasets yield. Knows arrays; does not know where they come from or what is done with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


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
class LabelledImage:
    """A picture to classify.

    Attributes:
        pixels: Brightness by colour, of about the size that the model wants.
        label: The number of its class.
    """

    pixels: Float[np.ndarray, "channel height width"]
    label: int
