"""What is told of masked language modeling: how well hidden words are named, and what follows.

Knows the objective's own functions; knows no model and no dataset.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.core.contracts import Batch
from dougong.nn.losses import IGNORED
from dougong.nn.metrics import Mean

_ROWS = 512  # whose logits are held at once


class MaskedMetrics:
    """Nats of the objective, bits and accuracy of hidden words, and of what follows.

    Bits per masked byte divides by the bytes that the hidden tokens stand for, so it compares models of different
    tokenizers. It is no measure of the whole text: each hidden word is told with most others in sight.

    Args:
        task: Hides words and calls the model.
        token_bytes: For each token how many bytes of UTF-8 it stands for; None: unknown.
    """

    def __init__(self, task: Any, token_bytes: Any = None):
        self.task, self.total, self.masked = task, Mean(), Mean()
        self.hits, self.follows = Mean(), Mean()
        self.bytes = 0.0
        self.token_bytes = None if token_bytes is None else torch.as_tensor(np.asarray(token_bytes))

    @torch.no_grad()
    def update(self, model: nn.Module, batch: Batch) -> None:
        """Adds the batch's hidden words; the same ones each time, as it is asked without noise."""
        task, batch = self.task, batch.with_noise(None)
        hidden = task.hidden(batch)
        features = task.features(model, batch, hidden)
        counts = hidden.targets != IGNORED
        nats, hits = _named(model, task.at_places(features, hidden)[counts], hidden.targets[counts])
        number = float(counts.sum())
        self.masked.add(nats, number)
        self.hits.add(hits, number)
        self.total.add(nats, number)
        if self.token_bytes is not None:
            self.token_bytes = self.token_bytes.to(hidden.targets.device)
            self.bytes += float(self.token_bytes[hidden.targets[counts]].sum())
        if task.also_follows:
            each, right = task.follows(model, features, batch)
            self.total.add(float((each.double() * counts.sum(1)).sum()), 0.0)
            self.follows.add(float(right.sum()), float(len(batch)))

    def compute(self) -> dict[str, float]:
        """Returns the figures."""
        nats = self.masked.value
        figures = {
            "loss": self.total.value,
            "bits_per_masked_token": nats / math.log(2),
            "perplexity": math.exp(min(nats, 700.0)),
            "masked_accuracy": self.hits.value,
        }
        if self.bytes:
            figures["bits_per_masked_byte"] = self.masked.sum / math.log(2) / self.bytes
        if self.follows.weight:
            figures["follows_accuracy"] = self.follows.value
        return figures


def _named(model: Any, rows: Tensor, targets: Tensor) -> tuple[float, float]:
    """Returns the summed nats of hidden words, and how many of them the model names first."""
    nats = hits = 0.0
    for some, wanted in zip(rows.split(_ROWS), targets.split(_ROWS), strict=True):
        logits = F.linear(model.word_features(some), model.head_weight, model.head_bias)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        nats += float(F.cross_entropy(logits, wanted, reduction="none").double().sum())
        hits += float((logits.argmax(-1) == wanted).sum())
    return nats, hits
