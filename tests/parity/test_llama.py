"""Llama: the same logits and gradients as transformers, with every kind of head, position and embedding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dougong.checkpoint.weights import load_model
from tests.parity.reference import (
    TOKENS,
    assert_classifier_parity,
    assert_every_form_opens,
    assert_old_files_open,
    assert_opens_in_transformers,
    assert_parity,
    randomised,
    saved,
)

SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES = {
    "all-heads": {},
    "grouped": {"num_key_value_heads": 2},
    "one-key": {"num_key_value_heads": 1, "rms_norm_eps": 1e-3},
    "tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama3": {"num_key_value_heads": 2, "rope_parameters": LLAMA3},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "biased": {"attention_bias": True, "mlp_bias": True},
    "wide-heads": {"head_dim": 16, "num_key_value_heads": 3},
    "gelu": {"hidden_act": "gelu"},
}


def reference(**changes) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SMALL | changes))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_and_folder_goes_back(case: str, tmp_path: Path) -> None:
    theirs = reference(**CASES[case])
    ours = assert_parity(theirs, tmp_path / "theirs")
    assert_opens_in_transformers(theirs, ours, tmp_path / "ours")


@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "LlamaForSequenceClassification"])
def test_old_files_with_frequencies_open(kind: str, tmp_path: Path) -> None:
    import transformers

    turning = {f"layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(3)}
    assert_old_files_open(getattr(transformers, kind)(transformers.LlamaConfig(**SMALL)), tmp_path, turning)


def test_a_classifier_equals_theirs_and_goes_back(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(**SMALL, num_labels=3, pad_token_id=96, num_key_value_heads=2)
    assert_classifier_parity(LlamaForSequenceClassification(config), tmp_path)


def test_every_form_of_folder_opens(tmp_path: Path) -> None:
    assert_every_form_opens(reference(**CASES["tied"]), tmp_path)


@pytest.mark.parametrize("scaled", [False, True])
def test_positions_spelt_as_before_transformers_5_are_read(scaled: bool, tmp_path: Path) -> None:
    theirs = randomised(reference(rope_parameters=LLAMA3 if scaled else {"rope_type": "default", "rope_theta": 1000.0}))
    path = saved(theirs, tmp_path) / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if scaled else None
    path.write_text(json.dumps(config))
    torch.testing.assert_close(load_model(tmp_path)(TOKENS), theirs(TOKENS).logits, rtol=0, atol=1e-5)


def test_forgotten_scaling_is_noticed(tmp_path: Path) -> None:
    theirs = randomised(reference(rope_parameters=LLAMA3))
    path = saved(theirs, tmp_path) / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1000.0}
    path.write_text(json.dumps(config))
    assert (load_model(tmp_path)(TOKENS) - theirs(TOKENS).logits).abs().max() > 1e-4
