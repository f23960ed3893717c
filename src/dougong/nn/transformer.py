"""Self-attention with grouped queries and the Transformer block around it (Vaswani et al. 2017). Knows no model.

Causal or not, with rotary positions or none, over bands, with normalised queries and keys, with the norm before each
sub-layer or after it (Xiong et al. 2020): one block, described by a `BlockShape`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dougong.nn.attention import attention_by_formula, attention_fused
from dougong.nn.cache import KVLayer
from dougong.nn.dropout import dropout
from dougong.nn.feedforward import FeedForward, GatedFeedForward
from dougong.nn.init import Linear
from dougong.nn.named import Activation
from dougong.nn.norm import make_norm
from dougong.nn.position import rotate

Rotation = tuple[Float[Tensor, "*broadcast time half"], Float[Tensor, "*broadcast time half"]]


@dataclass(frozen=True)
class BlockShape:
    """What a block is made of. The names are those of the models' configs.

    Attributes:
        dim: Width of the residual stream.
        num_heads: Number of heads of queries.
        hidden_dim: Width inside the feed-forward network; None is four times `dim`.
        num_kv_heads: Number of heads of keys and values; None is as many as of queries.
        head_dim: Width of one head; None is `dim / num_heads`.
        activation: Non-linearity of the feed-forward network.
        gated: Whether the feed-forward network is gated.
        norm: Which norm.
        norm_eps: What it adds to the variance.
        norm_first: Whether a norm stands before each sub-layer (inside the branch), or after each sum.
        bias: Whether linear layers and LayerNorms have a bias.
        qk_norm: Whether queries and keys are normalised, head by head.
        causal: Whether a query sees the past alone where no mask is given.
        dropout: Probability of dropping an element of a sub-layer's output.
        attention_dropout: Probability of dropping an attention probability.
    """

    dim: int
    num_heads: int
    hidden_dim: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    activation: Activation = "gelu"
    gated: bool = False
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_eps: float = 1e-5
    norm_first: bool = True
    bias: bool = True
    qk_norm: bool = False
    causal: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0

    @property
    def kv_heads(self) -> int:
        """The number of key and value heads, given or derived."""
        return self.num_kv_heads or self.num_heads

    @property
    def width_of_head(self) -> int:
        """The width of one head, given or derived."""
        return self.head_dim or self.dim // self.num_heads


class Attention(nn.Module):
    """Self-attention with grouped queries; queries, keys and values come from one fused product."""

    def __init__(self, shape: BlockShape):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.num_heads, shape.kv_heads, shape.width_of_head
        self.causal, self.attention_dropout = shape.causal, shape.attention_dropout
        width = self.heads * self.head_dim
        self.qkv = Linear(shape.dim, width + 2 * self.kv_heads * self.head_dim, bias=shape.bias)
        self.query_norm, self.key_norm = (
            make_norm(shape.norm, self.head_dim, shape.norm_eps, shape.bias) if shape.qk_norm else nn.Identity()
            for _ in range(2)
        )
        self.output = Linear(width, shape.dim, bias=shape.bias)

    def forward(
        self,
        hidden: Float[Tensor, "batch time dim"],
        rotation: Rotation | None = None,
        mask: Bool[Tensor, "*batch time keys"] | None = None,
        memory: KVLayer | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Returns each position's mixture of what it may see. Arguments are those of `Block.forward`."""
        heads = rearrange(
            self.qkv(hidden), "batch time (heads head_dim) -> batch heads time head_dim", head_dim=self.head_dim
        )
        query, key, value = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if memory is not None:
            key, value = memory.extend(key, value)
        if self.attention_dropout and noise is not None:
            drop = functools.partial(dropout, probability=self.attention_dropout, noise=noise, place=0)
            mixed = attention_by_formula(query, key, value, mask, drop, self.causal)
        else:
            mixed = attention_fused(query, key, value, mask, self.causal)
        return self.output(rearrange(mixed, "batch heads time head_dim -> batch time (heads head_dim)"))


class Block(nn.Module):
    """One layer: `x + attention(norm(x))`, then `x + feedforward(norm(x))`; or `norm(x + attention(x))`, and so on.

    All blocks of a model run the same code on the same shapes (a layer's own noise comes as an argument), so that one
    compiled block serves all.
    """

    def __init__(self, shape: BlockShape):
        super().__init__()
        self.dropout, self.norm_first = shape.dropout, shape.norm_first
        network = GatedFeedForward if shape.gated else FeedForward
        self.attention_norm = make_norm(shape.norm, shape.dim, shape.norm_eps, shape.bias)
        self.attention = Attention(shape)
        self.feedforward_norm = make_norm(shape.norm, shape.dim, shape.norm_eps, shape.bias)
        self.feedforward = network(shape.dim, shape.hidden_dim or 4 * shape.dim, shape.activation, shape.bias)

    def forward(
        self,
        hidden: Float[Tensor, "batch time dim"],
        rotation: Rotation | None = None,
        mask: Bool[Tensor, "*batch time keys"] | None = None,
        memory: KVLayer | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Returns the residual stream after this layer.

        Args:
            hidden: The residual stream.
            rotation: Cosines and sines of the positions, where they are rotary.
            mask: Which keys each query may see (`attention.mask_for` makes it); None: as `BlockShape.causal` says.
            memory: This layer's part of the cache.
            noise: This layer's own key per row; None switches dropout off.
        """
        if not self.norm_first:
            mixed = self.attention(hidden, rotation, mask, memory, noise)
            hidden = self.attention_norm(hidden + dropout(mixed, self.dropout, noise, place=1))
            transformed = self.feedforward(hidden)
            return self.feedforward_norm(hidden + dropout(transformed, self.dropout, noise, place=2))
        mixed = self.attention(self.attention_norm(hidden), rotation, mask, memory, noise)
        hidden = hidden + dropout(mixed, self.dropout, noise, place=1)
        transformed = self.feedforward(self.feedforward_norm(hidden))
        return hidden + dropout(transformed, self.dropout, noise, place=2)
