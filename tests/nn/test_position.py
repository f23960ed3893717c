"""Rotary positions depend on distances alone, and their scalings are the published ones; sinusoidal ones too."""

from __future__ import annotations

import math

import pytest
import torch

from dougong.nn.named import LinearScaling, Llama3Scaling
from dougong.nn.position import frequencies, rotary, rotate, sinusoidal, sinusoidal_halves

CPU = torch.device("cpu")
LLAMA3 = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_seq_len=64)


def scores(offset: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(2, 1, 1, 6, 8, generator=generator, dtype=torch.float64)
    cosine, sine = rotary(torch.arange(6) + offset, frequencies(8, 10000.0, None, CPU), torch.float64)
    return rotate(query, cosine, sine) @ rotate(key, cosine, sine).transpose(-1, -2)


def test_scores_depend_on_distance_alone() -> None:
    torch.testing.assert_close(scores(0), scores(100), rtol=0, atol=1e-4)


def test_scores_depend_on_distance() -> None:
    heads = torch.ones(1, 1, 6, 8)
    cosine, sine = rotary(torch.arange(6), frequencies(8, 10000.0, None, CPU), torch.float32)
    row = (rotate(heads, cosine, sine) @ rotate(heads, cosine, sine).transpose(-1, -2))[0, 0, 5]
    assert len({round(value, 4) for value in row.tolist()}) == 6


def test_rotation_keeps_lengths() -> None:
    heads = torch.randn(2, 3, 5, 8)
    cosine, sine = rotary(torch.arange(5), frequencies(8, 100.0, None, CPU), torch.float32)
    torch.testing.assert_close(rotate(heads, cosine, sine).norm(dim=-1), heads.norm(dim=-1))


def test_linear_scaling_divides_positions() -> None:
    plain = rotary(torch.arange(4), frequencies(8, 10000.0, None, CPU), torch.float32)
    scaled = rotary(torch.arange(0, 16, 4), frequencies(8, 10000.0, LinearScaling(factor=4.0), CPU), torch.float32)
    torch.testing.assert_close(plain, scaled)


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
def test_llama3_scaling_equals_that_of_transformers(theta: float) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, rope_parameters=rope, max_position_embeddings=512)
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, CPU)
    torch.testing.assert_close(frequencies(64, theta, LLAMA3, CPU), expected, rtol=1e-6, atol=0)
    assert not torch.allclose(frequencies(64, theta, None, CPU), expected, rtol=1e-6, atol=0)


def test_angles_are_exact_far_out_even_in_half_precision() -> None:
    far = rotary(torch.tensor([65537]), frequencies(8, 10000.0, None, CPU), torch.bfloat16)[0][0, 0]
    assert far.item() == torch.tensor(65537.0, dtype=torch.float64).cos().to(torch.bfloat16).item()


def test_sinusoidal_positions_are_their_formula() -> None:
    found = sinusoidal(torch.arange(50), 6, torch.float64)
    for position in (0, 1, 49):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert found[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert found[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_sinusoidal_positions_of_an_odd_width_and_of_rows_that_differ() -> None:
    whole = sinusoidal(torch.arange(5), 5, torch.float32)
    assert whole.shape == (5, 5)
    rows = sinusoidal(torch.tensor([[0, 1], [3, 4]]), 5, torch.float32)
    assert torch.equal(rows[1], whole[3:])
    assert not torch.equal(rows[0], rows[1])


def test_sinusoidal_distance_is_a_rotation() -> None:
    # The paper's reason for the form: the product of two positions' vectors depends on their distance alone.
    vectors = sinusoidal(torch.arange(40), 16, torch.float64)
    products = vectors @ vectors.T
    torch.testing.assert_close(products[:-7, 7:].diagonal(), products[0, 7].expand(33), rtol=0, atol=1e-5)
    assert (products[:-7, 7:].diagonal() - products[0, 8]).abs().min() > 1e-3


@pytest.mark.parametrize("dim", [6, 7])
def test_halves_are_the_sines_then_the_cosines(dim: int) -> None:
    found = sinusoidal_halves(torch.arange(5), dim, torch.float32)
    for place in range(5):
        angles = [place / 10000 ** (2 * i / dim) for i in range((dim + 1) // 2)]
        wanted = [math.sin(a) for a in angles] + [math.cos(a) for a in angles[: dim // 2]]
        assert found[place].tolist() == pytest.approx(wanted, abs=1e-6)
    assert (found - sinusoidal(torch.arange(5), dim, torch.float32)).abs().max() > 0.1
