"""Every draw is a function of seed, purpose and place."""

from __future__ import annotations

import torch

from dougong.core import seed


def test_a_key_depends_on_seed_purpose_and_place_alone() -> None:
    keys = {seed.key(1, "init", "a"), seed.key(2, "init", "a"), seed.key(1, "drop", "a"), seed.key(1, "init", "b")}
    assert len(keys) == 4
    assert seed.key(1, "init", "a") == seed.key(1, "init", "a")
    assert all(0 <= key < 1 << 63 for key in keys)


def test_a_generator_is_fresh_each_time_and_moves_no_global_state() -> None:
    before = torch.get_rng_state()
    first, second = (torch.rand(3, generator=seed.generator(0, "x")) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_a_samples_key_does_not_depend_on_the_batch_around_it() -> None:
    samples = torch.arange(100)
    whole = seed.sample_keys(samples, 0, "dropout", 3)
    assert torch.equal(whole[40:45], seed.sample_keys(samples[40:45], 0, "dropout", 3))
    assert len(whole.unique()) == 100
    assert not torch.equal(whole, seed.sample_keys(samples, 0, "dropout", 4))


def test_large_sample_numbers_have_keys_of_their_own() -> None:
    samples = torch.tensor([5, 5 + (1 << 31), 5 + (1 << 40)])
    assert len(seed.sample_keys(samples, 0, "dropout").unique()) == 3


def test_bits_are_uniform_and_differ_by_place_and_sample() -> None:
    keys = seed.sample_keys(torch.arange(4), 0, "dropout")
    bits = seed.draw_bits(keys, (50_000,), place=0)
    assert bits.shape == (4, 50_000)
    assert int(bits.min()) >= 0
    assert int(bits.max()) < 1 << 24
    share = bits.double() / (1 << 24)
    assert torch.allclose(share.mean(1), torch.full((4,), 0.5, dtype=torch.float64), atol=0.01)
    assert torch.allclose(share.var(1), torch.full((4,), 1 / 12, dtype=torch.float64), atol=0.005)
    correlation = torch.corrcoef(torch.cat([share, seed.draw_bits(keys, (50_000,), place=1).double()]))
    assert float((correlation - torch.eye(8, dtype=torch.float64)).abs().max()) < 0.03


def test_folded_keys_differ_by_place() -> None:
    keys = seed.sample_keys(torch.arange(10), 0, "x")
    assert not torch.equal(seed.fold(keys, 0), seed.fold(keys, 1))
