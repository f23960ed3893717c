"""Small models with random weights, and a tokenizer of bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dougong.data.tokenizer import Tokenizer
from dougong.data.vocabulary import BytesConfig
from dougong.infer.language import LanguageModel
from dougong.models.gpt import GPTConfig

SMALL = {"vocab_size": 257, "max_seq_len": 96, "num_layers": 2, "num_heads": 4, "dim": 32, "init_std": 0.3}
KINDS = {
    "gpt2": {},
    "banded": {"attention_pattern": ["dense", "banded"], "band": 5},
    "llama": {
        "num_kv_heads": 2,
        "position": "rotary",
        "norm": "rmsnorm",
        "activation": "silu",
        "gated_mlp": True,
        "bias": False,
        "tie_embeddings": False,
    },
}


@pytest.fixture
def make_model() -> Callable[..., nn.Module]:
    """Gives a function from a kind and changed fields to a model with random weights."""

    def make(kind: str = "gpt2", **changes: object) -> nn.Module:
        model = GPTConfig(**{**SMALL, **KINDS[kind], **changes}).build()
        model.init_weights(seed=1)
        return model.eval()

    return make


@pytest.fixture
def tokenizer() -> Tokenizer:
    return BytesConfig().build(list, list)


@pytest.fixture
def language_model(make_model: Callable[..., nn.Module], tokenizer: Tokenizer) -> LanguageModel:
    return LanguageModel(make_model(), tokenizer)


@pytest.fixture
def prompts() -> list[list[int]]:
    """Prompts of unequal lengths."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 256, (size,), generator=generator).tolist() for size in (7, 1, 20, 12)]
