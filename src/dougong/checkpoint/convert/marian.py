"""Marian folders: `MarianMTModel` of transformers, the Transformer of 2017 with all sines before all cosines.

There the token that a target begins with is the padding, whose embedding is left as it is in training; ours is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dougong.checkpoint.convert import Layout, Piece, activation, foreign_activation, need, refuse
from dougong.core import log

MODEL_TYPE = "marian"
PREFIX = "model."
IGNORED = r"model\.(encoder|decoder)\.embed_positions\.weight"  # computed, but saved by old versions
# Of a shared embedding old versions save each use. Where the two are apart, `shared` is in no file.
TIED = {
    "model.encoder.embed_tokens.weight": "model.shared.weight",
    "model.decoder.embed_tokens.weight": "model.shared.weight",
    "lm_head.weight": "model.decoder.embed_tokens.weight",
}

_NORMS = {
    "encoder": {"attention_norm": "self_attn_layer_norm", "feedforward_norm": "final_layer_norm"},
    "decoder": {
        "attention_norm": "self_attn_layer_norm",
        "cross_norm": "encoder_attn_layer_norm",
        "feedforward_norm": "final_layer_norm",
    },
}
_MODULES = {
    "attention.output": "self_attn.out_proj",
    "cross.query": "encoder_attn.q_proj",
    "cross.output": "encoder_attn.out_proj",
    "feedforward.up": "fc1",
    "feedforward.down": "fc2",
}
_FUSED = {
    "attention.qkv": ("self_attn", ("q_proj", "k_proj", "v_proj")),
    "cross.memory": ("encoder_attn", ("k_proj", "v_proj")),
}
_FIXED = {
    "name": "seq2seq",
    "kind": "transformer",
    "norm_first": False,
    "norm_eps": 1e-5,
    "position": "sinusoidal_halves",
    "output_bias": True,
}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of our config.

    Raises:
        FileError: It asks for a computation that we do not have.
    """
    for key, of_decoder in (
        ("encoder_attention_heads", "decoder_attention_heads"),
        ("encoder_ffn_dim", "decoder_ffn_dim"),
    ):
        if need(config, key) != need(config, of_decoder):
            raise refuse(of_decoder, f"that of the encoder, {config[key]}", config[of_decoder])
    shared, tied = config.get("share_encoder_decoder_embeddings", True), config.get("tie_word_embeddings", True)
    if shared and not tied:
        raise refuse("tie_word_embeddings", "true where encoder and decoder share their embeddings", False)
    for key in ("activation_dropout", "encoder_layerdrop", "decoder_layerdrop"):
        if config.get(key):
            log.warn(f"{key} in config.json is {config[key]}, but is not built here: training goes on without it.")
    of_source = need(config, "vocab_size")
    return {
        **_FIXED,
        "vocab_size": of_source if shared else config.get("decoder_vocab_size") or of_source,
        "source_vocab_size": None if shared else of_source,
        "max_seq_len": need(config, "max_position_embeddings"),
        "num_layers": need(config, "encoder_layers"),
        "num_decoder_layers": need(config, "decoder_layers"),
        "num_heads": config["encoder_attention_heads"],
        "dim": need(config, "d_model"),
        "hidden_dim": config["encoder_ffn_dim"],
        "activation": activation(config, "activation_function", "gelu"),
        "scale_embeddings": config.get("scale_embedding", False),
        "tie_embeddings": tied,
        "start_id": need(config, "decoder_start_token_id"),
        "dropout": config.get("dropout", 0.1),
        "attention_dropout": config.get("attention_dropout", 0.0),
        "init_std": config.get("init_std"),
    }


def write_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns their config, or None where Marian cannot compute what ours says."""
    same = all(values[key] == value for key, value in _FIXED.items()) if values["name"] == "seq2seq" else False
    shared, start = same and values["source_vocab_size"] is None, values.get("start_id")
    if not same or start is None or (shared and not values["tie_embeddings"]):
        return None
    if start >= (values["source_vocab_size"] or values["vocab_size"]):  # it is the padding of both
        return None
    std = {} if values["init_std"] is None else {"init_std": values["init_std"]}
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["MarianMTModel"],
        "is_encoder_decoder": True,
        "vocab_size": values["vocab_size"] if shared else values["source_vocab_size"],
        "decoder_vocab_size": values["vocab_size"],
        "share_encoder_decoder_embeddings": shared,
        "tie_word_embeddings": values["tie_embeddings"],
        "max_position_embeddings": values["max_seq_len"],
        "encoder_layers": values["num_layers"],
        "decoder_layers": values["num_decoder_layers"],
        "encoder_attention_heads": values["num_heads"],
        "decoder_attention_heads": values["num_heads"],
        "d_model": values["dim"],
        "encoder_ffn_dim": values["hidden_dim"],
        "decoder_ffn_dim": values["hidden_dim"],
        "activation_function": foreign_activation(values["activation"]),
        "scale_embedding": values["scale_embeddings"],
        "pad_token_id": start,
        "decoder_start_token_id": start,
        "forced_eos_token_id": None,
        "dropout": values["dropout"],
        "attention_dropout": values["attention_dropout"],
        "activation_dropout": 0.0,
        **std,
    }


def layout(values: Mapping[str, Any], names: Iterable[str]) -> Layout:
    """Returns where each of our tensors lies."""
    shared = values["source_vocab_size"] is None
    outside = {
        "token_embedding.weight": Piece("model.shared.weight" if shared else "model.decoder.embed_tokens.weight"),
        "source_embedding.weight": Piece("model.encoder.embed_tokens.weight"),
        "unembedding.weight": Piece("lm_head.weight"),
        "output_bias": Piece("final_logits_bias", as_row=True),
    }
    return {name: (outside[name],) if name in outside else _inside(name, values["dim"]) for name in names}


def _inside(name: str, dim: int) -> tuple[Piece, ...]:
    stack, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    begin = f"model.{stack}.layers.{layer}."
    if module in _FUSED:
        theirs, parts = _FUSED[module]
        return tuple(
            Piece(f"{begin}{theirs}.{part}.{kind}", rows=(number * dim, (number + 1) * dim))
            for number, part in enumerate(parts)
        )
    return (Piece(f"{begin}{_NORMS[stack].get(module) or _MODULES[module]}.{kind}"),)
