"""Question answering: where in a text the answer begins and ends, with the first token standing for "none".

Knows rows of tokens and models that give each two numbers; knows no concrete model or dataset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dougong.core.contracts import Batch, Loss
from dougong.core.errors import UsageError
from dougong.data.examples import QuestionWindow
from dougong.data.passages import OUTSIDE, windows_of
from dougong.data.tokenizer import Tokenizer
from dougong.nn.losses import IGNORED
from dougong.nn.metrics import Mean
from dougong.nn.spans import best_spans, log_probabilities
from dougong.tasks._classes import known
from dougong.tasks._fit import require_fit
from dougong.tasks._rows import MULTIPLE, width_of
from dougong.tasks.question_answering import QuestionAnsweringConfig
from dougong.tasks.question_answering.figures import AnswerFigures

Equality = tuple[str, Batch, Sequence[Batch]]


class Candidate(NamedTuple):
    """The best answer in one window, or in all windows of a question.

    Attributes:
        score: The logarithm of its probability, among all spans of its window; minus infinity: the window has no text.
        none: That of "no answer"; of several windows the least, as all but those with the answer say so rightly.
        start: Its first character.
        end: The character after its last.
    """

    score: float
    none: float
    start: int
    end: int

    def or_better(self, other: Candidate | None) -> Candidate:
        """Returns the better answer of two windows of one question."""
        if other is None:
            return self
        best = self if self.score > other.score else other
        return best._replace(none=min(self.none, other.none))


class QuestionAnswering:
    """The objective. The loss of a window is the mean of that of the beginning and that of the end.

    A batch has `tokens`, `lengths` (of each row, in tokens), `segments`, `starts` and `ends` (the answer's first and
    last place; 0: none; -1: the window does not count), `spans` (of each token the characters of the text; -1 where it
    is none of the text) and `numbers` (of the questions). Only tokens of the text, and the first, may be chosen.

    Attributes:
        item: What a loss's weight counts, as a word for a person.
        pipeline_tag: What the hub calls models of this kind.
        takes: How many texts there are at a time, at least and at most.
        labels: There are no classes.
        questions: Each question's text and right answers, by its number, if they are known.
    """

    item = "windows"
    pipeline_tag = "question-answering"
    takes = (2, 2)
    labels: Sequence[str] | None = None

    def __init__(self, config: QuestionAnsweringConfig, model: Any, data: Any = None):
        require_fit(model, data, config.name, QuestionWindow)
        self.config = config
        self.seq_len: int = known(model, None, "max_seq_len", config.name)
        self.vocab_size: int = known(model, None, "vocab_size", config.name)
        self.questions: Sequence[Any] | None = getattr(data, "questions", None)

    def collate(self, examples: Sequence[QuestionWindow], samples: Sequence[int]) -> Batch:
        """Returns a batch as long as its longest row, rounded up to a multiple of 8; what is added counts nowhere."""
        lengths = [len(example.tokens) for example in examples]
        width = width_of(lengths, self.seq_len)
        tokens = np.zeros((len(examples), width), dtype=np.int64)
        segments, spans = np.zeros_like(tokens), np.full((*tokens.shape, 2), OUTSIDE, dtype=np.int64)
        for row, example in enumerate(examples):
            tokens[row, : lengths[row]], segments[row, : lengths[row]] = example.tokens, example.segments
            spans[row, : lengths[row]] = example.spans
        fields = {
            "tokens": torch.from_numpy(tokens),
            "lengths": torch.tensor(lengths, dtype=torch.int64),
            "segments": torch.from_numpy(segments),
            "starts": torch.tensor([example.start for example in examples], dtype=torch.int64),
            "ends": torch.tensor([example.end for example in examples], dtype=torch.int64),
            "spans": torch.from_numpy(spans),
            "numbers": torch.tensor([example.question for example in examples], dtype=torch.int64),
        }
        return Batch(fields, torch.tensor(samples, dtype=torch.int64))

    def log_probabilities(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch time 2"]:
        """Returns how likely each place is the answer's beginning and its end.

        Raises:
            UsageError: The model does not say that.
        """
        takes = {"segments": batch["segments"]} if hasattr(model.config, "num_segments") else {}
        found = model(batch["tokens"], lengths=batch["lengths"], noise=batch.noise, **takes)
        if found.shape != (*batch["tokens"].shape, 2):
            shapes = " x ".join(map(str, found.shape)), " x ".join(map(str, batch["tokens"].shape))
            raise UsageError(
                f"the model must give each of {shapes[1]} tokens two numbers, as a beginning and as an end, but gives "
                f"{shapes[0]} numbers. Choose the head spans."
            )
        may_be = _of_text(batch)
        may_be[:, 0] = True
        return log_probabilities(found, may_be)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Returns the summed loss of the windows that count."""
        return self.loss_of(self.log_probabilities(model, batch), batch)

    def loss_of(self, scores: Float[Tensor, "batch time 2"], batch: Batch) -> Loss:
        """Returns the loss of what a model says."""
        ends = torch.stack([batch["starts"], batch["ends"]], dim=-1)
        each = -scores.gather(1, ends.clamp(min=0)[:, None])[:, 0].mean(-1)
        counts = batch["starts"] != IGNORED
        return Loss(torch.where(counts, each, 0.0).sum(), counts.sum(), {})

    def candidates(self, scores: Float[Tensor, "batch time 2"], batch: Batch) -> list[Candidate]:
        """Returns the best answer in each window."""
        best = best_spans(scores, _of_text(batch), self.config.max_answer_len)
        rows = torch.arange(len(batch), device=scores.device)
        starts, ends = batch["spans"][rows, best.starts, 0], batch["spans"][rows, best.ends, 1]
        figures = (tensor.tolist() for tensor in (best.scores.double(), scores[:, 0].double().sum(-1), starts, ends))
        return [Candidate(*each) for each in zip(*figures, strict=True)]

    def says_none(self, found: Candidate) -> bool:
        """Tells whether the answer to a question is that there is none."""
        threshold = self.config.no_answer_threshold
        if found.score == -math.inf:
            return True
        return threshold is not None and found.none - found.score > threshold

    def metrics(self) -> AnswerMetrics:
        """Returns a fresh accumulator."""
        return AnswerMetrics(self)

    def decode(self, outputs: Float[Tensor, "batch time 2"]) -> list[tuple[int, int]]:
        """Returns the likeliest beginning and end of each row, as places; (0, 0) stands for no answer."""
        everywhere = torch.ones(outputs.shape[:2], dtype=torch.bool, device=outputs.device)
        best = best_spans(outputs, everywhere, self.config.max_answer_len)
        return list(zip(best.starts.tolist(), best.ends.tolist(), strict=True))

    def answers(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        """Returns of each window the best answer's characters and probability, and the probability of "no answer"."""
        scores = self.log_probabilities(model, batch.with_noise(None))
        return [_described(found) for found in self.candidates(scores, batch)]

    def examples(self, tokenizer: Tokenizer, question: str, text: str) -> list[QuestionWindow]:
        """Returns a question to be answered from a text: an example, or several, if the text is long.

        Raises:
            UsageError: The tokenizer has no frame for a question and a text.
        """
        return windows_of(tokenizer, question, text, self.seq_len)

    def joined(self, answers: Sequence[dict[str, Any]], question: str, text: str) -> dict[str, Any]:
        """Returns one answer of those about the windows of one question; its `text` is empty where there is none."""
        found: Candidate | None = None
        for answer in answers:
            score, none = (_log(answer[key]) for key in ("score", "no_answer"))
            found = Candidate(score, none, answer["start"], answer["end"]).or_better(found)
        assert found is not None, "a question has at least one window"
        if self.says_none(found):
            nothing = {"text": "", "score": math.exp(found.none), "start": None, "end": None}
            return {**nothing, "no_answer": math.exp(found.none)}
        return {"text": text[found.start : found.end], **_described(found)}

    def example_batch(self, batch_size: int, device: torch.device | str = "meta") -> Batch:
        """Returns a batch of the right shapes and types: a question of a third of the row, and a text."""
        rows = torch.arange(batch_size, device=device)
        places = torch.arange(self.seq_len, device=device).expand(batch_size, -1)
        begin, last = max(1, self.seq_len // 3), max(1, self.seq_len - 2)
        text = (places >= begin) & (places <= last)
        starts = torch.where(rows % 3 == 0, 0, begin + rows % (last - begin + 1))
        fields = {
            "tokens": torch.arange(batch_size * self.seq_len, device=device).reshape(batch_size, -1) % self.vocab_size,
            "lengths": torch.full((batch_size,), self.seq_len, device=device),
            "segments": (places >= begin).long(),
            "starts": starts,
            "ends": torch.where(starts == 0, 0, (starts + 1).clamp(max=last)),
            "spans": torch.stack([torch.where(text, places + more, OUTSIDE) for more in (0, 1)], dim=-1),
            "numbers": rows,
        }
        return Batch(fields, rows)

    def chance(self) -> None:
        """Returns nothing: what it costs to know nothing depends on how long the texts are."""
        return

    def uneven(self, batch: Batch) -> Batch:
        """Returns the batch with some windows left out, so that its microbatches have unequal weights."""
        marked = {name: batch[name].clone() for name in ("starts", "ends")}
        for places in marked.values():
            places[: len(places) // 2 : 2] = IGNORED
        return replace(batch, fields={**batch.fields, **marked})

    def equalities(self, batch: Batch) -> Iterator[Equality]:
        """Yields each window padded a little longer than its batch, and the window alone."""
        width = min(batch["tokens"].shape[1] + MULTIPLE, self.seq_len)
        for row in batch.split(1):
            length, more = int(row["lengths"][0]), width - row["tokens"].shape[1]
            padded = {name: F.pad(row[name], (0, more), value=1) for name in ("tokens", "segments")}
            padded["spans"] = F.pad(row["spans"], (0, 0, 0, more), value=OUTSIDE)
            alone = {name: row[name][:, :length] for name in padded}
            whole, part = (replace(row, fields={**row.fields, **form}) for form in (padded, alone))
            yield "a padded window equals the window alone (the mask of `lengths`)", whole, [part]


class AnswerMetrics:
    """Loss over windows, and SQuAD's figures over questions.

    Windows of one question come one after the other, so that the best answer of one question alone is held.
    """

    def __init__(self, task: QuestionAnswering):
        self.task, self.loss, self.judged = task, Mean(), AnswerFigures()
        self._open: tuple[int, Candidate] | None = None

    def update(self, model: nn.Module, batch: Batch) -> None:
        """Adds the batch's windows."""
        scores = self.task.log_probabilities(model, batch.with_noise(None))
        loss = self.task.loss_of(scores, batch)
        self.loss.add(loss.sum.double().item(), float(loss.weight.item()))
        if self.task.questions is None:
            return
        for number, found in zip(batch["numbers"].tolist(), self.task.candidates(scores, batch), strict=True):
            if self._open is not None and self._open[0] == number:
                self._open = (number, found.or_better(self._open[1]))
            else:
                self._close()
                self._open = (number, found)

    def _close(self) -> None:
        """Judges the answer to the question that is open."""
        if self._open is not None and self.task.questions is not None:
            number, found = self._open
            question = self.task.questions[number]
            said = "" if self.task.says_none(found) else question.context[found.start : found.end]
            self.judged.add(said, [text for _, text in question.answers])
        self._open = None

    def compute(self) -> dict[str, float]:
        """Returns the loss and, where right answers are known, exact match and F1; asked at the end."""
        self._close()
        return {"loss": self.loss.value, **self.judged.figures()}

    def details(self) -> dict[str, Any]:
        """Returns the figures of the questions that have an answer, and of those that have none."""
        self._close()
        return self.judged.by_kind()


def _of_text(batch: Batch) -> Bool[Tensor, "batch time"]:
    """Returns which tokens are of the text."""
    return batch["spans"][..., 0] != OUTSIDE


def _described(found: Candidate) -> dict[str, Any]:
    probabilities = {"score": math.exp(found.score), "no_answer": math.exp(found.none)}
    return {**probabilities, "start": found.start, "end": found.end}


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf
