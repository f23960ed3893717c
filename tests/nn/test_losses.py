from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dougong.nn import losses
from dougong.nn.losses import cross_entropy_by_formula, cross_entropy_chunked, token_nats

VOCAB = 37
OPTIONS = [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.03)]


def inputs(dtype: torch.dtype = torch.float64, ignored: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    features = torch.randn(3, 50, 16, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCAB, 16, dtype=dtype, requires_grad=True)
    targets = torch.randint(VOCAB, (3, 50))
    if ignored:
        targets[torch.rand(targets.shape) < 0.3] = -1
    return features, weight, targets


def gradients(function, features: Tensor, weight: Tensor, targets: Tensor, *options: float) -> tuple[Tensor, ...]:
    result = function(features, weight, targets, *options)
    return result.sum.detach(), *torch.autograd.grad(result.sum * 0.3, (features, weight))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_rows_per_chunk", lambda vocab: 7)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("ignored", [True, False])
@pytest.mark.usefixtures("small_chunks")
def test_chunks_equal_the_formula_in_value_and_gradient(options: tuple[float, float], ignored: bool) -> None:
    data = inputs(ignored=ignored)
    for one, other in zip(
        gradients(cross_entropy_by_formula, *data, *options),
        gradients(cross_entropy_chunked, *data, *options),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", OPTIONS)
def test_one_chunk_equals_the_formula_too(options: tuple[float, float]) -> None:
    data = inputs()
    for one, other in zip(
        gradients(cross_entropy_by_formula, *data, *options),
        gradients(cross_entropy_chunked, *data, *options),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_every_option_changes_value_and_gradient() -> None:
    data = inputs()
    plain = gradients(cross_entropy_chunked, *data)
    for options in OPTIONS[1:]:
        for one, other in zip(plain, gradients(cross_entropy_chunked, *data, *options), strict=True):
            assert not torch.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.usefixtures("small_chunks")
def test_a_bias_counts_in_value_and_gradient_of_both(options: tuple[float, float]) -> None:
    features, weight, targets = inputs()
    bias = torch.randn(VOCAB, dtype=torch.float64, requires_grad=True)
    found = []
    for function in (cross_entropy_by_formula, cross_entropy_chunked):
        result = function(features, weight, targets, *options, bias=bias)
        found.append([result.sum, result.nll, *torch.autograd.grad(result.sum * 0.3, (features, weight, bias))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    without = cross_entropy_chunked(features, weight, targets, *options)
    assert not torch.allclose(without.sum, found[1][0], rtol=1e-3)


def test_a_bias_alone_may_be_learned() -> None:
    features, weight, targets = (tensor.detach() for tensor in inputs())
    bias = torch.zeros(VOCAB, dtype=torch.float64, requires_grad=True)
    cross_entropy_chunked(features, weight, targets, bias=bias).sum.backward()
    logits = (features @ weight.T).flatten(0, 1)
    counts = torch.bincount(targets[targets >= 0], minlength=VOCAB)
    torch.testing.assert_close(bias.grad, logits[targets.flatten() >= 0].softmax(-1).sum(0) - counts)


def test_the_formula_is_that_of_torch() -> None:
    features, weight, targets = inputs()
    logits = (features @ weight.T).flatten(0, 1)
    theirs = F.cross_entropy(logits, targets.flatten(), reduction="sum", ignore_index=-1, label_smoothing=0.1)
    ours = cross_entropy_by_formula(features, weight, targets, 0.1)
    torch.testing.assert_close(ours.sum, theirs)
    assert ours.weight == (targets >= 0).sum()
    torch.testing.assert_close(
        ours.nll, F.cross_entropy(logits, targets.flatten(), reduction="sum", ignore_index=-1).detach()
    )


def test_sums_of_parts_are_reported_alike() -> None:
    data = inputs()
    one, other = cross_entropy_by_formula(*data, 0.1, 0.02), cross_entropy_chunked(*data, 0.1, 0.02)
    for name in ("nll", "z", "weight"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))
    assert other.z > 0


class Largest(TorchDispatchMode):
    """Notes the most elements that any tensor made in this context has."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.usefixtures("small_chunks")
def test_all_logits_are_never_held() -> None:
    features, weight, targets = inputs()
    with Largest() as chunked:
        cross_entropy_chunked(features, weight, targets).sum.backward()
    with Largest() as formula:
        cross_entropy_by_formula(features, weight, targets).sum.backward()
    assert chunked.elements == features.numel()
    assert formula.elements == targets.numel() * VOCAB


@pytest.mark.parametrize("function", [cross_entropy_by_formula, cross_entropy_chunked])
def test_bf16_products_give_nearly_the_same(function) -> None:
    features, weight, targets = inputs(torch.float32)
    exact = gradients(function, features, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = gradients(function, features, weight, targets)
    for one, other in zip(exact, rough, strict=True):
        assert other.dtype == torch.float32
        assert 0 < (one - other).norm() / one.norm() < 0.02


@pytest.mark.usefixtures("small_chunks")
def test_nats_of_each_token_add_up_to_the_sum() -> None:
    features, weight, targets = inputs()
    nats = token_nats(features, weight, targets)
    torch.testing.assert_close(nats.sum(), cross_entropy_by_formula(features, weight, targets).nll)
    assert (nats[targets == -1] == 0).all()
    assert not nats.requires_grad
    bias = torch.randn(VOCAB, dtype=torch.float64)
    shifted = token_nats(features, weight, targets, bias)
    torch.testing.assert_close(shifted.sum(), cross_entropy_by_formula(features, weight, targets, bias=bias).nll)
    assert not torch.allclose(shifted.sum(), nats.sum(), rtol=1e-3)


def test_probabilities_that_underflow_do_no_harm() -> None:
    features = torch.tensor([[[300.0], [-300.0]]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    result = cross_entropy_chunked(features, weight, torch.tensor([[1, 1]]))
    result.sum.backward()
    assert result.sum.item() == 600.0
    assert torch.isfinite(features.grad).all()


def test_a_head_that_is_frozen_gets_no_gradient() -> None:
    features, weight, targets = inputs()
    weight.requires_grad_(False)
    cross_entropy_chunked(features, weight, targets).sum.backward()
    assert weight.grad is None
    assert features.grad is not None
    with torch.no_grad():
        assert cross_entropy_chunked(features, weight, targets).sum > 0
