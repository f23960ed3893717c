"""Llama folders of transformers, also its classifier, with separate query, key and value projections."""

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

MODEL_TYPE = "llama"
PREFIX = "model."
IGNORED = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"  # computed here; saved by old versions
TIED = {"lm_head.weight": "model.embed_tokens.weight"}

_BLOCK = {
    "attention_norm": "input_layernorm",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "attention.output": "self_attn.o_proj",
    "feedforward_norm": "post_attention_layernorm",
    "feedforward.gate": "mlp.gate_proj",
    "feedforward.up": "mlp.up_proj",
    "feedforward.down": "mlp.down_proj",
}
FIXED = {"name": "gpt", "position": "rotary", "norm": "rmsnorm", "gated_mlp": True}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of our config.

    Raises:
        FileError: It asks for a computation that we do not have.
    """
    bias = config.get("attention_bias", False)
    if config.get("mlp_bias", False) != bias:
        raise refuse("mlp_bias", f"{bias}, as attention_bias is", not bias)
    return {**read_shape(config), "bias": bias, "head_dim": config.get("head_dim")}


def read_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that Llama and its kind have in common.

    Raises:
        FileError: It asks for a computation that we do not have.
    """
    return {
        **FIXED,
        "vocab_size": need(config, "vocab_size"),
        "max_seq_len": need(config, "max_position_embeddings"),
        "num_layers": need(config, "num_hidden_layers"),
        "num_heads": need(config, "num_attention_heads"),
        "num_kv_heads": config.get("num_key_value_heads"),
        "dim": need(config, "hidden_size"),
        "hidden_dim": need(config, "intermediate_size"),
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "activation": activation(config, "hidden_act", "silu"),
        "tie_embeddings": config.get("tie_word_embeddings", False),
        "dropout": config.get("resid_pdrop", 0.0),
        "attention_dropout": config.get("attention_dropout") or 0.0,
        "init_std": config.get("initializer_range", 0.02),
        **_read_rope(config),
        **read_classifier(config),
    }


def write_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns their config, or None where Llama cannot compute what ours says."""
    if not has_shape(values) or values["qk_norm"] or values["band"] is not None:
        return None
    if values["dim"] % values["num_heads"]:
        return None
    biases = {"attention_bias": values["bias"], "mlp_bias": values["bias"]}
    shape = {**write_shape(values), **biases, **write_classifier(values, "Llama")}
    return {"model_type": MODEL_TYPE, "architectures": ["LlamaForCausalLM"], **shape}


def has_shape(values: Mapping[str, Any]) -> bool:
    """Tells whether our values describe Llama or one of its kind."""
    return values["name"] == "gpt" and all(values[key] == value for key, value in FIXED.items())


def write_shape(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that Llama and its kind have in common."""
    return {
        "vocab_size": values["vocab_size"],
        "max_position_embeddings": values["max_seq_len"],
        "num_hidden_layers": values["num_layers"],
        "num_attention_heads": values["num_heads"],
        "num_key_value_heads": values["num_kv_heads"],
        "head_dim": values["head_dim"],
        "hidden_size": values["dim"],
        "intermediate_size": values["hidden_dim"],
        "rms_norm_eps": values["norm_eps"],
        "hidden_act": foreign_activation(values["activation"]),
        "tie_word_embeddings": values["tie_embeddings"],
        "resid_pdrop": values["dropout"],  # theirs has no such dropout and ignores it; read back when trained on here
        "attention_dropout": values["attention_dropout"],
        "initializer_range": values["init_std"],
        **_write_rope(values),
    }


def layout(values: Mapping[str, Any], names: Iterable[str]) -> Layout:
    """Returns where each of our tensors lies."""
    outside = {
        "token_embedding.weight": "model.embed_tokens.weight",
        "final_norm.weight": "model.norm.weight",
        "unembedding.weight": "lm_head.weight",
        "score.weight": "score.weight",
    }
    return {name: _inside(name, values) if name.startswith("blocks.") else (Piece(outside[name]),) for name in names}


def _inside(name: str, values: Mapping[str, Any]) -> tuple[Piece, ...]:
    _, layer, rest = name.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    begin = f"model.layers.{layer}."
    if module != "attention.qkv":
        return (Piece(f"{begin}{_BLOCK[module]}.{kind}"),)
    queries, keys = (values[heads] * values["head_dim"] for heads in ("num_heads", "num_kv_heads"))
    bounds = {"q": (0, queries), "k": (queries, queries + keys), "v": (queries + keys, queries + 2 * keys)}
    return tuple(Piece(f"{begin}self_attn.{letter}_proj.{kind}", rows) for letter, rows in bounds.items())


def _read_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before)."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise refuse("rope_parameters", "an object", rope)
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if config.get("partial_rotary_factor", 1.0) != 1.0 or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise refuse("partial_rotary_factor", "1.0", "less")
    if kind == "default":
        return {"rope_theta": theta}
    if kind == "linear":
        return {"rope_theta": theta, "rope_scaling": {"name": "linear", "factor": need(rope, "factor")}}
    if kind != "llama3":
        raise refuse("rope_type", "default, linear or llama3", kind)
    scaling = {key: need(rope, key) for key in ("factor", "low_freq_factor", "high_freq_factor")}
    scaling["original_max_seq_len"] = need(rope, "original_max_position_embeddings")
    return {"rope_theta": theta, "rope_scaling": {"name": "llama3", **scaling}}


def _write_rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """Writes both spellings: transformers 5 reads the first, everything older the other two."""
    scaling = dict(values["rope_scaling"] or {})
    rope = {"rope_type": scaling.pop("name", "default")}
    if "original_max_seq_len" in scaling:
        rope["original_max_position_embeddings"] = scaling.pop("original_max_seq_len")
    rope |= scaling
    theta = values["rope_theta"]
    return {
        "rope_parameters": {"rope_theta": theta, **rope},
        "rope_theta": theta,
        "rope_scaling": rope if values["rope_scaling"] else None,
    }
