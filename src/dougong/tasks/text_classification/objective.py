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
from dougong.data.labelled import read
from dougong.data.tokenizer import Tokenizer
from dougong.tasks._classes import Classes, ClassMetrics, example_labels, known, known_classes, uneven
from dougong.tasks._fit import require_fit
from dougong.tasks._rows import MULTIPLE, padded, segments_of, width_of
from dougong.tasks.text_classification import TextClassificationConfig

Equality = tuple[str, Batch, Sequence[Batch]]
_BY_TOKEN = ("tokens", "segments")


class TextClassification:
    """The objective. A batch has `tokens`, `lengths` (of each row, in tokens) and `labels`.

    Where examples are of two texts, and the model has an embedding for each (`num_segments`), also `segments`.

    Attributes:
        item: What a loss's weight counts, as a word for a person.
        pipeline_tag: What the hub calls models of this kind.
        takes: How many texts there are at a time, at least and at most.
    """

    item = "examples"
    pipeline_tag = "text-classification"
    takes = (1, 2)

    def __init__(self, config: TextClassificationConfig, model: Any, data: Any = None):
        self.seq_len: int = known(model, None, "max_seq_len", config.name)
        self.vocab_size: int = known(model, None, "vocab_size", config.name)
        require_fit(model, data, config.name, LabelledText)
        self.takes_segments: bool = model.takes("num_segments")
        number = known_classes(model, data, config.name)
        self.classes = Classes(number, config.label_smoothing, getattr(data, "labels", None))

    def collate(self, examples: Sequence[LabelledText], samples: Sequence[int]) -> Batch:
        """Returns a batch as long as its longest row, rounded up to a multiple of 8; what is added counts nowhere."""
        lengths = [len(example.tokens) for example in examples]
        width = width_of(lengths, self.seq_len)
        fields = {
            "tokens": padded(_columns(examples)[0], width),
            "lengths": torch.tensor(lengths, dtype=torch.int64),
            "labels": torch.tensor([example.label for example in examples], dtype=torch.int64),
        }
        segments = segments_of(*_columns(examples), width) if self.takes_segments else None
        if segments is not None:
            fields["segments"] = segments
        return Batch(fields, torch.tensor(samples, dtype=torch.int64))

    def logits(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Returns what the model says of each text."""
        more = {"segments": batch["segments"]} if "segments" in batch.fields else {}
        return model(batch["tokens"], lengths=batch["lengths"], noise=batch.noise, **more)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Returns the summed cross entropy over the texts that count."""
        return self.classes.loss(self.logits(model, batch), batch)

    def metrics(self) -> ClassMetrics:
        """Returns a fresh accumulator."""
        return ClassMetrics(self.logits, self.classes)

    @property
    def labels(self) -> Sequence[str] | None:
        """The names of the classes, if they are known."""
        return self.classes.names

    def examples(self, tokenizer: Tokenizer, text: str, second: str | None = None) -> Sequence[LabelledText]:
        """Returns a text, or two, to be answered about: an example; the end of a long one is cut off."""
        return read(tokenizer, self.seq_len, text, second).examples

    def too_long(self, tokenizer: Tokenizer, text: str, second: str | None = None) -> bool:
        """Tells whether the end of a text is cut off."""
        return bool(read(tokenizer, self.seq_len, text, second).long)

    def answers(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        """Returns the likeliest class of each text with its probability, and the five likeliest."""
        return self.classes.answers(self.logits(model, batch.with_noise(None)))

    def joined(self, answers: Sequence[dict[str, Any]], *texts: str) -> dict[str, Any]:
        """Returns the answer about the one example that a text gives."""
        return answers[0]

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
        width = min(batch["tokens"].shape[1] + MULTIPLE, self.seq_len)
        for row in batch.split(1):
            length, wide = int(row["lengths"][0]), {name: row[name] for name in _BY_TOKEN if name in row.fields}
            more = {name: F.pad(field, (0, width - field.shape[1]), value=1) for name, field in wide.items()}
            fewer = {name: field[:, :length] for name, field in wide.items()}
            longer, alone = (replace(row, fields={**row.fields, **form}) for form in (more, fewer))
            yield "a padded text equals the text alone (the mask of `lengths`)", longer, [alone]


def _columns(examples: Sequence[LabelledText]) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Returns the tokens of all examples, and their segments."""
    return [example.tokens for example in examples], [example.segments for example in examples]
