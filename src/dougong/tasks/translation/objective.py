"""Translation: the loss of the next token of a translation, and the search for whole ones.

Knows pairs of texts as tokens, and models that encode one and go on with the other; knows no concrete model, tokenizer
or dataset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from dougong.core.contracts import Batch, Loss
from dougong.data.examples import TextPair
from dougong.data.tokenizer import Tokenizer
from dougong.nn.beam import Beams, Found, search
from dougong.nn.losses import IGNORED, cross_entropy_chunked, token_nats
from dougong.tasks._classes import known
from dougong.tasks._fit import require_fit
from dougong.tasks._rows import MULTIPLE, padded, width_of
from dougong.tasks.translation import TranslationConfig
from dougong.tasks.translation.figures import TranslationMetrics

Equality = tuple[str, Batch, Sequence[Batch]]


class Translation:
    """The objective.

    A batch has `sources` with their `source_lengths`, `tokens` (what the decoder reads: the start, then the
    translation but for its last token), `targets` (the translation; -1 where nothing counts), and the `numbers` of the
    pairs in their dataset.

    Attributes:
        item: What goes in, as a word for a person.
        counts_examples: That it is these that are counted, as a loss's weight counts tokens.
        pipeline_tag: What the hub calls models of this kind.
        labels: None: there are no classes.
        takes: How many texts there are at a time, at least and at most.
    """

    item = "pairs"
    counts_examples = True
    pipeline_tag = "translation"
    labels = None
    takes = (1, 1)

    def __init__(self, config: TranslationConfig, model: Any, data: Any = None):
        require_fit(model, data, config.name, TextPair)
        self.config = config
        self.seq_len: int = known(model, None, "max_seq_len", config.name)
        self.vocab_size: int = known(model, None, "vocab_size", config.name)
        self.source_vocab_size: int = getattr(model, "source_vocab_size", None) or self.vocab_size
        self.start_id: int = model.start_id if model.start_id is not None else 0
        self.tokenizer: Any = getattr(data, "target_tokenizer", None)
        self.texts: Any = getattr(data, "texts", None)

    def collate(self, examples: Sequence[TextPair], samples: Sequence[int]) -> Batch:
        """Returns a batch; both sides are as long as their longest, rounded up to a multiple of 8."""
        lengths = [len(example.source) for example in examples]
        targets = [example.target for example in examples]
        meant = padded(targets, width_of([len(target) for target in targets], self.seq_len), IGNORED)
        fields = {
            "sources": padded([example.source for example in examples], width_of(lengths, self.seq_len)),
            "source_lengths": torch.tensor(lengths, dtype=torch.int64),
            "tokens": self._read(meant),
            "targets": meant,
            "numbers": torch.tensor([example.number for example in examples], dtype=torch.int64),
        }
        return Batch(fields, torch.tensor(samples, dtype=torch.int64))

    def _read(self, targets: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
        """Returns what the decoder reads: everything one place later, behind the start."""
        return F.pad(targets[:, :-1].clamp(min=0), (1, 0), value=self.start_id)

    def features(self, model: Any, batch: Batch) -> Tensor:
        """Returns what the head is applied to, at each place of the translation."""
        memory = model.encode(batch["sources"], batch["source_lengths"], noise=batch.noise)
        return model.features(batch["tokens"], memory, noise=batch.noise)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Returns the summed cross entropy over the tokens of the translations."""
        features, head, smoothing = self.features(model, batch), _head(model), self.config.label_smoothing
        found = cross_entropy_chunked(features, head[0], batch["targets"], label_smoothing=smoothing, bias=head[1])
        return Loss(found.sum, found.weight, {"nll": found.nll} if smoothing else {})

    def nats(self, model: nn.Module, batch: Batch) -> Tensor:
        """Returns the negative log-likelihood of each token, 0 where none counts."""
        head = _head(model)
        return token_nats(self.features(model, batch), head[0], batch["targets"], bias=head[1])

    def metrics(self) -> TranslationMetrics:
        """Returns a fresh accumulator."""
        return TranslationMetrics(self)

    def decode(self, outputs: Sequence[int] | Tensor) -> str | list[int]:
        """Returns the text of token ids, or the ids where there is no tokenizer."""
        ids = outputs.tolist() if isinstance(outputs, Tensor) else list(outputs)
        return ids if self.tokenizer is None else self.tokenizer.decode(ids)

    @torch.no_grad()
    def search(self, model: Any, sources: Int[Tensor, "batch source"], lengths: Int[Tensor, " batch"]) -> list[Found]:
        """Returns the best translation of each source that the search finds; draws no random number."""
        c, longest = self.config, self.seq_len
        limits = [min(longest, int(c.max_ratio * length) + c.max_extra) for length in lengths.tolist()]
        eos_id = self._eos_id(model)
        never = None if self.start_id == eos_id else self.start_id  # it begins a translation, and is no part of one
        beams = Beams(c.num_beams, eos_id, c.length_penalty, c.length_norm, c.coverage_penalty, never)
        cache = model.new_cache(model.encode(sources, lengths), max(limits), attention=bool(c.coverage_penalty))

        def advance(parents: Tensor, tokens: Tensor) -> Tensor:
            cache.reorder(parents)
            return _next(model, tokens, cache)

        begin = _next(model, torch.full_like(lengths, self.start_id), cache)
        return search(begin, advance, limits, beams, lambda: cache.attention, lengths)

    def _eos_id(self, model: Any) -> int:
        """Returns the token that ends a translation: the tokenizer's, or else the model's."""
        return self.start_id if self.tokenizer is None else self.tokenizer.eot_id

    def examples(self, tokenizer: Tokenizer, text: str) -> list[TextPair]:
        """Returns a text to be translated: an example; the end of a long one is cut off."""
        source = np.array([*tokenizer.encode(text)[: self.seq_len - 1], tokenizer.eot_id], np.int32)
        return [TextPair(source, np.array([self.start_id], np.int32), 0)]

    def too_long(self, tokenizer: Tokenizer, text: str) -> bool:
        """Tells whether the end of a text is cut off."""
        return len(tokenizer.encode(text)) >= self.seq_len

    def joined(self, answers: Sequence[dict[str, Any]], *texts: str) -> dict[str, Any]:
        """Returns the answer about the one example that a text gives."""
        return answers[0]

    def answers(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        """Returns the translation of each source with its score, the log-probability by its length."""
        found = self.search(model, batch["sources"], batch["source_lengths"])
        return [{"translation": self.decode(each.tokens), "score": each.score} for each in found]

    def example_batch(self, batch_size: int, device: torch.device | str = "meta") -> Batch:
        """Returns a batch of the right shapes and types: both sides of the full length."""
        count = torch.arange(batch_size * self.seq_len, device=device).reshape(batch_size, -1)
        targets = count % self.vocab_size
        fields = {
            "sources": count % self.source_vocab_size,
            "source_lengths": torch.full((batch_size,), self.seq_len, device=device),
            "tokens": self._read(targets),
            "targets": targets,
            "numbers": torch.arange(batch_size, device=device),
        }
        return Batch(fields, torch.arange(batch_size, device=device))

    def chance(self) -> float:
        """Returns the loss of one who holds every token for equally likely: the logarithm of their number."""
        return math.log(self.vocab_size)

    def uneven(self, batch: Batch) -> Batch:
        """Returns the batch with the last `r` targets of row `r` left out, so that weights differ."""
        targets = batch["targets"].clone()
        for number, row in enumerate(targets):
            length = int((row != IGNORED).sum())
            row[length - min(number, length - 1) :] = IGNORED
        return replace(batch, fields={**batch.fields, "targets": targets})

    def equalities(self, batch: Batch) -> Iterator[Equality]:
        """Yields each pair padded longer and alone, and its first half without what follows."""
        for row in batch.split(1):
            length, width = int(row["source_lengths"][0]), int((row["targets"][0] != IGNORED).sum())
            alone = _cut(row, length, width)
            more = min(length + MULTIPLE, self.seq_len) - length
            padded = replace(alone, fields={**alone.fields, "sources": F.pad(alone["sources"], (0, more), value=1)})
            yield "a padded source equals the source alone (the mask of `source_lengths`)", padded, [alone]
            if half := width // 2:
                counting = alone["targets"].clone()
                counting[:, half:] = IGNORED
                first = replace(alone, fields={**alone.fields, "targets": counting})
                claim = "what comes later in a translation changes nothing before it (the causal mask)"
                yield claim, first, [_cut(row, length, half)]


def _cut(row: Batch, source: int, target: int) -> Batch:
    """Returns a row with so many tokens of both sides."""
    cut = {"sources": row["sources"][:, :source], **{n: row[n][:, :target] for n in ("tokens", "targets")}}
    return replace(row, fields={**row.fields, **cut})


def _head(model: Any) -> tuple[Tensor, Tensor | None]:
    return model.head_weight, model.head_bias


def _next(model: Any, tokens: Int[Tensor, " rows"], cache: Any) -> Tensor:
    return model.head(model.features(tokens[:, None], None, cache=cache)[:, -1])
