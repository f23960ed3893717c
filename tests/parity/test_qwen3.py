"""Qwen3: the same logits and gradients as transformers, with normalised heads and banded layers."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from tests.parity.reference import (
    TOKENS,
    assert_classifier_parity,
    assert_every_form_opens,
    assert_opens_in_transformers,
    assert_parity,
)
from tests.parity.test_llama import SMALL as LLAMA

SMALL = LLAMA | {"head_dim": 16, "num_key_value_heads": 2}
CASES = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "banded-last": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "banded-alternating": {
        "use_sliding_window": True,
        "sliding_window": 7,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
}


def reference(**changes) -> nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**SMALL | changes))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_and_folder_goes_back(case: str, tmp_path: Path) -> None:
    theirs = reference(**CASES[case])
    ours = assert_parity(theirs, tmp_path / "theirs")
    assert_opens_in_transformers(theirs, ours, tmp_path / "ours")


def test_a_classifier_equals_theirs_and_goes_back(tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    config = Qwen3Config(**SMALL, num_labels=3, pad_token_id=96)
    assert_classifier_parity(Qwen3ForSequenceClassification(config), tmp_path)


def test_pattern_of_layers_is_read_as_its_period(tmp_path: Path) -> None:
    ours = assert_parity(reference(**CASES["banded-alternating"]), tmp_path)
    assert (ours.config.attention_pattern, ours.config.band) == (["dense", "banded"], 7)


def test_every_form_of_folder_opens(tmp_path: Path) -> None:
    assert_every_form_opens(reference(**CASES["tied"]), tmp_path)


def test_forgotten_norm_of_heads_is_noticed(tmp_path: Path) -> None:
    theirs = reference()
    ours = assert_parity(theirs, tmp_path)
    for block in ours.blocks:
        block.attention.query_norm = nn.Identity()
    assert (ours(TOKENS) - theirs(TOKENS).logits).abs().max() > 1e-4
