"""BERT folders: `BertModel` of transformers and its heads, and those of sentence-transformers around it.

Theirs has separate queries, keys and values. A folder of sentence-transformers is told by its `modules.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dougong.checkpoint.convert import (
    Layout,
    Piece,
    activation,
    foreign_activation,
    need,
    number_of_labels,
    refuse,
)
from dougong.core import log

MODEL_TYPE = "bert"
PREFIX = "bert."
BARE = "BertModel"
# Counted positions, saved by old versions; and what many files hold beyond the head that their config names.
IGNORED = r"bert\.(embeddings\.position_ids|pooler\..*|cls\.seq_relationship\..*)"
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_MODULES, _POOLING = "modules.json", "1_Pooling/config.json"
BESIDE = (_MODULES, _POOLING)

_HEADS = {
    "BertForMaskedLM": "masked_lm",
    "BertForPreTraining": "pretraining",
    "BertForSequenceClassification": "classify",
    "BertForTokenClassification": "tag",
    "BertForQuestionAnswering": "spans",
    "BertModel": "pooled",
}
_FIXED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_OUTSIDE = {
    "token_embedding": "bert.embeddings.word_embeddings",
    "position_embedding": "bert.embeddings.position_embeddings",
    "segment_embedding": "bert.embeddings.token_type_embeddings",
    "embedding_norm": "bert.embeddings.LayerNorm",
    "pooler": "bert.pooler.dense",
    "words.transform": "cls.predictions.transform.dense",
    "words.norm": "cls.predictions.transform.LayerNorm",
    "words": "cls.predictions",
}
_ANSWERS = {"pretraining": "cls.seq_relationship", "spans": "qa_outputs", "classify": "classifier", "tag": "classifier"}
_BLOCK = {
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feedforward.up": "intermediate.dense",
    "feedforward.down": "output.dense",
    "feedforward_norm": "output.LayerNorm",
}
_STEPS = ("Transformer", "Pooling", "Normalize")


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of our config.

    Raises:
        FileError: It asks for a computation that we do not have.
    """
    for key, wanted in _FIXED.items():
        if config.get(key, wanted) != wanted:
            raise refuse(key, str(wanted).lower(), config[key])
    head = _read_head(config)
    dropout = config.get("hidden_dropout_prob", 0.1)
    if config.get("classifier_dropout") not in (None, dropout) and head in ("classify", "tag"):
        log.warn(f"classifier_dropout differs from hidden_dropout_prob: {dropout} is used for both in training.")
    if head == "spans" and number_of_labels(config) != 2:
        raise refuse("num_labels", "2 for answers' ends", number_of_labels(config))
    return {
        "name": "bert",
        "head": head,
        "vocab_size": need(config, "vocab_size"),
        "num_classes": number_of_labels(config) if head in ("classify", "tag") else None,
        "max_seq_len": config.get("max_position_embeddings", 512),
        "num_segments": config.get("type_vocab_size", 2),
        "num_layers": need(config, "num_hidden_layers"),
        "num_heads": need(config, "num_attention_heads"),
        "dim": need(config, "hidden_size"),
        "hidden_dim": need(config, "intermediate_size"),
        "activation": activation(config, "hidden_act", "gelu"),
        "norm_eps": config.get("layer_norm_eps", 1e-12),
        "dropout": dropout,
        "attention_dropout": config.get("attention_probs_dropout_prob", 0.1),
        "init_std": config.get("initializer_range", 0.02),
    }


def _read_head(config: Mapping[str, Any]) -> str:
    """Returns the head that the folder is for.

    Raises:
        FileError: We do not have it.
    """
    named = need(config, "architectures")
    kind = named[0] if isinstance(named, list) and len(named) == 1 else named
    if not isinstance(kind, str) or kind not in _HEADS:
        raise refuse("architectures", f"one of {', '.join(_HEADS)}", named)
    if kind != "BertModel" or _MODULES not in config:
        return _HEADS[kind]
    if _steps(config[_MODULES]) == _STEPS and _is_mean(config.get(_POOLING)):
        return "sentence"
    log.warn(f"{_MODULES} makes sentence vectors in a way that is not built here: the vector of the pooler is given.")
    return "pooled"


def _steps(modules: Any) -> tuple[str, ...]:
    """Returns the kinds of modules that a text goes through, without the packages that they are in."""
    listed = modules if isinstance(modules, list) else []
    return tuple(str(item.get("type")).rpartition(".")[2] if isinstance(item, Mapping) else "" for item in listed)


def _is_mean(pooling: Any) -> bool:
    """Tells whether settings of a pooling ask for the mean of the tokens and nothing beside."""
    if not isinstance(pooling, Mapping):
        return False
    modes = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value is True]
    return modes == ["pooling_mode_mean_tokens"] or (not modes and pooling.get("pooling_mode") == "mean")


def write_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns their config; None for another model."""
    if values["name"] != "bert":
        return None
    named = {ours: theirs for theirs, ours in _HEADS.items()} | {"sentence": "BertModel"}
    labels = {} if values["num_classes"] is None else {"num_labels": values["num_classes"]}
    return {
        "model_type": MODEL_TYPE,
        "architectures": [named[values["head"]]],
        "vocab_size": values["vocab_size"],
        "max_position_embeddings": values["max_seq_len"],
        "type_vocab_size": values["num_segments"],
        "num_hidden_layers": values["num_layers"],
        "num_attention_heads": values["num_heads"],
        "hidden_size": values["dim"],
        "intermediate_size": values["hidden_dim"],
        "hidden_act": foreign_activation(values["activation"]),
        "layer_norm_eps": values["norm_eps"],
        "hidden_dropout_prob": values["dropout"],
        "attention_probs_dropout_prob": values["attention_dropout"],
        "classifier_dropout": None,
        "initializer_range": values["init_std"],
        **_FIXED,
        **labels,
    }


def write_beside(values: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the files that make the folder of sentence vectors one of sentence-transformers."""
    if values["head"] != "sentence":
        return {}
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in modes}
    content = {
        _MODULES: [
            {
                "idx": number,
                "name": str(number),
                "path": f"{number}_{step}" if number else "",
                "type": f"sentence_transformers.models.{step}",
            }
            for number, step in enumerate(_STEPS)
        ],
        _POOLING: {"word_embedding_dimension": values["dim"], **pooling},
        "sentence_bert_config.json": {"max_seq_length": values["max_seq_len"], "do_lower_case": False},
    }
    return {name: json.dumps(value, indent=2).encode() for name, value in content.items()}


def renamed(name: str) -> str:
    """Returns today's name: the oldest files call the weight and the bias of a norm gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def layout(values: Mapping[str, Any], names: Iterable[str]) -> Layout:
    """Returns where each of our tensors lies."""
    answer = {"answer": _ANSWERS.get(values["head"], "")}
    return {
        name: _inside(name, values["dim"]) if name.startswith("blocks.") else _outside(name, answer) for name in names
    }


def _outside(name: str, answer: Mapping[str, str]) -> tuple[Piece, ...]:
    module, kind = name.rsplit(".", 1)
    return (Piece(f"{({**_OUTSIDE, **answer})[module]}.{kind}"),)


def _inside(name: str, dim: int) -> tuple[Piece, ...]:
    _, layer, rest = name.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    begin = f"bert.encoder.layer.{layer}."
    if module != "attention.qkv":
        return (Piece(f"{begin}{_BLOCK[module]}.{kind}"),)
    thirds = enumerate(("query", "key", "value"))
    return tuple(Piece(f"{begin}attention.self.{name}.{kind}", (i * dim, (i + 1) * dim)) for i, name in thirds)
