"""Qwen3 folders of transformers: Llama with normalised queries and keys, and banded layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dougong.checkpoint.convert import llama, need, refuse, write_classifier

MODEL_TYPE = "qwen3"
PREFIX = llama.PREFIX
IGNORED = llama.IGNORED
TIED = llama.TIED
layout = llama.layout

_KINDS = {"full_attention": "dense", "sliding_attention": "banded"}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of our config.

    Raises:
        FileError: It asks for a computation that we do not have.
    """
    if config.get("attention_bias", False):
        raise refuse("attention_bias", "false", True)
    values = {**llama.read_shape(config), "bias": False, "qk_norm": True, "head_dim": config.get("head_dim") or 128}
    pattern = _read_pattern(config, values["num_layers"])
    if "banded" in pattern:
        values |= {"attention_pattern": pattern, "band": need(config, "sliding_window")}
    return values


def write_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns their config, or None where Qwen3 cannot compute what ours says."""
    if not llama.has_shape(values) or not values["qk_norm"] or values["bias"]:
        return None
    pattern, layers = values["attention_pattern"], values["num_layers"]
    kinds = {ours: theirs for theirs, ours in _KINDS.items()}
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["Qwen3ForCausalLM"],
        **llama.write_shape(values),
        **write_classifier(values, "Qwen3"),
        "attention_bias": False,
        "use_sliding_window": values["band"] is not None,
        "sliding_window": values["band"],
        "max_window_layers": layers,
        "layer_types": [kinds[pattern[layer % len(pattern)]] for layer in range(layers)],
    }


def _read_pattern(config: Mapping[str, Any], num_layers: Any) -> list[str]:
    if not isinstance(num_layers, int) or num_layers > 10_000:
        raise refuse("num_hidden_layers", "at most 10000", num_layers)
    kinds = config.get("layer_types")
    sliding = bool(config.get("use_sliding_window")) and config.get("sliding_window") is not None
    if kinds is None:
        dense = config.get("max_window_layers", 28) if sliding else num_layers
        kinds = ["full_attention" if layer < dense else "sliding_attention" for layer in range(num_layers)]
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(kind not in _KINDS for kind in kinds):
        raise refuse("layer_types", f"{num_layers} times full_attention or sliding_attention", kinds)
    if "sliding_attention" in kinds and not sliding:
        raise refuse("layer_types", "full_attention everywhere while use_sliding_window is false", kinds)
    return _period([_KINDS[kind] for kind in kinds])


def _period(pattern: Sequence[str]) -> list[str]:
    """Returns the shortest beginning that gives the pattern when repeated."""
    count = len(pattern)
    repeated = (n for n in range(1, count + 1) if all(pattern[i] == pattern[i % n] for i in range(count)))
    return list(pattern[: next(repeated, count)])
