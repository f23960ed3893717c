"""What is written at a row's positions is what is read there, whatever the other rows' lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dougong.core.errors import UsageError
from dougong.nn.cache import KVCache


def keys_of(*rows: list[float]) -> Tensor:
    """Returns one head of width 1 whose keys are the given numbers."""
    return torch.tensor(rows)[:, None, :, None]


def read(cache: KVCache) -> list[list[float]]:
    return cache.keys[0][:, 0, :, 0].tolist()


def feed(cache: KVCache, *rows: list[float]) -> tuple[Tensor, Tensor]:
    found = cache.layer(0).extend(keys_of(*rows), -keys_of(*rows))
    cache.advance(len(rows[0]))
    return found


def test_rows_of_equal_length_are_written_and_read_as_slices() -> None:
    cache = KVCache(1, 2, 1, 4, 1)
    feed(cache, [1.0, 2.0], [3.0, 4.0])
    keys, values = feed(cache, [5.0], [6.0])
    assert keys[:, 0, :, 0].tolist() == [[1, 2, 5], [3, 4, 6]]
    assert torch.equal(values, -keys)
    assert keys.data_ptr() == cache.keys[0].data_ptr(), "reading must not copy the cache"


def test_ragged_rows_are_written_each_at_its_own_end() -> None:
    cache = KVCache(1, 2, 1, 5, 1)
    feed(cache, [1.0, 2.0, 3.0], [4.0, 99.0, 99.0])
    cache.truncate(torch.tensor([3, 1]))
    assert (cache.longest, cache.uniform) == (3, False)
    assert cache.positions(2).tolist() == [[3, 4], [1, 2]]
    keys, values = feed(cache, [5.0], [6.0])
    assert keys[:, 0, :, 0].tolist() == [[1, 2, 3, 5], [4, 6, 99, 0]]
    assert torch.equal(values, -keys)
    assert cache.lengths.tolist() == [4, 2]


def test_truncating_to_one_length_makes_rows_uniform_again() -> None:
    cache = KVCache(1, 2, 1, 4, 1)
    feed(cache, [1.0, 2.0], [3.0, 4.0])
    cache.truncate(torch.tensor([2, 1]))
    cache.truncate(torch.tensor([1, 1]))
    assert cache.uniform
    assert cache.positions(1).tolist() == [1]


@pytest.mark.parametrize("index", [[1, 1], [1], [0, 1, 0]])
def test_reordering_copies_rows_and_their_lengths(index: list[int]) -> None:
    cache = KVCache(1, 2, 1, 3, 1)
    feed(cache, [1.0, 2.0], [3.0, 4.0])
    cache.truncate(torch.tensor([2, 1]))
    before, lengths = read(cache), cache.lengths.tolist()
    cache.reorder(torch.tensor(index))
    assert read(cache) == [before[i] for i in index]
    assert cache.lengths.tolist() == [lengths[i] for i in index]


def test_a_full_cache_says_so() -> None:
    cache = KVCache(1, 1, 1, 2, 1)
    feed(cache, [1.0, 2.0])
    with pytest.raises(UsageError, match="room for 3 tokens, but has 2"):
        cache.positions(1)
