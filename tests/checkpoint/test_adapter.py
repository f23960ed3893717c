"""An adapter in a model folder that is not what it must be is refused, in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dougong.checkpoint import seal
from dougong.checkpoint.adapter import _shortest
from dougong.checkpoint.weights import load_model, save_model
from dougong.core.errors import FileError, UntrustedError
from dougong.models.gpt import GPTConfig
from dougong.train.adapter import LoraConfig, lora


def folder_with(folder: Path) -> Path:
    model: Any = GPTConfig(vocab_size=31, max_seq_len=8, num_layers=1, num_heads=2, dim=8).build()
    model.init_weights(0)
    lora.attach(model, LoraConfig(rank=2), ["final_norm.*"])
    lora.draw(model, 0)
    bare, adapter = lora.plain(model, merged=False)
    save_model(bare, folder, adapter=adapter)
    (folder / seal.MANIFEST).unlink()  # what comes from elsewhere has none
    return folder


def settings(folder: Path, **changes: Any) -> None:
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


A = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
NORM = "base_model.model.transformer.ln_f.weight"


@pytest.mark.parametrize(
    ("break_", "told"),
    [
        (lambda f: settings(f, peft_type="IA3"), "must have peft_type LORA, but has 'IA3'"),
        (lambda f: settings(f, use_dora=True), "must describe plain LoRA, but sets use_dora"),
        (lambda f: settings(f, bias="all"), "but sets bias"),
        (
            lambda f: settings(f, init_lora_weights="pissa_niter_4"),
            "init_lora_weights is 'pissa_niter_4', which changes",
        ),
        (lambda f: settings(f, lora_alpha="much"), "must have a number lora_alpha"),
        (lambda f: weights(f, lambda t: t.update({A.replace("c_attn", "c_other"): t[A].clone()})), "unknown to it"),
        (lambda f: weights(f, lambda t: t.pop(A)), "must hold matrices A and B"),
        (lambda f: weights(f, lambda t: t.update({A: t[A][:, :5].clone()})), r"A \[2, 5\] and B \[24, 2\]"),
        (lambda f: weights(f, lambda t: t.update({NORM: t[NORM][:3].clone()})), r"ln_f.weight is \[3\]"),
        (lambda f: (f / "adapter" / "adapter_model.safetensors").unlink(), "must hold adapter_model.safetensors"),
        (lambda f: (f / "adapter" / "adapter_model.safetensors").write_bytes(b"0" * 40), "adapter_model.safetensors"),
    ],
)
def test_a_broken_adapter_is_refused(break_: Callable[[Path], None], told: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model")
    load_model(folder)
    break_(folder)
    with pytest.raises(FileError, match=told):
        load_model(folder)


def test_beginnings_that_leave_the_model_as_it_was_are_read(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model")
    found = load_model(folder).state_dict()
    for begun in (True, False, None, "gaussian", "orthogonal", "eva", "mica"):
        settings(folder, init_lora_weights=begun)
        again = load_model(folder).state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in found.items())


def test_a_pickled_adapter_is_not_opened(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model")
    (folder / "adapter" / "adapter_model.safetensors").rename(folder / "adapter" / "adapter_model.bin")
    with pytest.raises(UntrustedError, match="a pickle"):
        load_model(folder)


def test_the_seal_holds_for_the_adapter_too(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model")
    load_model(folder)
    seal.seal(folder, seal.Terms({"README.md"}))
    settings(folder, lora_alpha=17)
    with pytest.raises(FileError, match="adapter_config.json"):
        load_model(folder)


def test_the_shortest_ending_fits_its_targets_alone() -> None:
    modules = ["h.0.attn.out", "h.1.attn.out", "h.0.mlp.out", "h.0.attn.in", "h.11.attn.in"]
    assert _shortest(["h.0.attn.out", "h.1.attn.out"], modules) == ["attn.out"]
    assert _shortest(["h.0.attn.in", "h.11.attn.in"], modules) == ["in"]
    assert _shortest(["h.1.attn.out"], modules) == ["1.attn.out"]
