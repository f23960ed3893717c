"""Language modeling: predict each next token of a text.

Knows rows of tokens and models with `features` and `head_weight`; knows no concrete model, tokenizer or dataset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dougong.core.contracts import Batch, Loss
from dougong.data.examples import TokenRow
from dougong.nn.losses import IGNORED, cross_entropy_chunked, token_nats
from dougong.nn.metrics import Mean, Ratio
from dougong.tasks.language_modeling import LanguageModelingConfig, equalities


class LanguageModeling:
    """The objective. A batch has `tokens`, `targets`, `documents` and, if attention must not cross, `segments`.

    Args:
        config: Smoothing and z-loss.
        seq_len: Length of the example batch's rows, in tokens.
        vocab_size: Number of different tokens.
        tokenizer: Has `decode` and `token_bytes` (for each token how many bytes of UTF-8 it stands for); without one
            there are no bits per byte.

    Attributes:
        item: What a loss's weight counts, as a word for a person.
        pipeline_tag: What the hub calls models of this kind.
    """

    item = "tokens"
    pipeline_tag = "text-generation"

    def __init__(self, config: LanguageModelingConfig, seq_len: int, vocab_size: int, tokenizer: Any = None):
        self.config, self.seq_len, self.vocab_size, self.tokenizer = config, seq_len, vocab_size, tokenizer
        self.cross_entropy = cross_entropy_chunked

    def collate(self, examples: Sequence[TokenRow], samples: Sequence[int]) -> Batch:
        """Returns a batch of equally long rows.

        `documents` holds the number of the document to which each target belongs; `segments`, that of each input.
        """
        tokens = torch.from_numpy(np.stack([row.tokens for row in examples]).astype(np.int64))
        documents = torch.from_numpy(np.stack([row.documents for row in examples]).astype(np.int64))
        fields = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "documents": documents[:, 1:]}
        if not all(row.across_documents for row in examples):
            fields["segments"] = documents[:, :-1]
        return Batch(fields, torch.tensor(samples, dtype=torch.int64))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Returns the summed cross entropy over the tokens that count, with smoothing and z-loss."""
        smoothing, z_loss = self.config.label_smoothing, self.config.z_loss
        features, weight = _features(model, batch)
        found = self.cross_entropy(features, weight, batch["targets"], label_smoothing=smoothing, z_loss=z_loss)
        parts = {"nll": found.nll} if smoothing or z_loss else {}
        return Loss(found.sum, found.weight, {**parts, "z_loss": found.z} if z_loss else parts)

    def metrics(self) -> LanguageMetrics:
        """Returns a fresh accumulator."""
        return LanguageMetrics(getattr(self.tokenizer, "token_bytes", None))

    def decode(self, outputs: Sequence[int] | Tensor) -> str | list[int]:
        """Returns the text of token ids, or the ids where there is no tokenizer."""
        ids = outputs.tolist() if isinstance(outputs, Tensor) else list(outputs)
        return ids if self.tokenizer is None else self.tokenizer.decode(ids)

    def example_batch(self, batch_size: int, device: torch.device | str = "meta") -> Batch:
        """Returns a batch of the right shapes and types: tokens 0, 1, 2, ... of one document per row."""
        rows = torch.arange(batch_size * (self.seq_len + 1), device=device).reshape(batch_size, -1) % self.vocab_size
        documents = torch.arange(batch_size, device=device)[:, None].expand(batch_size, self.seq_len)
        fields = {"tokens": rows[:, :-1], "targets": rows[:, 1:], "documents": documents}
        return Batch(fields, torch.arange(batch_size, device=device))

    def chance(self) -> float:
        """Returns the loss of one who holds every token for equally likely: the logarithm of their number."""
        return math.log(self.vocab_size)

    def uneven(self, batch: Batch) -> Batch:
        """Returns the batch with the last `r` targets of row `r` left out, so that weights differ."""
        return equalities.uneven(batch)

    def equalities(self, batch: Batch) -> Iterator[tuple[str, Batch, Sequence[Batch]]]:
        """Yields rows and their parts: the past without the future, and each document without the others."""
        yield from equalities.causal(batch)
        yield from equalities.documents_apart(batch)


class LanguageMetrics:
    """Nats per token, perplexity, and bits per byte with a 95 % confidence interval over documents.

    Bits per byte divides by the bytes of the text, so it compares models of different tokenizers. Documents are the
    independent units; one that runs on over rows is held open, so memory does not grow with the data. Fewer than two
    documents give no interval.
    """

    def __init__(self, token_bytes: Any = None):
        self.nats, self.bits = Mean(), Ratio()
        self.token_bytes = None if token_bytes is None else torch.as_tensor(np.asarray(token_bytes))
        self._open: tuple[int, float, float] | None = None

    def update(self, model: nn.Module, batch: Batch) -> None:
        """Adds the batch's tokens; batches come in the order of the text."""
        targets = batch["targets"]
        nats = token_nats(*_features(model, batch), targets).double()
        counts = targets != IGNORED
        if self.token_bytes is None:
            total, weight = torch.stack([nats.sum(), counts.sum().double()]).tolist()
        else:
            self.token_bytes = self.token_bytes.to(targets.device)
            sizes = torch.where(counts, self.token_bytes[targets.clamp(min=0)], 0).double()
            total, weight = self._add_documents(batch["documents"], nats, sizes, counts)
        self.nats.add(total, weight)

    def _add_documents(self, documents: Tensor, nats: Tensor, sizes: Tensor, counts: Tensor) -> tuple[float, float]:
        """Adds each document's bits and bytes; returns the sum of nats and the number of tokens."""
        numbers, place = torch.unique_consecutive(documents.flatten(), return_inverse=True)
        values = torch.stack([nats.flatten() / math.log(2), sizes.flatten(), counts.flatten().double()])
        sums = values.new_zeros(3, len(numbers)).index_add_(1, place, values)
        bits, lengths, weights = sums.tolist()
        for number, above, below in zip(numbers.tolist(), bits, lengths, strict=True):
            self._add_document(number, above, below)
        return sum(bits) * math.log(2), sum(weights)

    def _add_document(self, number: int, bits: float, size: float) -> None:
        """Adds a document's share; the document seen last stays open, as the next row may go on with it."""
        if self._open is not None and self._open[0] == number:
            self._open = (number, self._open[1] + bits, self._open[2] + size)
            return
        if self._open is not None:
            self.bits.add([self._open[1]], [self._open[2]])
        self._open = (number, bits, size)

    def compute(self) -> dict[str, float]:
        """Returns the figures; may be asked once, at the end."""
        figures = {"loss": self.nats.value, "perplexity": math.exp(min(self.nats.value, 700.0))}
        if self._open is not None:
            self.bits.add([self._open[1]], [self._open[2]])
            self._open = None
        if self.bits.below:
            figures["bits_per_byte"] = self.bits.value
            interval = self.bits.interval()
            if interval is not None:
                figures["bits_per_byte_low"], figures["bits_per_byte_high"] = interval
        return figures


def _features(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns what the head multiplies: features and the head's weight."""
    features = model.features(batch["tokens"], segments=batch.get("segments"), noise=batch.noise)
    return features, model.head_weight
