"""The feature pyramid: sizes, what each level sees, and where its values come from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.nn.named import SpatialNorm
from dougong.nn.pyramid import FeaturePyramid

PLAIN = SpatialNorm("none")


def made(extra: int = 2, source: str = "c5", norm: SpatialNorm = PLAIN, dim: int = 8) -> FeaturePyramid:
    pyramid = FeaturePyramid((4, 6, 10), dim, extra, source, norm)
    pyramid.fill(0, "pyramid.")
    return pyramid.double()


def maps() -> list[Tensor]:
    sizes = ((4, 13, 9), (6, 7, 5), (10, 4, 3))
    return [torch.randn(2, *size, dtype=torch.float64, requires_grad=True) for size in sizes]


def test_levels_have_the_sizes_of_the_maps_and_then_half_rounded_up() -> None:
    sizes = [(13, 9), (7, 5), (4, 3), (2, 2), (1, 1), (1, 1)]
    assert [tuple(level.shape) for level in made(3)(maps())] == [(2, 8, *size) for size in sizes]
    assert len(made(0)(maps())) == 3


def test_each_level_sees_the_coarser_maps_and_not_the_finer() -> None:
    for number in range(3):
        given = maps()
        made()(given)[number].sum().backward()
        assert [x.grad is not None and bool(x.grad.any()) for x in given] == [n >= number for n in range(3)]


def test_the_way_down_is_the_formula() -> None:
    pyramid, given = made(), maps()
    lateral = [layer(x) for layer, x in zip(pyramid.lateral, given, strict=True)]
    middle = lateral[1] + F.interpolate(lateral[2], size=(7, 5), mode="nearest")
    finest = lateral[0] + F.interpolate(middle, size=(13, 9), mode="nearest")
    torch.testing.assert_close(pyramid(given)[0], pyramid.output[0](finest))
    assert not torch.allclose(pyramid(given)[0], pyramid.output[0](lateral[0]))


@pytest.mark.parametrize("source", ["c5", "p5"])
def test_the_coarser_levels_begin_where_they_are_told_to(source: str) -> None:
    pyramid, given = made(2, source), maps()
    levels = pyramid(given)
    begin = given[-1] if source == "c5" else levels[2]
    torch.testing.assert_close(levels[3], pyramid.extra[0](begin))
    torch.testing.assert_close(levels[4], pyramid.extra[1](levels[3].relu()))
    assert not torch.allclose(levels[4], pyramid.extra[1](levels[3]))


def test_values_keep_the_variance_and_depend_on_the_name() -> None:
    wide = FeaturePyramid((300,), 300, 0, "c5", PLAIN)
    wide.fill(0, "a.")
    variance = wide.lateral[0](torch.randn(1, 300, 9, 9)).var().item()
    assert variance == pytest.approx(1.0, rel=0.1)
    other = FeaturePyramid((300,), 300, 0, "c5", PLAIN)
    other.fill(0, "b.")
    assert not torch.equal(wide.lateral[0].convolution.weight, other.lateral[0].convolution.weight)


def test_a_norm_follows_the_convolutions_of_the_maps() -> None:
    pyramid = made(1, norm=SpatialNorm("group", 2))
    names = {name for name, _ in pyramid.named_parameters()}
    assert {"lateral.0.norm.weight", "output.2.norm.bias", "extra.0.bias"} <= names
    assert "lateral.0.convolution.bias" not in names
    level = pyramid(maps())[0][0].unflatten(0, (2, -1)).flatten(1)
    torch.testing.assert_close(level.mean(dim=1), torch.zeros(2, dtype=torch.float64))
