"""Masks and lengths say the same, and what is masked is gone."""

from __future__ import annotations

import torch

from dougong.nn.mask import at, blanked, lengths_of, mask_of


def test_mask_of_lengths_has_those_lengths() -> None:
    lengths = torch.tensor([3, 0, 4])
    mask = mask_of(lengths, 4)
    assert mask.tolist() == [[True, True, True, False], [False] * 4, [True] * 4]
    assert torch.equal(lengths_of(mask), lengths)


def test_blanked_replaces_whatever_stood_there() -> None:
    hidden = torch.full((1, 2, 3), torch.nan)
    hidden[0, 0] = 1.0
    mask = mask_of(torch.tensor([1]), 2)
    assert blanked(hidden, mask).tolist() == [[[1.0] * 3, [0.0] * 3]]
    assert blanked(hidden, mask, -1.0)[0, 1].tolist() == [-1.0] * 3
    assert blanked(hidden, None) is hidden


def test_at_takes_one_place_of_each_row() -> None:
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    assert at(hidden, torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [6.0, 7.0]]
