"""Each score of attention is its formula, and masked places get no probability."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dougong.nn.alignment import Alignment
from dougong.nn.mask import mask_of
from tests.nn.padding import filled

MASK = mask_of(torch.tensor([5, 2]), 5)
_DRAWS = torch.Generator().manual_seed(2)
QUERY = torch.randn(2, 3, 6, generator=_DRAWS, dtype=torch.float64)
MEMORY = torch.randn(2, 5, 6, generator=_DRAWS, dtype=torch.float64)
FORMULAS = {
    "additive": lambda a, q, m: a.energy[0] @ torch.tanh(a.query.weight @ q + a.query.bias + a.memory.weight @ m),
    "dot": lambda a, q, m: q @ m,
    "general": lambda a, q, m: q @ a.memory.weight @ m,
}


def by_formula(alignment: Alignment, score: str) -> Tensor:
    """Returns the probabilities, place by place, from the definitions of the papers."""
    rows = []
    for row, places in enumerate((5, 2)):
        scores = [[FORMULAS[score](alignment, q, m) for m in MEMORY[row, :places]] for q in QUERY[row]]
        found = torch.tensor(scores, dtype=torch.float64).softmax(-1)
        rows.append(torch.nn.functional.pad(found, (0, 5 - places)))
    return torch.stack(rows)


@pytest.mark.parametrize("score", FORMULAS)
@torch.no_grad()
def test_a_score_is_its_formula(score: str) -> None:
    alignment = filled(Alignment(score, 6, 6))
    found = alignment(QUERY, alignment.keys(MEMORY), MASK)
    torch.testing.assert_close(found, by_formula(alignment, score), rtol=0, atol=1e-12)
    whole = alignment(QUERY, alignment.keys(MEMORY))
    assert (found - whole).abs().max() > 1e-3, "the mask must make a difference"
    if score != "dot":
        assert (found - by_formula(alignment, "dot")).abs().max() > 1e-3, "the score must make a difference"


@pytest.mark.parametrize("score", ["additive", "general"])
def test_a_memory_may_be_wider_than_the_query(score: str) -> None:
    alignment = filled(Alignment(score, 6, 10))
    memory = torch.randn(2, 5, 10, dtype=torch.float64)
    found = alignment(QUERY, alignment.keys(memory), MASK)
    assert found.shape == (2, 3, 5)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3, dtype=torch.float64))
