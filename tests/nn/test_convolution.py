"""Convolutions are torch's, a padded row gives what it gives alone, and causal ones do not see the future."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.core.errors import UsageError
from dougong.nn.convolution import Convolution1d, Convolution2d, Patches, flatten_space
from dougong.nn.lengths import Window
from tests.nn.padding import filled, gap_to_alone
from tests.nn.test_init import Operations
from tests.nn.test_lengths import WINDOWS

NARROW = [window for window in WINDOWS if window.kernel < 7]


def by_hand(layer: Convolution1d, row: Tensor) -> Tensor:
    """Returns the sum as the docstring has it, place by place, of a layer without groups."""
    window, places = layer.window, []
    for i in range(window.length(len(row))):
        seen = [i * window.stride - window.before + k * window.dilation for k in range(window.kernel)]
        terms = [layer.weight[:, :, k] @ row[j] for k, j in enumerate(seen) if 0 <= j < len(row)]
        places.append(layer.bias + sum(terms))
    return torch.stack(places)


@pytest.mark.parametrize("window", NARROW, ids=str)
def test_convolution_is_its_formula(window: Window) -> None:
    layer, hidden = filled(Convolution1d(4, 3, window)), torch.randn(2, 11, 4, dtype=torch.float64)
    found = layer(hidden)
    assert found.shape[1] == window.length(11)
    for row, result in zip(hidden, found, strict=True):
        torch.testing.assert_close(result, by_hand(layer, row), rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_convolution_over_time_equals_that_of_torch(groups: int) -> None:
    layer, hidden = filled(Convolution1d(6, 12, Window(3, 2), groups)), torch.randn(2, 9, 6, dtype=torch.float64)
    other = nn.Conv1d(6, 12, 3, 2, padding=1, groups=groups).double()
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(hidden), other(hidden.mT).mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", NARROW, ids=str)
def test_padded_row_gives_what_it_gives_alone(window: Window) -> None:
    layer = filled(Convolution1d(4, 6, window, groups=2))
    assert gap_to_alone(layer, 4, window.length) < 1e-10


def test_padding_that_is_not_zeroed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.nn.convolution.blanked", lambda hidden, mask: hidden.nan_to_num(1.0))
    assert gap_to_alone(filled(Convolution1d(4, 6, Window(3))), 4) > 1e-3


@pytest.mark.parametrize(("padding", "sees"), [("causal", False), ("centred", True)])
def test_only_a_causal_convolution_is_blind_to_what_comes_later(padding: str, sees: bool) -> None:
    layer = filled(Convolution1d(4, 4, Window(3, 1, 2, padding)))
    hidden = torch.randn(1, 8, 4, dtype=torch.float64)
    later = hidden.clone()
    later[:, 5:] += 1.0
    difference = (layer(hidden) - layer(later))[:, :5].abs().max().item()
    assert (difference > 1e-3) if sees else (difference == 0.0)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_over_space_equals_that_of_torch(groups: int, bias: bool) -> None:
    layer, images = filled(Convolution2d(4, 8, Window(3, 2, 2), groups, bias)), torch.randn(2, 4, 9, 12).double()
    other = nn.Conv2d(4, 8, 3, 2, padding=2, dilation=2, groups=groups, bias=bias).double()
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(images), other(images), rtol=0, atol=1e-12)
    assert layer(images).shape[2:] == (5, 6)


@pytest.mark.parametrize("window", [Window(4, 2), Window(2, 1, 3), Window(3, 1, 1, "none")], ids=str)
def test_convolution_over_space_has_the_declared_size(window: Window) -> None:
    layer, images = filled(Convolution2d(3, 5, window)), torch.randn(1, 3, 11, 8, dtype=torch.float64)
    found = layer(images)
    assert found.shape[2:] == (window.length(11), window.length(8))
    column = F.conv2d(
        F.pad(images, (window.before, window.after) * 2), layer.weight, layer.bias, window.stride, 0, window.dilation
    )
    torch.testing.assert_close(found, column, rtol=0, atol=1e-12)


def test_patches_are_projected_one_by_one() -> None:
    layer, images = filled(Patches(3, 5, 4)), torch.randn(2, 3, 8, 12, dtype=torch.float64)
    sequence = layer(images)
    assert sequence.shape == (2, 6, 5)
    patch = images[1, :, 4:8, 8:12]
    expected = layer.weight.flatten(1) @ patch.flatten() + layer.bias
    torch.testing.assert_close(sequence[1, 5], expected, rtol=0, atol=1e-12)
    assert not torch.allclose(sequence[1, 4], expected)


def test_space_is_flattened_row_by_row() -> None:
    images = torch.arange(12.0).reshape(1, 2, 2, 3)
    assert flatten_space(images)[0].tolist() == [[i, i + 6.0] for i in range(6)]


def test_gradients_reach_every_parameter() -> None:
    for layer, inputs in (
        (Convolution1d(4, 4, Window(3, padding="causal")), torch.randn(2, 5, 4)),
        (Convolution2d(4, 4, Window(3)), torch.randn(2, 4, 5, 5)),
        (Patches(4, 4, 2), torch.randn(2, 4, 4, 4)),
    ):
        filled(layer)(inputs.double()).square().sum().backward()
        assert all(p.grad.abs().max() > 0 for p in layer.parameters())


def test_making_a_layer_fills_nothing() -> None:
    with Operations() as done, torch.device("meta"):
        Convolution1d(4, 4, Window(3))
        Convolution2d(4, 4, Window(3))
        Patches(4, 4, 2)
    assert done.names <= {"empty", "detach"}


def test_impossible_layers_are_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match="groups must divide what goes in and what comes out, but is 3 for 4 and 6"):
        Convolution1d(4, 6, Window(3), groups=3)
    with pytest.raises(UsageError, match="must be centred or none, but is causal"):
        Convolution2d(4, 6, Window(3, padding="causal"))
    with pytest.raises(UsageError, match="at least 5 places for a window without padding, but there are 4"):
        Convolution1d(4, 6, Window(3, dilation=2, padding="none"))(torch.randn(1, 4, 4))
    with pytest.raises(UsageError, match="the patch size must divide the width, but 6 % 4 is 2"):
        Patches(1, 2, 4)(torch.randn(1, 1, 8, 6))
