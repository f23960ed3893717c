"""Beam search and greedy search over many sentences at once, for what gives logits of the next token.

Knows logits, rows and scores; knows no model, no cache and no text. With `length_norm` power and no coverage the
results equal those of `transformers`' `generate(num_beams=..., early_stopping=False)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Advance = Callable[[Tensor, Tensor], Tensor]
"""Given each new row's parent (its row before) and its token, both int64 [rows]: the logits [rows vocab] after it."""
Looked = Callable[[], Tensor]
"""Returns how much each row's last query looked at each place of its source: [rows source], each row sums to 1."""

_LEAST = 1e-9  # of a coverage whose logarithm is taken


@dataclass(frozen=True)
class Beams:
    """How to search.

    Attributes:
        num_beams: Open texts for each sentence; 1 is greedy search.
        eos_id: The token that ends a text.
        length_penalty: The exponent alpha of the length that a text's log-probability is divided by.
        length_norm: "power": `n ** alpha`; "gnmt": `((5 + n) / 6) ** alpha` (Wu et al. 2016, eq. 14).
        coverage_penalty: Their beta: `beta * sum over source places of log(min(attention, 1))` is added at the end.
        never_id: A token that is never written, as if its probability were 0; that of the others stays as it is.
    """

    num_beams: int
    eos_id: int
    length_penalty: float | int = 1.0
    length_norm: Literal["power", "gnmt"] = "power"
    coverage_penalty: float | int = 0.0
    never_id: int | None = None

    def norm(self, length: int) -> float:
        """Returns what the log-probability of a text of so many tokens is divided by."""
        base = (5 + length) / 6 if self.length_norm == "gnmt" else length
        return float(base**self.length_penalty)

    def scores(self, logits: Float[Tensor, "row vocab"]) -> Float[Tensor, "row vocab"]:
        """Returns the log-probabilities of the next token."""
        scores = logits.float().log_softmax(-1)
        if self.never_id is not None:
            scores[:, self.never_id] = -math.inf
        return scores


@dataclass(frozen=True)
class Found:
    """A text found by a search.

    Attributes:
        tokens: What was generated, with the token that ended it if there was one.
        score: The log-probability in nats, divided by the norm of its length, with the coverage's penalty; of greedy
            search the log-probability alone.
    """

    tokens: list[int]
    score: float


def search(
    logits: Float[Tensor, "sentence vocab"],
    advance: Advance,
    limits: Sequence[int],
    beams: Beams,
    looked: Looked | None = None,
    lengths: Int[Tensor, " sentence"] | None = None,
) -> list[Found]:
    """Returns the best text for each sentence.

    What is found for one depends on no other; sentences that are done leave the rows.

    Args:
        logits: What follows the beginning, a row for each sentence.
        advance: Goes on from there.
        limits: The most tokens of each sentence's text, at least 1.
        looked: Asked after each advance, and once before; needed for a coverage penalty.
        lengths: Of each source, in tokens: the places beyond need no coverage.
    """
    if beams.num_beams == 1:
        return _greedy(logits, advance, limits, beams)
    return _Search(logits, limits, beams, looked, lengths).run(logits, advance)


def _greedy(logits: Tensor, advance: Advance, limits: Sequence[int], beams: Beams) -> list[Found]:
    texts: list[list[int]] = [[] for _ in limits]
    scores = [0.0] * len(limits)
    live = list(range(len(limits)))
    while True:
        best = beams.scores(logits).max(-1)
        for sentence, score, token in zip(live, best.values.tolist(), best.indices.tolist(), strict=True):
            texts[sentence].append(token)
            scores[sentence] += score
        going = [n for n, s in enumerate(live) if texts[s][-1] != beams.eos_id and len(texts[s]) < limits[s]]
        if not going:
            return [Found(text, score) for text, score in zip(texts, scores, strict=True)]
        live = [live[number] for number in going]
        parents = torch.tensor(going, device=logits.device)
        logits = advance(parents, best.indices[parents])


