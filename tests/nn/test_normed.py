"""A norm folded into its convolution computes the same, and every part of the formula is needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dougong.nn.lengths import Window
from dougong.nn.named import SpatialNorm
from dougong.nn.norm import BatchNorm2d, GroupNorm2d
from dougong.nn.normed import NormedConvolution2d, fill_convolutions, fold, make_norm_2d

BATCH = SpatialNorm("batch", 32)


def net(bias: bool | None = None, norm: SpatialNorm = BATCH) -> nn.Sequential:
    """Returns two convolutions with their norms, every value drawn."""
    layers = [NormedConvolution2d(3, 6, Window(3, 2), norm, bias), NormedConvolution2d(6, 4, Window(1), norm, bias)]
    for layer in layers:
        for name, tensor in layer.state_dict().items():
            low, high = (0.4, 2.0) if "variance" in name or name == "norm.weight" else (-1.0, 1.0)
            tensor.uniform_(low, high)
    return nn.Sequential(*layers).eval()


IMAGES = torch.randn(2, 3, 9, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bias", [None, True])
def test_folded_equals_unfolded(bias: bool | None) -> None:
    model = net(bias)
    wanted = model(IMAGES)
    assert fold(model) == 2
    assert all(layer.norm is None for layer in model)
    torch.testing.assert_close(model(IMAGES), wanted, atol=1e-5, rtol=1e-5)
    assert fold(model) == 0, "what is folded is not folded again"


def test_folding_in_double_precision_is_exact() -> None:
    model = net().double()
    wanted = model(IMAGES.double())
    fold(model)
    torch.testing.assert_close(model(IMAGES.double()), wanted, atol=1e-13, rtol=1e-13)


def constant(name: str, value: float) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for layer in model.children():
            getattr(layer.norm, name).data.fill_(value)

    return change


@pytest.mark.parametrize(
    ("name", "value"), [("running_mean", 0.0), ("running_variance", 1.0), ("weight", 1.0), ("bias", 0.0)]
)
def test_a_fold_that_forgets_a_part_is_noticed(name: str, value: float) -> None:
    model = net()
    wanted = model(IMAGES)
    constant(name, value)(model)
    fold(model)
    assert (model(IMAGES) - wanted).abs().max() > 0.05


def test_in_training_the_batch_decides_and_folding_would_change_it() -> None:
    model = net().train()
    wanted = model(IMAGES)
    fold(model)
    assert (model(IMAGES) - wanted).abs().max() > 0.05


def test_other_norms_stay() -> None:
    for norm in (SpatialNorm("group", 2), SpatialNorm("none", 32)):
        model = net(norm=norm)
        wanted = model(IMAGES)
        assert fold(model) == 0
        assert torch.equal(model(IMAGES), wanted)


def test_what_is_folded_needs_no_gradient_and_keeps_its_type() -> None:
    model = net().bfloat16()
    fold(model)
    biases = [layer.convolution.bias for layer in model]
    assert all(bias is not None and bias.dtype == torch.bfloat16 and not bias.requires_grad for bias in biases)


def test_a_bias_stands_only_where_no_norm_takes_it_away() -> None:
    kinds = {kind: NormedConvolution2d(2, 4, Window(3), SpatialNorm(kind, 2)) for kind in ("batch", "group", "none")}
    assert {kind: layer.convolution.bias is not None for kind, layer in kinds.items()} == {
        "batch": False,
        "group": False,
        "none": True,
    }
    assert NormedConvolution2d(2, 4, Window(3), BATCH, bias=True).convolution.bias is not None
    assert isinstance(make_norm_2d(BATCH, 4), BatchNorm2d)
    assert isinstance(make_norm_2d(SpatialNorm("group", 2), 4), GroupNorm2d)
    assert make_norm_2d(SpatialNorm("none", 2), 4) is None


# How they begin


def test_each_value_is_a_function_of_seed_and_name() -> None:
    first, same, other, elsewhere = (net() for _ in range(4))
    for model, seed, prefix in ((first, 3, "a."), (same, 3, "a."), (other, 4, "a."), (elsewhere, 3, "b.")):
        fill_convolutions(model, seed, prefix)
    name = "0.convolution.weight"
    values = [model.state_dict()[name] for model in (first, same, other, elsewhere)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert not torch.equal(values[0], values[3])
    two = first.state_dict()["1.convolution.weight"]
    assert not torch.equal(two.flatten(), values[0].flatten()[: two.numel()])


def test_convolutions_begin_as_he_et_al_have_it_and_norms_as_the_identity() -> None:
    model = NormedConvolution2d(16, 64, Window(3), BATCH, bias=True)
    for tensor in model.state_dict().values():
        tensor.fill_(7.0)
    fill_convolutions(model, 0)
    values = model.state_dict()
    assert values["convolution.weight"].std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    assert values["convolution.weight"].mean().abs() < 0.002
    constants = {name: set(tensor.tolist()) for name, tensor in values.items() if tensor.ndim == 1}
    assert constants == {
        "convolution.bias": {0.0},
        "norm.weight": {1.0},
        "norm.bias": {0.0},
        "norm.running_mean": {0.0},
        "norm.running_variance": {1.0},
    }
