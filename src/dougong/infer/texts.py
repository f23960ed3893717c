"""A trained model that answers about texts: classes, tags, answers to questions, translations, vectors.

Knows a model, its task and its tokenizer; does not know recipes, runs or where texts come from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn

from dougong.core.config import Config
from dougong.core.contracts import Batch
from dougong.core.errors import UsageError
from dougong.data.examples import LabelledText
from dougong.data.labelled import read
from dougong.data.tokenizer import Tokenizer
from dougong.tasks._rows import padded, segments_of

Input = str | tuple[str, str]
"""A text, or two: a pair to classify, or a question and the text that answers it."""


class TextPredictor:
    """A model with all that it needs to answer about texts.

    Attributes:
        model: The `nn.Module`, in evaluation mode.
        task: What makes examples of texts, and answers of what the model puts out.
        tokenizer: What turns a text into tokens.
        dtype: The type of matrix products.
        cut: How many texts so far were longer than the model reads, and were cut off.
    """

    def __init__(self, model: nn.Module, task: Any, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32):
        self.model: Any = model.eval()
        self.task, self.tokenizer, self.dtype = task, tokenizer, dtype
        self.cut = 0

    @property
    def labels(self) -> Sequence[str] | None:
        """The names of the classes, if there are such."""
        return self.task.labels

    @property
    def config(self) -> Config:
        """What the model was built from."""
        return self.model.config

    def predict(self, texts: Input | Sequence[Input], batch_size: int = 16) -> Any:
        """Returns the answer about a text, or a list of answers about a list of texts.

        An answer has, by the task: `label`, `probability` and `likeliest`; `words` and `entities`; `text`, `score`,
        `start` and `end`; `translation` and `score`; or `embedding`.

        Args:
            texts: A text, a tuple of two, or a list of such.
            batch_size: How many go through the model at once.

        Raises:
            UsageError: The task takes another number of texts, or a text is empty.
        """
        alone = not isinstance(texts, list)
        answers = list(self.answers([texts] if alone else texts, batch_size))  # type: ignore[list-item]
        return answers[0] if alone else answers

    def answers(self, texts: Iterable[Input], batch_size: int = 16) -> Iterator[dict[str, Any]]:
        """Yields the answer about each text, in order, as they come."""
        rest = iter(texts)
        while pieces := list(islice(rest, batch_size)):
            yield from self.answered(pieces, batch_size)

    def answered(self, pieces: Sequence[Input], batch_size: int = 16) -> list[dict[str, Any]]:
        """Returns the answers about some texts; a long one may take several examples."""
        inputs = [(piece,) if isinstance(piece, str) else piece for piece in pieces]
        examples = [self._examples(texts) for texts in inputs]
        flat = [example for each in examples for example in each]
        found = [
            answer for start in range(0, len(flat), batch_size) for answer in self._asked(flat[start:][:batch_size])
        ]
        answers, start = [], 0
        for texts, each in zip(inputs, examples, strict=True):
            answers.append(self.task.joined(found[start : start + len(each)], *texts))
            start += len(each)
        return answers

    def _examples(self, texts: Sequence[str]) -> list[Any]:
        least, most = self.task.takes
        if not least <= len(texts) <= most:
            wanted = f"{least}" if least == most else f"{least} or {most}"
            raise UsageError(
                f"the task takes {wanted} text{'s' * (most > 1)} at a time, but was given {len(texts)}: "
                f"{texts[0][:60]!r}. {_ADVICE[most]}"
            )
        if not all(text.strip() for text in texts):
            raise UsageError("a text must have words, but one is empty. Leave it out.")
        if hasattr(self.task, "too_long"):
            self.cut += self.task.too_long(self.tokenizer, *texts)
        return list(self.task.examples(self.tokenizer, *texts))

    @torch.inference_mode()
    def _asked(self, examples: Sequence[Any]) -> list[dict[str, Any]]:
        device = next(self.model.parameters()).device
        batch = self.task.collate(examples, range(len(examples))).to(device)
        plain = self.dtype in (torch.float32, torch.float64)
        with contextlib.nullcontext() if plain else torch.autocast(device.type, dtype=self.dtype):
            return self.task.answers(self.model, batch)


_ADVICE = {
    1: "Give each text alone.",
    2: "Put a tab between the two, or give a tuple.",
}


class Embedding:
    """What a model that gives a vector for each text answers; it is trained elsewhere, so it has no loss."""

    labels = None
    takes = (1, 2)

    def __init__(self, seq_len: int):
        self.seq_len = seq_len

    def examples(self, tokenizer: Tokenizer, text: str, second: str | None = None) -> Sequence[LabelledText]:
        """Returns the text, or two, in the tokenizer's frame."""
        return read(tokenizer, self.seq_len, text, second).examples

    def too_long(self, tokenizer: Tokenizer, text: str, second: str | None = None) -> bool:
        """Tells whether the end of a text is cut off."""
        return bool(read(tokenizer, self.seq_len, text, second).long)

    def collate(self, examples: Sequence[LabelledText], samples: Sequence[int]) -> Batch:
        """Returns the texts as rows, as long as the longest."""
        lengths = [len(example.tokens) for example in examples]
        tokens, segments = [example.tokens for example in examples], [example.segments for example in examples]
        fields = {"tokens": padded(tokens, max(lengths))}
        kinds = segments_of(tokens, segments, max(lengths))
        if kinds is not None:
            fields["segments"] = kinds
        return Batch({**fields, "lengths": torch.tensor(lengths)}, torch.tensor(list(samples)))

    def answers(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        """Returns the vector of each text."""
        vectors = model(batch["tokens"], lengths=batch["lengths"], segments=batch.get("segments"))
        return [{"embedding": vector} for vector in vectors.float().tolist()]

    def joined(self, answers: Sequence[dict[str, Any]], *texts: str) -> dict[str, Any]:
        """Returns the one answer."""
        return answers[0]
