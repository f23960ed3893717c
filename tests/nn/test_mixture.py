"""A mixture of experts is its formula, each token alone, and computes no more than its own experts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dougong.core.errors import UsageError
from dougong.nn.feedforward import activate
from dougong.nn.mixture import MixtureOfExperts, experts_by_formula, experts_sorted, grouped_linear
from tests.nn.padding import filled, gap_to_alone
from tests.nn.test_init import Operations

FORMS = [experts_by_formula, experts_sorted]
gated = pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])


def token_by_token(layer: MixtureOfExperts, token: Tensor) -> Tensor:
    """Returns the published sum for one token, by a loop over its experts."""
    scores, experts = (layer.router.weight @ token).topk(layer.chosen)
    result = torch.zeros_like(token)
    for share, expert in zip(scores.exp() / scores.exp().sum(), experts.tolist(), strict=True):
        inner = layer.up[expert] @ token
        if layer.gate is None:
            inner = activate(layer.activation, inner)
        else:
            inner = activate(layer.activation, layer.gate[expert] @ token) * inner
        result = result + share * (layer.down[expert] @ inner)
    return result


@gated
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chosen", [1, 2, 5])
def test_both_forms_are_the_published_sum(gated: bool, form, chosen: int) -> None:
    layer, hidden = filled(MixtureOfExperts(6, 8, 5, chosen, "silu", gated)), torch.randn(2, 7, 6, dtype=torch.float64)
    layer.combine = form
    found = layer(hidden)
    for place, token in enumerate(hidden[1]):
        torch.testing.assert_close(found[1, place], token_by_token(layer, token), rtol=0, atol=1e-12)


@gated
def test_forms_have_the_same_gradients(gated: bool) -> None:
    layer, hidden = filled(MixtureOfExperts(6, 8, 5, 2, "gelu", gated)), torch.randn(3, 6, dtype=torch.float64)
    hidden.requires_grad_()
    slopes = []
    for layer.combine in FORMS:
        slopes.append(torch.autograd.grad(layer(hidden).sin().sum(), [hidden, *layer.parameters()]))
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_form_that_mixes_up_the_experts_is_noticed() -> None:
    layer, hidden = filled(MixtureOfExperts(6, 8, 5, 2, "gelu")), torch.randn(4, 6, dtype=torch.float64)
    expected = layer(hidden)
    layer.combine = lambda tokens, experts, *rest: experts_sorted(tokens, (experts + 1) % 5, *rest)
    assert (layer(hidden) - expected).abs().max() > 1e-3


def test_a_token_depends_on_no_other() -> None:
    layer = filled(MixtureOfExperts(6, 8, 4, 2, "relu"))
    assert gap_to_alone(lambda hidden, mask: layer(hidden.nan_to_num(0.0)), 6) < 1e-10
    assert gap_to_alone(lambda hidden, mask: layer(hidden.nan_to_num(3.0)), 6) < 1e-10


def test_every_expert_that_was_chosen_gets_a_gradient_and_no_other() -> None:
    layer = filled(MixtureOfExperts(6, 8, 5, 1, "gelu"))
    hidden = torch.randn(1, 1, 6, dtype=torch.float64)
    expert = (layer.router.weight @ hidden[0, 0]).argmax().item()
    layer(hidden).sum().backward()
    assert [bool(g.abs().max() > 0) for g in layer.up.grad] == [e == expert for e in range(5)]


@gated
def test_only_chosen_experts_are_computed(gated: bool) -> None:
    layer, hidden = filled(MixtureOfExperts(6, 8, 5, 2, "gelu", gated)), torch.randn(2, 7, 6, dtype=torch.float64)
    with FlopCounterMode(display=False) as sparse:
        layer(hidden)
    expert, router, mixing = 2 * 6 * 8 * (2 + gated), 2 * 6 * 5, 2 * 2 * 6
    assert sparse.get_total_flops() == 14 * (2 * expert + router + mixing)
    layer.combine = experts_by_formula
    with FlopCounterMode(display=False) as dense:
        layer(hidden)
    assert dense.get_total_flops() > 2 * sparse.get_total_flops()


def test_gradient_of_grouped_products_costs_twice_the_product() -> None:
    rows, weight = torch.randn(6, 4, requires_grad=True), torch.randn(3, 5, 4, requires_grad=True)
    with FlopCounterMode(display=False) as counted:
        grouped_linear(rows, weight, torch.tensor([2, 0, 4])).sum().backward()
    assert counted.get_total_flops() == 3 * 2 * 6 * 4 * 5


def test_grouped_products_of_precision_as_autocast_says() -> None:
    rows, weight, counts = torch.randn(6, 4), torch.randn(3, 5, 4), torch.tensor([2, 0, 4])
    with torch.autocast("cpu", torch.bfloat16):
        assert grouped_linear(rows, weight, counts).dtype == torch.bfloat16
    assert grouped_linear(rows, weight, counts).dtype == torch.float32


def test_mixture_is_made_empty_and_meta_gives_shapes() -> None:
    with Operations() as done, torch.device("meta"):
        layer = MixtureOfExperts(6, 8, 5, 2, "silu", True)
    assert done.names <= {"empty", "detach"}
    assert layer(torch.empty(2, 3, 6, device="meta")).shape == (2, 3, 6)


def test_more_experts_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(UsageError, match="the chosen experts must be from 1 to 4, but are 5"):
        MixtureOfExperts(6, 8, 4, 5, "silu")
