"""How a recurrent decoder weighs the places of its source: Bahdanau et al. 2015, Luong et al. 2015. Knows no model."""

from __future__ import annotations

import math
from typing import Literal

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dougong.nn.init import Linear

Score = Literal["additive", "dot", "general"]


class Alignment(nn.Module):
    """Attention of one head whose score is learned in one of three ways.

    | score | of a query q and a place m of the memory |
    |---|---|
    | additive | `v tanh(W q + U m)`: Bahdanau et al. 2015, section A.1.2; Luong et al. 2015, eq. 8, "concat" |
    | dot | `q m` (eq. 8): the query must be as wide as the memory |
    | general | `q W m` (eq. 8) |
    """

    def __init__(self, score: Score, query_dim: int, memory_dim: int):
        super().__init__()
        self.score = score
        additive = score == "additive"
        self.memory = None if score == "dot" else Linear(memory_dim, query_dim, bias=False)
        self.query = Linear(query_dim, query_dim, bias=True) if additive else None
        self.energy = nn.Parameter(torch.empty(1, query_dim)) if additive else None

    def keys(self, memory: Float[Tensor, "batch source memory_dim"]) -> Float[Tensor, "batch source query_dim"]:
        """Returns what of the memory every query is compared with: computed once."""
        return memory if self.memory is None else self.memory(memory)

    def forward(
        self,
        query: Float[Tensor, "batch time query_dim"],
        keys: Float[Tensor, "batch source query_dim"],
        mask: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch time source"]:
        """Returns for each query the probabilities of the places; masked ones have none."""
        if self.query is not None and self.energy is not None:
            joined = (self.query(query)[:, :, None] + keys[:, None]).tanh()
            scores = einsum(joined, self.energy[0], "batch time source dim, dim -> batch time source")
        else:
            scores = einsum(query, keys, "batch time dim, batch source dim -> batch time source")
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -math.inf)
        return scores.softmax(dim=-1)
