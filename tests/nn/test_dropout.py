"""Dropout is a function of the example's key, and drops as often as it says."""

from __future__ import annotations

import torch

from dougong.core.seed import sample_keys
from dougong.nn.dropout import dropout

KEYS = sample_keys(torch.arange(8), 0, "dropout")


def test_without_noise_nothing_is_dropped() -> None:
    x = torch.randn(8, 5)
    assert dropout(x, 0.5, None, 0) is x
    assert dropout(x, 0.0, KEYS, 0) is x


def test_elements_are_dropped_with_the_probability_and_the_rest_scaled() -> None:
    dropped = dropout(torch.ones(8, 100, 50), 0.25, KEYS, 0)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    share = (dropped == 0).double().mean(dim=(1, 2))
    assert (share - 0.25).abs().max() < 0.02  # over 3 standard deviations of 5000 draws
    assert abs(dropped.mean().item() - 1) < 0.01


def test_a_row_is_dropped_alike_in_any_microbatch() -> None:
    x = torch.randn(8, 6, 7)
    whole = dropout(x, 0.3, KEYS, 3)
    parts = [dropout(x[i : i + 2], 0.3, KEYS[i : i + 2], 3) for i in range(0, 8, 2)]
    assert torch.equal(whole, torch.cat(parts))


def test_places_keys_and_rows_differ() -> None:
    x = torch.ones(8, 200)
    here = dropout(x, 0.5, KEYS, 0)
    assert not torch.equal(here, dropout(x, 0.5, KEYS, 1))
    assert not torch.equal(here, dropout(x, 0.5, sample_keys(torch.arange(8), 1, "dropout"), 0))
    assert not torch.equal(here[0], here[1])


def test_gradient_flows_where_nothing_was_dropped() -> None:
    x = torch.ones(8, 50, requires_grad=True)
    dropped = dropout(x, 0.5, KEYS, 0)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())
