"""The fused attention is the formula, and the formula is the paper's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dougong.nn.attention import attention_by_formula, attention_fused, causal_mask, mask_for, visible


def heads(kv_heads: int, time: int, keys: int) -> list[Tensor]:
    shapes = ((2, 4, time, 8), (2, kv_heads, keys, 8), (2, kv_heads, keys, 8))
    return [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


def values_and_gradients(attend, tensors: list[Tensor], mask: Tensor | None) -> list[Tensor]:
    mixed = attend(*tensors, mask)
    weights = torch.arange(mixed.numel(), dtype=mixed.dtype).reshape(mixed.shape).cos()
    return [mixed, *torch.autograd.grad((mixed * weights).sum(), tensors)]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(("time", "keys"), [(7, 7), (3, 7), (1, 7), (1, 1)])
def test_fused_equals_formula_in_value_and_gradient(kv_heads: int, time: int, keys: int) -> None:
    tensors = heads(kv_heads, time, keys)
    for mask in (None, visible(torch.arange(keys - time, keys), torch.arange(keys), band=2)[None, None]):
        formula = values_and_gradients(attention_by_formula, tensors, mask)
        fused = values_and_gradients(attention_fused, tensors, mask)
        for one, other in zip(formula, fused, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_a_wrong_mask_is_noticed_by_that_comparison() -> None:
    tensors = heads(2, 5, 5)
    everything = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    assert not torch.allclose(attention_by_formula(*tensors), attention_fused(*tensors, everything))


def test_formula_equals_a_loop_over_queries() -> None:
    query, key, value = heads(2, 4, 4)
    mixed = attention_by_formula(query, key, value)
    for head in range(4):
        for i in range(4):
            scores = key[0, head // 2, : i + 1] @ query[0, head, i] / math.sqrt(8)
            expected = scores.exp() / scores.exp().sum() @ value[0, head // 2, : i + 1]
            torch.testing.assert_close(mixed[0, head, i], expected, rtol=0, atol=1e-12)


def test_band_counts_the_query_itself() -> None:
    assert visible(torch.arange(5), torch.arange(5), band=2).sum(dim=1).tolist() == [1, 2, 2, 2, 2]
    assert torch.equal(visible(torch.arange(5), torch.arange(5)), causal_mask(5, 5, torch.device("cpu")))


def test_queries_are_the_last_of_the_keys() -> None:
    assert causal_mask(2, 4, torch.device("cpu")).tolist() == [[True, True, True, False], [True] * 4]


def test_dropped_probabilities_reach_the_output() -> None:
    tensors = heads(4, 5, 5)
    nothing = attention_by_formula(*tensors, None, torch.zeros_like)
    assert torch.equal(nothing, torch.zeros_like(nothing))
    assert torch.equal(attention_by_formula(*tensors, None, lambda p: p), attention_by_formula(*tensors))


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("time", "keys"), [(7, 7), (3, 7), (1, 7)])
def test_bidirectional_attention_sees_every_key_in_both_forms(kv_heads: int, time: int, keys: int) -> None:
    tensors = heads(kv_heads, time, keys)
    everything = torch.ones(1, 1, time, keys, dtype=torch.bool)
    expected = values_and_gradients(attention_by_formula, tensors, everything)
    for attend in (
        lambda q, k, v, mask: attention_by_formula(q, k, v, mask, None, False),
        lambda q, k, v, mask: attention_fused(q, k, v, mask, False),
    ):
        for one, other in zip(expected, values_and_gradients(attend, tensors, None), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    causal = attention_fused(*tensors)
    assert time == 1 or not torch.allclose(causal, expected[0]), "causal attention must be something else"


def test_mask_of_padded_rows_is_who_may_see_whom() -> None:
    hidden, mask = torch.zeros(2, 4, 1), torch.tensor([[True] * 4, [True, True, False, False]])
    both = mask_for(mask, hidden, False)
    assert both.shape == (2, 1, 4, 4)
    assert both[0, 0].all()
    rows = [[True, True, False, False]] * 2 + [[True, True, True, False], [True, True, False, True]]
    assert both[1, 0].tolist() == rows
    band = mask_for(mask, hidden, False, 2)[0, 0]
    assert band.tolist() == [[abs(i - j) < 2 for j in range(4)] for i in range(4)]
    assert torch.equal(mask_for(mask, hidden, True, 2)[0, 0], visible(torch.arange(4), torch.arange(4), 2))
    assert mask_for(None, hidden, False, 2).shape == (1, 1, 4, 4)


def test_no_mask_is_made_where_none_is_needed() -> None:
    hidden, mask = torch.zeros(2, 4, 1), torch.ones(2, 4, dtype=torch.bool)
    assert mask_for(None, hidden, False) is None
    assert mask_for(None, hidden, False, 4) is None
    assert mask_for(mask, hidden, True) is None
    assert mask_for(mask, hidden, True, 4) is None
