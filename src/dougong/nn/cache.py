"""Keys and values of the tokens already read, in memory that is laid out once. Knows positions; knows no model.

Each row of the batch has its own length. Row `b` writes its next keys at positions `lengths[b], lengths[b] + 1, ...`,
and a query at position `p` may see the keys at positions up to `p`. So what lies beyond a row's length (the padding of
a prompt shorter than its neighbours) is never seen, and is overwritten by what comes next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dougong.core.errors import UsageError


class KVCache:
    """The cache of all layers.

    To prefill prompts of unequal length: pad them on the right, run the model once, then `truncate` to the real
    lengths. As long as all rows are equally long, reads and writes are plain slices and no mask is needed.

    Attributes:
        lengths: int64 [batch], how many tokens of each row are in the cache.
        longest: The greatest of them, known without asking the device.
        uniform: Whether all of them are equal, known without asking the device.
        max_len: How many tokens there is room for.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_kv_heads: int,
        max_len: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        shape = (batch_size, num_kv_heads, max_len, head_dim)
        # Zeros, not whatever was there: a masked key has probability 0, and 0 times NaN would be NaN.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.longest = 0
        self.uniform = True
        self.max_len = max_len

    def positions(self, time: int) -> Int[Tensor, "*batch time"]:
        """Returns the positions of the next `time` tokens: [time] while uniform, else [batch, time].

        Raises:
            UsageError: There is no room for them.
        """
        if self.longest + time > self.max_len:
            raise UsageError(
                f"the cache must have room for {self.longest + time} tokens, but has {self.max_len}. Make it longer."
            )
        steps = torch.arange(time, device=self.lengths.device)
        return self.longest + steps if self.uniform else self.lengths[:, None] + steps

    def layer(self, index: int) -> KVLayer:
        """Returns one layer's part of the cache, which is what a block is given."""
        return KVLayer(self, index)

    def advance(self, time: int) -> None:
        """Counts `time` more tokens in every row, once all layers have written them."""
        self.lengths = self.lengths + time
        self.longest += time

    def truncate(self, lengths: Int[Tensor, " batch"]) -> None:
        """Forgets what lies beyond the given lengths, such as the padding of short prompts. Waits for the device."""
        values = lengths.tolist()
        self.lengths = lengths.to(self.lengths)
        self.longest = max(values)
        self.uniform = min(values) == self.longest

    def reorder(self, index: Int[Tensor, " rows"]) -> None:
        """Makes row `i` a copy of the former row `index[i]`: the surviving beams, or the rows not yet finished."""
        for buffers in (self.keys, self.values):
            for place, buffer in enumerate(buffers):
                chosen = buffer[:, :, : self.longest].index_select(0, index)
                if len(index) != len(buffer):
                    buffers[place] = buffer = buffer.new_zeros(len(index), *buffer.shape[1:])
                buffer[:, :, : self.longest] = chosen
        self.lengths = self.lengths.index_select(0, index)


@dataclass(frozen=True)
class KVLayer:
    """One layer's part of a cache."""

    cache: KVCache
    index: int

    def extend(
        self, key: Float[Tensor, "batch kv_heads time head_dim"], value: Float[Tensor, "batch kv_heads time head_dim"]
    ) -> tuple[Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]]:
        """Writes the next keys and values, and returns all up to the longest row's end (views, not copies)."""
        cache, time = self.cache, key.shape[2]
        keys, values = cache.keys[self.index], cache.values[self.index]
        end = cache.longest + time
        if cache.uniform:
            keys[:, :, cache.longest : end] = key
            values[:, :, cache.longest : end] = value
            if cache.longest == 0:
                return key, value
        else:
            rows = torch.arange(len(keys), device=keys.device)[:, None]
            places = cache.positions(time)
            keys[rows, :, places] = key.transpose(1, 2).to(keys.dtype)
            values[rows, :, places] = value.transpose(1, 2).to(values.dtype)
        return keys[:, :, :end], values[:, :, :end]
