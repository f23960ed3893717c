"""Batches are split, moved and given noise without changing what they hold."""

from __future__ import annotations

import torch

from dougong.core.contracts import Batch


def batch() -> Batch:
    return Batch({"tokens": torch.arange(10).reshape(5, 2)}, torch.arange(5) + 100, torch.arange(5, dtype=torch.int32))


def test_microbatches_joined_are_the_batch() -> None:
    parts = batch().split(2)
    assert [len(part) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part["tokens"] for part in parts]), batch()["tokens"])
    assert torch.equal(torch.cat([part.samples for part in parts]), batch().samples)
    assert torch.equal(torch.cat([part.noise for part in parts if part.noise is not None]), batch().noise)


def test_a_field_that_is_absent_is_none() -> None:
    assert batch().get("segments") is None
    assert batch().get("tokens") is not None


def test_noise_is_replaced_and_nothing_else() -> None:
    quiet = batch().with_noise(None)
    assert quiet.noise is None
    assert all(part.noise is None for part in quiet.split(2))
    assert torch.equal(quiet["tokens"], batch()["tokens"])


def test_a_batch_moves_whole() -> None:
    moved = batch().to("meta")
    assert moved["tokens"].is_meta
    assert moved.samples.is_meta
    assert moved.noise is not None
    assert moved.noise.is_meta
