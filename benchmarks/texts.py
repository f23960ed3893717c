"""Texts for an encoder, and the same with words hidden as the Trainer of `transformers` wants them. Knows no model."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dougong.core.contracts import Batch
from dougong.data.examples import EncoderText

_SPECIAL = 5  # the first tokens stand for no text


class Texts:
    """Pairs of bytes of the standard library as batches of tokens: batch `k` is a function of `k`.

    Args:
        task: What makes batches of texts.
        batch: Texts of a batch.
    """

    context = 128

    def __init__(self, task: Any, batch: int):
        folder = Path(sysconfig.get_path("stdlib"))
        raw = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))[:100])
        pairs = np.frombuffer(raw[: len(raw) // 2 * 2], dtype=np.uint8).reshape(-1, 2).astype(np.int64)
        tokens = _SPECIAL + (256 * pairs[:, 0] + pairs[:, 1]) % (task.vocab_size - _SPECIAL)
        self.rows = tokens[: len(tokens) // self.context * self.context].reshape(-1, self.context)
        self.task, self.batch = task, batch

    def __getitem__(self, step: int) -> Batch:
        return self.of(range(step * self.batch, (step + 1) * self.batch))

    def of(self, numbers: Sequence[int]) -> Batch:
        """Returns the batch of texts of these numbers."""
        rows = (self.rows[number % len(self.rows)] for number in numbers)
        return self.task.collate([EncoderText(row, np.zeros_like(row)) for row in rows], numbers)


def hidden(task: Any, texts: Texts) -> Callable[[int], dict[str, Tensor]]:
    """Returns a function from a number to a text whose words are hidden already: the Trainer has nothing to draw."""

    def example(number: int) -> dict[str, Tensor]:
        batch = texts.of([number])
        shown = task.hidden(batch)
        labels = torch.full((1, texts.context), -100).scatter(1, shown.places, shown.targets)
        return {"input_ids": shown.tokens[0], "labels": labels.masked_fill(labels < 0, -100)[0]}

    return example
