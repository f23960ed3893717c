"""Small models about texts in folders of their own, with random weights."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from dougong.checkpoint.weights import save_model
from dougong.core.config import validate
from dougong.data.tokenizer import Tokenizer
from dougong.data.vocabulary import BytesConfig, WordPieceConfig
from dougong.models.bert import BertConfig
from dougong.models.seq2seq import Seq2SeqConfig

TEXTS = ["the film was good and long", "a bad film", "who wrote the long film", "anna wrote it in rome"]
BERT = {"max_seq_len": 24, "num_layers": 1, "num_heads": 2, "dim": 16, "hidden_dim": 16}
LABELS = {
    "classify": ["bad", "good", "so so"],
    "tag": ["O", "B-PER", "I-PER", "B-LOC"],
    "spans": None,
    "sentence": None,
    "masked_lm": None,
    "pretraining": None,
}
TASKS = {
    "classify": "text_classification",
    "tag": "token_classification",
    "spans": "question_answering",
    "masked_lm": "masked_lm",
    "pretraining": "masked_lm",
}


def assets(tokenizer: Tokenizer) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def encoder(folder: Path, head: str, **task: Any) -> Path:
    """Leaves a BERT of one layer with a head, as a run would."""
    tokenizer = WordPieceConfig(vocab_size=80).build(lambda: TEXTS * 4, lambda: TEXTS)
    labels = LABELS[head]
    classes = {} if labels is None else {"num_classes": len(labels)}
    model = validate(BertConfig, {**BERT, "head": head, "vocab_size": tokenizer.vocab_size, **classes}).build()
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0 if parameter.ndim > 1 else 1.0)  # so that answers differ
    extra = assets(tokenizer)
    if head in TASKS:
        extra["task.json"] = json.dumps({"name": TASKS[head], **task}).encode()
    if labels is not None:
        extra["labels.json"] = json.dumps(labels).encode()
    save_model(model, folder, extra, labels=labels)
    return folder


def translator(folder: Path, **task: Any) -> Path:
    """Leaves a Transformer of one layer that translates bytes."""
    values = {"vocab_size": 257, "start_id": 256, "max_seq_len": 24, "dim": 16, "num_heads": 2, "num_layers": 1}
    model = validate(Seq2SeqConfig, values).build()
    model.init_weights(0)
    extra = assets(BytesConfig().build(list, list))
    save_model(model, folder, {**extra, "task.json": json.dumps({"name": "translation", **task}).encode()})
    return folder
