"""Decoding without state: the tokens read so far are kept, and all of them are read again for each new one.

Attention could keep keys and values, a recurrence its state, a convolution its window; a list of stages mixes them at
will, so what is kept is what serves them all. A step costs as much as reading the text: for drafts and samples.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dougong.nn.cache import KVCache


class TokenCache(KVCache):
    """A cache whose only layer holds token numbers. Rows may be of unequal lengths, as in every cache."""

    def __init__(self, batch_size: int, max_len: int, device: torch.device | str):
        super().__init__(1, batch_size, 1, max_len, 1, torch.int64, device)

    def read(self, tokens: Int[Tensor, "batch time"]) -> tuple[Int[Tensor, "batch all"], Int[Tensor, "batch time"]]:
        """Adds tokens to what was read; returns all of each row, and where in it the new ones stand."""
        time = tokens.shape[1]
        places = self.positions(time).expand(tokens.shape)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        kept = self.keys[0][:, 0, :, 0]
        kept[rows, places] = tokens
        whole = kept[:, : self.longest + time]
        self.advance(time)
        return whole, places


def at_places(
    hidden: Float[Tensor, "batch all dim"], places: Int[Tensor, "batch time"]
) -> Float[Tensor, "batch time dim"]:
    """Returns what stands at some places of each row."""
    return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
