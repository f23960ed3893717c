"""What an encoder leaves for its decoder. Knows neither."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """Sources as the encoder understood them, one row each.

    Attributes:
        features: A vector for each token of the source.
        mask: Which places hold a token; None: all.
        state: What a recurrent decoder begins with, for each layer its state and, of an LSTM, its cell; else None.
    """

    features: Float[Tensor, "batch source dim"]
    mask: Bool[Tensor, "batch source"] | None = None
    state: Float[Tensor, "batch cells hidden_dim"] | None = None

    def select(self, index: Int[Tensor, " rows"]) -> Memory:
        """Returns the rows of the given numbers: one several times, say, for several beams."""
        parts = (self.features, self.mask, self.state)
        features, mask, state = (None if part is None else part.index_select(0, index) for part in parts)
        assert features is not None
        return Memory(features, mask, state)
