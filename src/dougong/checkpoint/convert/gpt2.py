"""GPT-2 folders of transformers, also its classifier; the matrices (`Conv1D`) have inputs before outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dougong.checkpoint.convert import (
    Layout,
    Piece,
    activation,
    foreign_activation,
    need,
    read_classifier,
    refuse,
    write_classifier,
)
from dougong.core import log

MODEL_TYPE = "gpt2"
PREFIX = "transformer."
IGNORED = r"transformer\.h\.\d+\.attn\.(masked_)?bias"  # causal masks, saved by old versions
TIED = {"lm_head.weight": "transformer.wte.weight"}

_BLOCK = {
    "attention_norm": ("ln_1", False),
    "attention.qkv": ("attn.c_attn", True),
    "attention.output": ("attn.c_proj", True),
    "feedforward_norm": ("ln_2", False),
    "feedforward.up": ("mlp.c_fc", True),
    "feedforward.down": ("mlp.c_proj", True),
}
_FIXED = {
    "name": "gpt",
    "position": "learned",
    "norm": "layernorm",
    "bias": True,
    "gated_mlp": False,
    "qk_norm": False,
}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of our config.

    Raises:
        FileError: It asks for a computation that we do not have.
    """
    for key, wanted in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if config.get(key, wanted) is not wanted:
            raise refuse(key, str(wanted).lower(), config[key])
    dropout = config.get("resid_pdrop", 0.1)
    if config.get("embd_pdrop", 0.1) != dropout:
        log.warn(f"embd_pdrop differs from resid_pdrop in config.json: {dropout} is used for both in training.")
    return {
        **_FIXED,
        "vocab_size": need(config, "vocab_size"),
        "max_seq_len": need(config, "n_positions"),
        "num_layers": need(config, "n_layer"),
        "num_heads": need(config, "n_head"),
        "dim": need(config, "n_embd"),
        "hidden_dim": config.get("n_inner"),
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "activation": activation(config, "activation_function", "gelu_new"),
        "tie_embeddings": config.get("tie_word_embeddings", True),
        "dropout": dropout,
        "attention_dropout": config.get("attn_pdrop", 0.1),
        "init_std": config.get("initializer_range", 0.02),
        **read_classifier(config),
    }


def write_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns their config, or None where GPT-2 cannot compute what ours says."""
    same = all(values[key] == value for key, value in _FIXED.items()) if values["name"] == "gpt" else False
    if not same or values["band"] is not None:
        return None
    if values["head_dim"] * values["num_heads"] != values["dim"] or values["num_kv_heads"] != values["num_heads"]:
        return None
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": values["vocab_size"],
        "n_positions": values["max_seq_len"],
        "n_ctx": values["max_seq_len"],
        "n_layer": values["num_layers"],
        "n_head": values["num_heads"],
        "n_embd": values["dim"],
        "n_inner": None if values["hidden_dim"] == 4 * values["dim"] else values["hidden_dim"],
        "layer_norm_epsilon": values["norm_eps"],
        "activation_function": foreign_activation(values["activation"]),
        "tie_word_embeddings": values["tie_embeddings"],
        "resid_pdrop": values["dropout"],
        "embd_pdrop": values["dropout"],
        "attn_pdrop": values["attention_dropout"],
        "initializer_range": values["init_std"],
        **write_classifier(values, "GPT2"),
    }


def layout(values: Mapping[str, Any], names: Iterable[str]) -> Layout:
    """Returns where each of our tensors lies."""
    outside = {
        "token_embedding.weight": "transformer.wte.weight",
        "position_embedding.weight": "transformer.wpe.weight",
        "final_norm.weight": "transformer.ln_f.weight",
        "final_norm.bias": "transformer.ln_f.bias",
        "unembedding.weight": "lm_head.weight",
        "score.weight": "score.weight",
    }
    return {name: (_inside(name) if name.startswith("blocks.") else Piece(outside[name]),) for name in names}


def _inside(name: str) -> Piece:
    _, layer, rest = name.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    theirs, transposed = _BLOCK[module]
    return Piece(f"transformer.h.{layer}.{theirs}.{kind}", transposed=transposed and kind == "weight")
