"""A tiny BERT that learns a few examples by heart, from a recipe's values: read, tokenized, trained and judged."""

from __future__ import annotations

from typing import Any

import torch

from dougong.core import log
from dougong.recipe import load
from dougong.run.parts import Parts, prepare
from dougong.train.evaluate import measured

TRAIN = {"steps": 1, "batch_size": 8, "device": "cpu", "precision": "fp32", "optimizer": {"name": "adamw", "lr": 0.01}}


def overfitted(head: str, task: str, data: dict[str, Any], steps: int = 25, lr: float = 0.01) -> tuple[Parts, Any, Any]:
    """Returns the parts of a recipe, the trained model, and its metrics over the validation examples."""
    sizes = {"num_layers": 1, "num_heads": 2, "dim": 32, "max_seq_len": 48, "dropout": 0.0, "attention_dropout": 0.0}
    values = {"title": "t", "model": {"name": "bert", "head": head, **sizes}, "task": {"name": task}}
    with log.listening(lambda line: None):
        parts = prepare(load({**values, "data": data, "train": TRAIN}))
    model = parts.model.build()
    model.init_weights(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    batches = parts.batches()
    for step in range(steps):
        loss = parts.task.loss(model, batches[step])
        optimizer.zero_grad()
        (loss.sum / loss.weight).backward()
        optimizer.step()
    return parts, model.eval(), measured(model, parts.task, parts.validation()())
