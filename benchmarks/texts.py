"""Texts for an encoder, and the same with words hidden as the Trainer of `transformers` wants them. Knows no model."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dougong.core.contracts import Batch

_SPECIAL = 5


class Texts:
    """Pairs of bytes of the standard library as batches of tokens: batch `k` is a function of `k`.

    Args:
        batch: Texts of a batch.
        vocab_size: Number of different tokens; the first five stand for no text.
    """

    context = 128

    def __init__(self, batch: int, vocab_size: int):
        folder = Path(sysconfig.get_path("stdlib"))
        raw = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))[:100])
        pairs = torch.frombuffer(bytearray(raw[: len(raw) // 2 * 2]), dtype=torch.uint8).reshape(-1, 2).long()
        tokens = _SPECIAL + (256 * pairs[:, 0] + pairs[:, 1]) % (vocab_size - _SPECIAL)
        self.rows = tokens[: len(tokens) // self.context * self.context].reshape(-1, self.context)
        self.batch = batch

    def __getitem__(self, step: int) -> Batch:
        return self.of(torch.arange(step * self.batch, (step + 1) * self.batch))

    def of(self, numbers: Tensor) -> Batch:
        """Returns the batch of texts of these numbers."""
        lengths = torch.full((len(numbers),), self.context)
        return Batch({"tokens": self.rows[numbers % len(self.rows)], "lengths": lengths}, numbers)


def hidden(task: Any, texts: Texts) -> Callable[[int], dict[str, Tensor]]:
    """Returns a function from a number to a text whose words are hidden already: the Trainer has nothing to draw."""

    def example(number: int) -> dict[str, Tensor]:
        batch = texts.of(torch.tensor([number]))
        shown = task.hidden(batch)
        labels = torch.full((1, texts.context), -100).scatter(1, shown.places, shown.targets)
        return {"input_ids": shown.tokens[0], "labels": labels.masked_fill(labels < 0, -100)[0]}

    return example
