"""The feed-forward networks are their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from dougong.nn.feedforward import FeedForward, GatedFeedForward, activate, activate_compiled

FORMULAS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "relu": lambda x: x.clamp(min=0),
}


def filled(network: torch.nn.Module) -> torch.nn.Module:
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


@pytest.mark.parametrize("kind", FORMULAS)
def test_activation_is_its_formula(kind: str) -> None:
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    torch.testing.assert_close(activate(kind, x), FORMULAS[kind](x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", FORMULAS)
def test_form_for_compiling_equals_the_formula_in_value_and_gradient(kind: str) -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    values = [function(kind, x) for function in (activate, activate_compiled)]
    gradients = [torch.autograd.grad(value.square().sum(), x)[0] for value in values]
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)


def test_no_two_activations_are_the_same() -> None:
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    assert len({tuple(activate(kind, x).tolist()) for kind in FORMULAS}) == len(FORMULAS)


def test_plain_network_is_its_formula() -> None:
    network, x = filled(FeedForward(4, 7, "relu", True)), torch.randn(2, 4)
    inner = (x @ network.up.weight.T + network.up.bias).clamp(min=0)
    torch.testing.assert_close(network(x), inner @ network.down.weight.T + network.down.bias)


def test_gated_network_is_its_formula() -> None:
    network, x = filled(GatedFeedForward(4, 7, "silu", False)), torch.randn(2, 4)
    inner = FORMULAS["silu"](x @ network.gate.weight.T) * (x @ network.up.weight.T)
    torch.testing.assert_close(network(x), inner @ network.down.weight.T)
