"""GPT-2: the same logits and gradients as transformers, and the same folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.parity.reference import (
    TOKENS,
    assert_classifier_parity,
    assert_every_form_opens,
    assert_old_files_open,
    assert_opens_in_transformers,
    assert_parity,
)

SMALL = {
    "vocab_size": 97,
    "n_positions": 64,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 6,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CASES = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "gelu-inner": {"activation_function": "gelu", "n_inner": 100, "layer_norm_epsilon": 1e-3},
}


def reference(**changes) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(**SMALL | changes))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_and_folder_goes_back(case: str, tmp_path: Path) -> None:
    theirs = reference(**CASES[case])
    ours = assert_parity(theirs, tmp_path / "theirs")
    assert_opens_in_transformers(theirs, ours, tmp_path / "ours")


def test_every_form_of_folder_opens(tmp_path: Path) -> None:
    assert_every_form_opens(reference(), tmp_path)


@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "GPT2Model", "GPT2ForSequenceClassification"])
def test_old_files_with_causal_masks_open(kind: str, tmp_path: Path) -> None:
    import transformers

    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64) for layer in range(3)}
    masks |= {f"h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(3)}
    assert_old_files_open(getattr(transformers, kind)(transformers.GPT2Config(**SMALL)), tmp_path, masks)


def test_a_classifier_equals_theirs_and_goes_back(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    theirs = GPT2ForSequenceClassification(GPT2Config(**SMALL, num_labels=5, pad_token_id=96))
    assert_classifier_parity(theirs, tmp_path)


def test_dropout_goes_there_and_back(tmp_path: Path) -> None:
    from transformers import GPT2Config

    from dougong.checkpoint.weights import load_model, save_model
    from tests.parity.reference import saved

    model = load_model(saved(reference(resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.3), tmp_path / "theirs"))
    assert (model.config.dropout, model.config.attention_dropout) == (0.2, 0.3)
    save_model(model, tmp_path / "ours")
    config = GPT2Config.from_pretrained(tmp_path / "ours")
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.2, 0.2, 0.3)


def test_a_slightly_different_model_is_noticed(tmp_path: Path) -> None:
    theirs = reference()
    ours = assert_parity(theirs, tmp_path / "theirs")
    ours.config = ours.config.replace(activation="gelu")
    for block in ours.blocks:
        block.feedforward.activation = "gelu"
    assert (ours(TOKENS) - theirs(TOKENS).logits).abs().max() > 1e-5
