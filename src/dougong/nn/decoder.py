"""Attention to a memory, the decoder's layer of the Transformer, and its cache (Vaswani et al. 2017). Knows no model.

Keys and values of the memory are computed once for all tokens that are decoded after one another.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dougong.nn.attention import attention_by_formula, attention_fused
from dougong.nn.cache import KVCache, KVLayer
from dougong.nn.dropout import dropout
from dougong.nn.feedforward import FeedForward, GatedFeedForward
from dougong.nn.init import Linear
from dougong.nn.norm import make_norm
from dougong.nn.transformer import Attention, BlockShape

KeysAndValues = tuple[Float[Tensor, "batch heads source head_dim"], Float[Tensor, "batch heads source head_dim"]]


class CrossAttention(nn.Module):
    """Attention of each target's places to its source; keys and values come from one fused product."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        self.head_dim, self.attention_dropout = shape.width_of_head, shape.attention_dropout
        width = shape.num_heads * self.head_dim
        self.query = Linear(shape.dim, width, bias=shape.bias)
        self.memory = Linear(shape.dim, 2 * width, bias=shape.bias)
        self.output = Linear(width, shape.dim, bias=shape.bias)

    def keys_and_values(self, memory: Float[Tensor, "batch source dim"]) -> KeysAndValues:
        """Returns what of the memory is compared with queries, and what is mixed."""
        pattern = "batch source (two heads head_dim) -> two batch heads source head_dim"
        key, value = rearrange(self.memory(memory), pattern, two=2, head_dim=self.head_dim)
        return key, value

    def forward(
        self,
        hidden: Float[Tensor, "batch time dim"],
        memory: Float[Tensor, "batch source dim"] | None,
        mask: Bool[Tensor, "batch source"] | None = None,
        cached: DecoderLayer | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Returns each place's mixture of its source. Arguments are those of `DecoderBlock.forward`."""
        query = rearrange(
            self.query(hidden), "batch time (heads head_dim) -> batch heads time head_dim", head_dim=self.head_dim
        )
        if cached is None:
            assert memory is not None, "a memory, or a cache of one, must be given"
            key, value = self.keys_and_values(memory)
        else:
            key, value = cached.memory
            cached.note(query[:, :, -1])
        seen = None if mask is None else mask[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)
        if self.attention_dropout and noise is not None:
            drop = functools.partial(dropout, probability=self.attention_dropout, noise=noise, place=3)
            mixed = attention_by_formula(query, key, value, seen, drop, causal=False)
        else:
            mixed = attention_fused(query, key, value, seen, causal=False)
        return self.output(rearrange(mixed, "batch heads time head_dim -> batch time (heads head_dim)"))


class DecoderBlock(nn.Module):
    """One layer of a decoder: attention to its own past, attention to the memory, a feed-forward network.

    The norm stands before each of the three or after each sum, as `BlockShape` says. All blocks of a model run the
    same code on the same shapes, so that one compiled block serves all.
    """

    def __init__(self, shape: BlockShape):
        super().__init__()
        self.dropout, self.norm_first = shape.dropout, shape.norm_first
        network = GatedFeedForward if shape.gated else FeedForward
        self.attention_norm, self.cross_norm, self.feedforward_norm = (
            make_norm(shape.norm, shape.dim, shape.norm_eps, shape.bias) for _ in range(3)
        )
        self.attention = Attention(shape)
        self.cross = CrossAttention(shape)
        self.feedforward = network(shape.dim, shape.hidden_dim or 4 * shape.dim, shape.activation, shape.bias)

    def forward(
        self,
        hidden: Float[Tensor, "batch time dim"],
        memory: Float[Tensor, "batch source dim"] | None,
        mask: Bool[Tensor, "batch source"] | None = None,
        cached: DecoderLayer | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Returns the residual stream after this layer.

        Args:
            hidden: The residual stream.
            memory: What the encoder gave; may be None where there is a cache, which holds what is needed of it.
            mask: Which places of the memory hold something; None: all.
            cached: This layer's part of the cache.
            noise: This layer's own key per row; None switches dropout off.
        """
        own = None if cached is None else cached.own
        hidden = self._own(hidden, own, noise)
        mixed = self.cross(self.cross_norm(hidden) if self.norm_first else hidden, memory, mask, cached, noise)
        hidden = hidden + dropout(mixed, self.dropout, noise, place=4)
        hidden = hidden if self.norm_first else self.cross_norm(hidden)
        transformed = self.feedforward(self.feedforward_norm(hidden) if self.norm_first else hidden)
        hidden = hidden + dropout(transformed, self.dropout, noise, place=2)
        return hidden if self.norm_first else self.feedforward_norm(hidden)

    def _own(self, hidden: Tensor, own: KVLayer | None, noise: Tensor | None) -> Tensor:
        """Returns the residual stream after attention to the past."""
        given = self.attention_norm(hidden) if self.norm_first else hidden
        mixed = self.attention(given, memory=own, noise=noise)
        hidden = hidden + dropout(mixed, self.dropout, noise, place=1)
        return hidden if self.norm_first else self.attention_norm(hidden)


class DecoderCache:
    """Keys and values of the tokens already decoded and of the memory, for all layers.

    Attributes:
        own: Those of the tokens.
        mask: Which places of the memory hold something; None: all.
        attention: With which probabilities the last token looked at the memory in the last layer, as a mean over
            heads; None where that is not asked for, and before the first token.
    """

    def __init__(
        self,
        own: KVCache,
        memory: list[KeysAndValues],
        mask: Bool[Tensor, "batch source"] | None,
        watches: bool = False,
    ):
        self.own, self.memory, self.mask, self.watches = own, memory, mask, watches
        self.attention: Float[Tensor, "rows source"] | None = None
        self._origin = torch.arange(len(memory[0][0]), device=memory[0][0].device)

    @property
    def length(self) -> int:
        """How many tokens have been decoded."""
        return self.own.longest

    def layer(self, index: int) -> DecoderLayer:
        """Returns one layer's part of the cache, which is what a block is given."""
        return DecoderLayer(self, index)

    def advance(self, time: int) -> None:
        """Counts `time` more tokens in every row, once all layers have written them."""
        self.own.advance(time)

    def require_room(self, time: int) -> None:
        """Checks that there is room for `time` more tokens.

        Raises:
            UsageError: There is none.
        """
        self.own.positions(time)

    def reorder(self, index: Int[Tensor, " rows"]) -> None:
        """Makes row `i` a copy of the former row `index[i]`: the surviving beams, or the rows not yet finished."""
        self.own.reorder(index)
        if self.attention is not None:
            self.attention = self.attention.index_select(0, index)
        origin = self._origin.index_select(0, index)
        if torch.equal(origin, self._origin):  # beams that changed places within their source: its memory is the same
            return
        self._origin = origin
        self.memory = [(key.index_select(0, index), value.index_select(0, index)) for key, value in self.memory]
        self.mask = None if self.mask is None else self.mask.index_select(0, index)


@dataclass(frozen=True)
class DecoderLayer:
    """One layer's part of a decoder's cache."""

    cache: DecoderCache
    index: int

    @property
    def own(self) -> KVLayer:
        """What attention to the past is given."""
        return self.cache.own.layer(self.index)

    @property
    def memory(self) -> KeysAndValues:
        """Keys and values of the memory."""
        return self.cache.memory[self.index]

    def note(self, query: Float[Tensor, "batch heads head_dim"]) -> None:
        """Keeps the probabilities with which a query looks at the memory, if that is asked for and this is the last."""
        cache = self.cache
        if not cache.watches or self.index + 1 < len(cache.memory):
            return
        pattern = "batch heads head_dim, batch heads source head_dim -> batch heads source"
        scores = einsum(query, self.memory[0], pattern) / math.sqrt(query.shape[-1])
        if cache.mask is not None:
            scores = scores.masked_fill(~cache.mask[:, None], -math.inf)
        cache.attention = scores.softmax(dim=-1).mean(dim=1)
