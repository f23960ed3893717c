"""Rotary positions depend on distances alone, and their scalings are the published ones."""

from __future__ import annotations

import pytest
import torch

from dougong.nn.named import LinearScaling, Llama3Scaling
from dougong.nn.position import frequencies, rotary, rotate

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
