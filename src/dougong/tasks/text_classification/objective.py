"""Text classification: one class for each text.

Knows rows of tokens and models that turn them into logits; knows no concrete model, tokenizer or dataset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dougong.core.contracts import Batch, Loss
from dougong.data.examples import LabelledText
from dougong.tasks._classes import Classes, ClassMetrics, example_labels, known, known_classes, uneven
from dougong.tasks.text_classification import TextClassificationConfig

Equality = tuple[str, Batch, Sequence[Batch]]
_MULTIPLE = 8


class TextClassification:
    """The objective. A batch has `tokens`, `lengths` (of each row, in tokens) and `labels`.

    Attributes:
        item: What a loss's weight counts, as a word for a person.
        pipeline_tag: What the hub calls models of this kind.
    """

    item = "examples"
    pipeline_tag = "text-classification"

    def __init__(self, config: TextClassificationConfig, model: Any, data: Any = None):
        self.seq_len: int = known(model, None, "max_seq_len", config.name)
        self.vocab_size: int = known(model, None, "vocab_size", config.name)
        number = known_classes(model, data, config.name)
        self.classes = Classes(number, config.label_smoothing, getattr(data, "labels", None))

    def collate(self, examples: Sequence[LabelledText], samples: Sequence[int]) -> Batch:
        """Returns a batch as long as its longest row, rounded up to a multiple of 8; what is added counts nowhere."""
        lengths = [len(example.tokens) for example in examples]
        tokens = np.zeros((len(examples), min(-(-max(lengths) // _MULTIPLE) * _MULTIPLE, self.seq_len)), dtype=np.int64)
        for row, example in zip(tokens, examples, strict=True):
            row[: len(example.tokens)] = example.tokens
        fields = {
            "tokens": torch.from_numpy(tokens),
            "lengths": torch.tensor(lengths, dtype=torch.int64),
            "labels": torch.tensor([example.label for example in examples], dtype=torch.int64),
        }
        return Batch(fields, torch.tensor(samples, dtype=torch.int64))

    def logits(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Returns what the model says of each text."""
        return model(batch["tokens"], lengths=batch["lengths"], noise=batch.noise)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Returns the summed cross entropy over the texts that count."""
        return self.classes.loss(self.logits(model, batch), batch)

    def metrics(self) -> ClassMetrics:
        """Returns a fresh accumulator."""
        return ClassMetrics(self.logits, self.classes)

    def decode(self, outputs: Float[Tensor, "batch classes"]) -> list[str] | list[int]:
        """Returns the name of each text's likeliest class."""
        return self.classes.decode(outputs)

    def example_batch(self, batch_size: int, device: torch.device | str = "meta") -> Batch:
        """Returns a batch of the right shapes and types: tokens 0, 1, 2, ... in rows of the full length."""
        rows = torch.arange(batch_size * self.seq_len, device=device).reshape(batch_size, -1) % self.vocab_size
        lengths = torch.full((batch_size,), self.seq_len, device=device)
        fields = {"tokens": rows, "lengths": lengths, "labels": example_labels(batch_size, self.classes.number, device)}
        return Batch(fields, torch.arange(batch_size, device=device))

    def chance(self) -> float:
        """Returns the loss of one who holds every class for equally likely: the logarithm of their number."""
        return math.log(self.classes.number)

    def uneven(self, batch: Batch) -> Batch:
        """Returns the batch with some texts left out, so that its microbatches have unequal weights."""
        return uneven(batch)

    def equalities(self, batch: Batch) -> Iterator[Equality]:
        """Yields each text padded a little longer than its batch, and the text alone."""
        width = min(batch["tokens"].shape[1] + _MULTIPLE, self.seq_len)
        for row in batch.split(1):
            tokens, length = row["tokens"], int(row["lengths"][0])
            forms = F.pad(tokens, (0, width - tokens.shape[1]), value=1), tokens[:, :length]
            padded, alone = (replace(row, fields={**row.fields, "tokens": form}) for form in forms)
            yield "a padded text equals the text alone (the mask of `lengths`)", padded, [alone]
