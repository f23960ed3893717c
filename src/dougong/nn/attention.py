"""Scaled dot-product attention as the paper has it, and as the machine likes it. Knows no model, no layer, no cache.

Where no mask is given attention is causal, and the queries are the last `time` of the `keys` positions; or, where it is
not to be causal, every query sees every key.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import einsum, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor


def visible(
    queries: Int[Tensor, "*batch time"], keys: Int[Tensor, " keys"], band: int | None = None
) -> Bool[Tensor, "*batch time keys"]:
    """Tells which keys each query may see, given their positions: itself, and the past as far as the band reaches.

    Args:
        queries: Positions of the queries.
        keys: Positions of the keys.
        band: How many positions a query sees, its own included; None is all of the past.
    """
    distance = queries[..., None] - keys
    return distance >= 0 if band is None else (distance >= 0) & (distance < band)


def causal_mask(time: int, keys: int, device: torch.device) -> Bool[Tensor, "time keys"]:
    """Returns the causal mask of the last `time` of `keys` positions."""
    return visible(torch.arange(keys - time, keys, device=device), torch.arange(keys, device=device))


def mask_for(
    mask: Bool[Tensor, "batch time"] | None,
    hidden: Float[Tensor, "batch time dim"],
    causal: bool,
    band: int | None = None,
) -> Bool[Tensor, "#batch 1 time time"] | None:
    """Returns what self-attention over padded rows wants as its mask, or None where it needs none.

    A query sees the items that `causal` and `band` let it see. A masked place sees itself, so that it has something to
    see; what it gives has no meaning. Padding comes last, so no query sees it where attention is causal.

    Args:
        mask: Which places hold an item; None: all.
        hidden: What is attended to.
        causal: Whether a query sees the past alone.
        band: How many positions a query sees to each side it may see, its own included; None is all.
    """
    index = torch.arange(hidden.shape[1], device=hidden.device)
    if causal:
        return None if band is None or hidden.shape[1] <= band else visible(index, index, band)[None, None]
    distance = (index[:, None] - index).abs()
    near = None if band is None or hidden.shape[1] <= band else distance < band
    if mask is None:
        return None if near is None else near[None, None]
    seen = mask[:, None, :] if near is None else mask[:, None, :] & near
    return (seen | (distance == 0))[:, None]


def attention_by_formula(
    query: Float[Tensor, "batch heads time head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    mask: Bool[Tensor, "#batch #heads time keys"] | None = None,
    drop: Callable[[Tensor], Tensor] | None = None,
    causal: bool = True,
) -> Float[Tensor, "batch heads time head_dim"]:
    """Returns `softmax(Q K^T / sqrt(head_dim)) V` (Vaswani et al. 2017, eq. 1), holding all probabilities in memory.

    Args:
        query: Queries; each group of `heads / kv_heads` of them shares one key and value head.
        key: Keys.
        value: Values.
        mask: True where a query may see a key; None: as `causal` says.
        drop: Applied to the probabilities: attention dropout.
        causal: Whether, where there is no mask, a query sees the past alone; else it sees all.
    """
    groups = query.shape[1] // key.shape[1]
    key = repeat(key, "batch kv_heads keys head_dim -> batch (kv_heads groups) keys head_dim", groups=groups)
    value = repeat(value, "batch kv_heads keys head_dim -> batch (kv_heads groups) keys head_dim", groups=groups)
    if mask is None and causal:
        mask = causal_mask(query.shape[2], key.shape[2], query.device)
    scores = einsum(query, key, "batch heads time head_dim, batch heads keys head_dim -> batch heads time keys")
    scores = scores / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    probabilities = scores.softmax(dim=-1)
    if drop is not None:
        probabilities = drop(probabilities)
    return einsum(probabilities, value, "batch heads time keys, batch heads keys head_dim -> batch heads time head_dim")


def attention_fused(
    query: Float[Tensor, "batch heads time head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    mask: Bool[Tensor, "#batch #heads time keys"] | None = None,
    causal: bool = True,
) -> Float[Tensor, "batch heads time head_dim"]:
    """Returns the same as `attention_by_formula` without dropout, by torch's kernel, which never holds all scores."""
    time, keys = query.shape[2], key.shape[2]
    if mask is None and causal and 1 < time < keys:
        mask = causal_mask(time, keys, query.device)
    # A single query that comes last sees every key, so it needs no mask; torch's own causal mask would align it first.
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal and mask is None and time == keys,
        enable_gqa=query.shape[1] != key.shape[1],
    )