class _Search:
    """The open and the finished texts of all sentences that are not done; tensors are [sentence beam ...]."""

    def __init__(
        self, logits: Tensor, limits: Sequence[int], beams: Beams, looked: Looked | None, lengths: Tensor | None
    ):
        self.beams, self.looked, self.count = beams, looked if beams.coverage_penalty else None, len(limits)
        device, size = logits.device, (self.count, beams.num_beams)
        self.limits = torch.tensor(limits, device=device)
        self.live = torch.arange(self.count, device=device)
        self.scores = torch.full((self.count, 1), 0.0, device=device)
        self.tokens = torch.zeros(self.count, 1, 0, dtype=torch.int64, device=device)
        self.finished = torch.full(size, -math.inf, device=device)
        self.texts = torch.zeros(*size, 0, dtype=torch.int64, device=device)
        self.results: dict[int, Found] = {}
        self.covered: Tensor | None = None
        self.lengths = lengths

    def run(self, logits: Tensor, advance: Advance) -> list[Found]:
        """Searches until every sentence is done."""
        while True:
            if self.looked is not None:
                now = self.looked()
                self.covered = now if self.covered is None else self.covered + now
            parents, tokens = self._step(logits)
            if not len(self.live):
                return [self.results[number] for number in range(self.count)]
            logits = advance(parents, tokens)

    def _step(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Takes one token for each open text; returns the new rows' parents and tokens."""
        sentences, width = self.scores.shape
        vocab, kept = logits.shape[-1], self.beams.num_beams
        scores = self.scores[..., None] + self.beams.scores(logits).reshape(sentences, width, vocab)
        best, place = scores.flatten(1).topk(min(2 * kept, width * vocab))
        beam, token = place // vocab, place % vocab
        tokens = torch.cat([self._taken(self.tokens, beam), token[..., None]], -1)
        length = tokens.shape[-1]
        norm, last = self.beams.norm(length), self.limits[:, None] <= length
        ends = (token == self.beams.eos_id) | last
        row = beam + torch.arange(sentences, device=beam.device)[:, None] * width
        ranked = (best / norm + self._coverage(row))[:, :kept].masked_fill(~ends[:, :kept], -math.inf)
        self._finish(ranked, tokens[:, :kept])
        open_, order = best.masked_fill(ends, -math.inf).topk(min(kept, best.shape[1]))
        going = (open_[:, 0] > -math.inf) & ~(
            (self.finished[:, -1] > -math.inf) & (open_[:, 0] / norm <= self.finished[:, -1])
        )
        self._leave(~going)
        order = order[going]
        self.live, self.limits, self.finished, self.texts = (
            tensor[going] for tensor in (self.live, self.limits, self.finished, self.texts)
        )
        self.scores, self.tokens = open_[going], self._taken(tokens[going], order)
        if self.lengths is not None:
            self.lengths = self.lengths[going]
        parents = row[going].gather(1, order).flatten()
        if self.covered is not None:
            self.covered = self.covered[parents]
        return parents, token[going].gather(1, order).flatten()

    def _coverage(self, row: Tensor) -> Tensor | float:
        """Returns the penalty for what each candidate has left of its source."""
        if self.covered is None:
            return 0.0
        sums = self.covered.clamp(_LEAST, 1.0).log()
        if self.lengths is not None:
            inside = torch.arange(sums.shape[1], device=sums.device) < self.lengths[:, None]
            sums = sums * inside.repeat_interleave(len(sums) // len(inside), 0)
        return self.beams.coverage_penalty * sums.sum(-1)[row]

    def _finish(self, scores: Tensor, tokens: Tensor) -> None:
        """Keeps the best of the finished texts and of the new ones."""
        texts = torch.nn.functional.pad(self.texts, (0, tokens.shape[-1] - self.texts.shape[-1]), value=-1)
        self.finished, order = torch.cat([self.finished, scores], 1).topk(self.beams.num_beams)
        self.texts = self._taken(torch.cat([texts, tokens], 1), order)

    def _leave(self, done: Tensor) -> None:
        """Notes the best text of the sentences that are done."""
        for number, score, text in zip(
            self.live[done].tolist(), self.finished[done, 0].tolist(), self.texts[done, 0].tolist(), strict=True
        ):
            self.results[number] = Found([token for token in text if token >= 0], score)

    @staticmethod
    def _taken(texts: Tensor, beam: Tensor) -> Tensor:
        return texts.gather(1, beam[..., None].expand(-1, -1, texts.shape[-1]))
