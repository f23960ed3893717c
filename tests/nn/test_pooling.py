"""Pooling is its definition over the places that hold an item, and over those alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.core.errors import UsageError
from dougong.nn.lengths import Window
from dougong.nn.mask import mask_of
from dougong.nn.pooling import mean_of_space, pool_space, pool_time, pool_windows
from tests.nn.padding import LENGTHS, gap_to_alone, rows
from tests.nn.test_lengths import WINDOWS

KINDS = ["mean", "max"]


def reduced(kind: str, values: Tensor) -> Tensor:
    return values.mean(0) if kind == "mean" else values.amax(0)


@pytest.mark.parametrize("kind", ["mean", "max", "last", "first"])
def test_pooling_over_time_is_that_of_the_valid_places(kind: str) -> None:
    hidden, mask = rows(3)
    found = pool_time(kind, hidden, mask)
    for row, count in enumerate(LENGTHS.tolist()):
        valid = hidden[row, :count]
        expected = {"last": valid[-1], "first": valid[0]}.get(kind)
        torch.testing.assert_close(found[row], reduced(kind, valid) if expected is None else expected)
    assert gap_to_alone(lambda h, m: pool_time(kind, h, m), 3) < 1e-10


def test_padding_that_is_counted_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.nn.pooling.lengths_of", lambda mask: torch.full((len(mask),), mask.shape[1]))
    assert gap_to_alone(lambda h, m: pool_time("mean", h, m), 3) > 1e-3


@pytest.mark.parametrize("kind", ["mean", "max", "last", "first"])
def test_a_row_without_items_gives_zeros(kind: str) -> None:
    hidden = torch.full((1, 3, 2), torch.nan, requires_grad=True)
    pooled = pool_time(kind, hidden, mask_of(torch.tensor([0]), 3))
    assert pooled.tolist() == [[0.0, 0.0]]
    pooled.sum().backward()
    assert hidden.grad.tolist() == [[[0.0, 0.0]] * 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_windows_are_pooled_over_what_they_hold(kind: str, window: Window) -> None:
    if kind == "mean" and window.dilation > 1:
        with pytest.raises(UsageError, match="the dilation of a mean over windows must be 1, but is 2"):
            pool_windows(kind, torch.randn(1, 13, 2), window)
        return
    hidden = torch.randn(2, 13, 3, dtype=torch.float64)
    found = pool_windows(kind, hidden, window)
    assert found.shape == (2, window.length(13), 3)
    for i in range(window.length(13)):
        seen = [i * window.stride - window.before + k * window.dilation for k in range(window.kernel)]
        valid = hidden[:, [j for j in seen if 0 <= j < 13]]
        torch.testing.assert_close(found[:, i], reduced(kind, valid.transpose(0, 1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [w for w in WINDOWS if w.dilation == 1 and w.kernel < 7], ids=str)
def test_padded_row_gives_what_it_gives_alone(kind: str, window: Window) -> None:
    assert gap_to_alone(lambda h, m: pool_windows(kind, h, window, m), 3, window.length) < 1e-10


def test_what_lies_beyond_a_row_is_zero() -> None:
    hidden, mask = rows(3)
    pooled = pool_windows("max", hidden, Window(3, 2), mask)
    assert pooled[1, 2:].tolist() == [[0.0] * 3] * 3
    assert pooled.isfinite().all()


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (1, 1), (4, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_over_space_are_pooled_over_what_they_hold(kind: str, kernel: int, stride: int) -> None:
    images, window = torch.randn(2, 3, 9, 8, dtype=torch.float64), Window(kernel, stride)
    found = pool_space(kind, images, window)
    assert found.shape[2:] == (window.length(9), window.length(8))
    for i in range(window.length(9)):
        for j in range(window.length(8)):
            top, left = i * stride - window.before, j * stride - window.before
            seen = images[:, :, max(top, 0) : top + kernel, max(left, 0) : left + kernel].flatten(2)
            torch.testing.assert_close(found[:, :, i, j], reduced(kind, seen.movedim(2, 0)), rtol=0, atol=1e-12)


def test_pooling_of_resnet_is_that_of_torch() -> None:
    images = torch.randn(1, 2, 16, 16)
    assert torch.equal(pool_space("max", images, Window(3, 2)), F.max_pool2d(images, 3, 2, padding=1))
    assert torch.equal(mean_of_space(images), F.adaptive_avg_pool2d(images, 1).flatten(1))
    whole = pool_space("mean", images, Window(2, 2, padding="none"))
    assert torch.equal(whole, F.avg_pool2d(images, 2, 2))


def test_a_mean_that_counts_the_border_is_noticed() -> None:
    images = torch.ones(1, 1, 4, 4)
    assert pool_space("mean", images, Window(3)).min().item() == 1.0
    assert F.avg_pool2d(images, 3, 1, padding=1).min().item() == pytest.approx(4 / 9)


def test_dilated_maximum_over_space() -> None:
    images = torch.randn(1, 2, 9, 9)
    assert torch.equal(pool_space("max", images, Window(3, 1, 2)), _dilated(images))


def _dilated(images: Tensor) -> Tensor:
    padded = F.pad(images, (2,) * 4, value=-math.inf)
    return F.max_pool2d(padded, 3, 1, dilation=2)


def test_impossible_windows_are_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match="must be centred or none"):
        pool_space("max", torch.randn(1, 1, 4, 4), Window(3, padding="causal"))
    with pytest.raises(UsageError, match="the dilation of a mean over windows must be 1, but is 2"):
        pool_space("mean", torch.randn(1, 1, 9, 9), Window(3, 1, 2))
    with pytest.raises(UsageError, match="at least 3 places"):
        pool_windows("max", torch.randn(1, 2, 4), Window(3, padding="none"))
