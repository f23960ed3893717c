"""The norms are their formulas, in any precision."""

from __future__ import annotations

import pytest
import torch

from dougong.nn.norm import make_norm


def filled(kind: str, bias: bool) -> torch.nn.Module:
    norm = make_norm(kind, 6, 1e-2, bias)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    return norm


def test_layernorm_is_its_formula() -> None:
    norm, x = filled("layernorm", True), torch.randn(3, 6)
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-2).sqrt()
    torch.testing.assert_close(norm(x), expected * norm.weight + norm.bias)


def test_rmsnorm_is_its_formula() -> None:
    norm, x = filled("rmsnorm", False), torch.randn(3, 6)
    torch.testing.assert_close(norm(x), x / (x.pow(2).mean(-1, keepdim=True) + 1e-2).sqrt() * norm.weight)


@pytest.mark.parametrize(
    ("kind", "bias", "count"), [("layernorm", True, 2), ("layernorm", False, 1), ("rmsnorm", True, 1)]
)
def test_only_layernorm_has_a_bias(kind: str, bias: bool, count: int) -> None:
    assert len(list(make_norm(kind, 6, 1e-5, bias).parameters())) == count


def test_rmsnorm_takes_narrower_input_than_its_weight() -> None:
    assert filled("rmsnorm", False)(torch.randn(3, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16
