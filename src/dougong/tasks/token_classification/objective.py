"""Token classification: a tag for each word, told at the first of its tokens.

Knows rows of tokens and models that turn each into logits; knows no concrete model or dataset.
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
from dougong.core.errors import UsageError
from dougong.data.examples import TaggedText
from dougong.data.tokenizer import Tokenizer
from dougong.data.words import examples_of
from dougong.nn.losses import IGNORED, class_cross_entropy
from dougong.nn.metrics import Classification
from dougong.tasks._classes import known, known_classes
from dougong.tasks._fit import require_fit
from dougong.tasks._rows import MULTIPLE, width_of
from dougong.tasks.token_classification import TokenClassificationConfig
from dougong.tasks.token_classification.entities import Entity, EntityCounts, entities, mark_entities

Equality = tuple[str, Batch, Sequence[Batch]]


class TokenClassification:
    """The objective.

    A batch has `tokens`, `lengths` (of each row, in tokens), `tags` (of each token; -1 where none counts), `numbers`
    (of each row's sentence) and, where there is a text, `spans` (the characters of each word, at its first token).

    Attributes:
        item: What goes in, as a word for a person.
        counts_examples: That it is these that are counted, as a loss's weight counts words.
        pipeline_tag: What the hub calls models of this kind.
        takes: How many texts there are at a time, at least and at most.
        labels: The names of the tags, if they are known.
        finds_entities: Whether tags mark entities.
    """

    item = "sentences"
    counts_examples = True
    pipeline_tag = "token-classification"
    takes = (1, 1)

    def __init__(self, config: TokenClassificationConfig, model: Any, data: Any = None):
        require_fit(model, data, config.name, TaggedText)
        self.config = config
        self.seq_len: int = known(model, None, "max_seq_len", config.name)
        self.vocab_size: int = known(model, None, "vocab_size", config.name)
        self.number = known_classes(model, data, config.name)
        self.labels: Sequence[str] | None = getattr(data, "labels", None)
        self.finds_entities = self.labels is not None and mark_entities(self.labels)

    def collate(self, examples: Sequence[TaggedText], samples: Sequence[int]) -> Batch:
        """Returns a batch as long as its longest row, rounded up to a multiple of 8; what is added counts nowhere."""
        lengths = [len(example.tokens) for example in examples]
        width = width_of(lengths, self.seq_len)
        tokens = np.zeros((len(examples), width), dtype=np.int64)
        tags, spans = np.full_like(tokens, IGNORED), np.full((*tokens.shape, 2), -1, dtype=np.int64)
        for row, example in enumerate(examples):
            tokens[row, : lengths[row]], tags[row, : lengths[row]] = example.tokens, example.tags
            if example.spans is not None:
                spans[row, : lengths[row]] = example.spans
        fields = {
            "tokens": torch.from_numpy(tokens),
            "lengths": torch.tensor(lengths, dtype=torch.int64),
            "tags": torch.from_numpy(tags),
            "numbers": torch.tensor([example.number for example in examples], dtype=torch.int64),
        }
        if all(example.spans is not None for example in examples):
            fields["spans"] = torch.from_numpy(spans)
        return Batch(fields, torch.tensor(samples, dtype=torch.int64))

    def logits(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch time classes"]:
        """Returns what the model says of each token.

        Raises:
            UsageError: It says nothing of each.
        """
        found = model(batch["tokens"], lengths=batch["lengths"], noise=batch.noise)
        if found.ndim != 3 or found.shape[:2] != batch["tokens"].shape or found.shape[2] < self.number:
            shapes = " x ".join(map(str, found.shape)), " x ".join(map(str, batch["tokens"].shape))
            raise UsageError(
                f"the model must give each of {shapes[1]} tokens a number for each of {self.number} tags, but gives "
                f"{shapes[0]} numbers. Choose the head tag."
            )
        return found

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Returns the summed cross entropy over the words that count."""
        smoothing = self.config.label_smoothing
        found = class_cross_entropy(self.logits(model, batch).flatten(0, 1), batch["tags"].flatten(), smoothing)
        return Loss(found.sum, found.weight, {"nll": found.nll} if smoothing else {})

    def metrics(self) -> TagMetrics:
        """Returns a fresh accumulator."""
        return TagMetrics(self)

    def name(self, number: int) -> str | int:
        """Returns the name of a tag, or its number where that is not known."""
        return number if self.labels is None or number >= len(self.labels) else self.labels[number]

    def decode(self, outputs: Float[Tensor, "batch time classes"]) -> list[list[str | int]]:
        """Returns the likeliest tag of each token."""
        return [[self.name(number) for number in row] for row in outputs.argmax(-1).tolist()]

    def answers(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        """Returns the likeliest tag of each word with its probability, and the entities that the tags mark.

        Words and entities have `start` and `end`, their characters, where these are known. An entity is as probable as
        the least probable of its tags.
        """
        probabilities, numbers = self.logits(model, batch.with_noise(None)).float().softmax(-1).max(-1)
        found, spans = [], batch.get("spans")
        for row, words in enumerate(batch["tags"] != IGNORED):
            tagged: list[dict[str, Any]] = [
                {"tag": self.name(number), "probability": probability}
                for number, probability in zip(
                    numbers[row][words].tolist(), probabilities[row][words].tolist(), strict=True
                )
            ]
            if spans is not None:
                places = spans[row][words].tolist()
                tagged = [{**word, "start": a, "end": b} for word, (a, b) in zip(tagged, places, strict=True)]
            found.append(self._answer(tagged))
        return found

    def _answer(self, words: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the words, and the entities that they make up."""
        if not self.finds_entities:
            return {"words": words}
        marked = entities([str(word["tag"]) for word in words])
        return {"words": words, "entities": [_described(entity, words) for entity in marked]}

    def examples(self, tokenizer: Tokenizer, text: str) -> list[TaggedText]:
        """Returns a text to be answered about: an example, or several, if it is long; none, if it has no word."""
        return examples_of(tokenizer, text, self.seq_len)

    def joined(self, answers: Sequence[dict[str, Any]], text: str) -> dict[str, Any]:
        """Returns one answer of those about the examples of one text, with what each word and entity says."""
        words = [{"text": text[word["start"] : word["end"]], **word} for answer in answers for word in answer["words"]]
        whole = self._answer(words)
        for entity in whole.get("entities", ()):
            entity["text"] = text[entity["start"] : entity["end"]]
        return whole

    def example_batch(self, batch_size: int, device: torch.device | str = "meta") -> Batch:
        """Returns a batch of the right shapes and types: tokens 0, 1, 2, ...; every second one begins a word."""
        rows = torch.arange(batch_size * self.seq_len, device=device).reshape(batch_size, -1)
        fields = {
            "tokens": rows % self.vocab_size,
            "lengths": torch.full((batch_size,), self.seq_len, device=device),
            "tags": torch.where(rows % 2 == 0, rows // 2 % self.number, IGNORED),
            "numbers": torch.arange(batch_size, device=device),
        }
        return Batch(fields, torch.arange(batch_size, device=device))

    def chance(self) -> float:
        """Returns the loss of one who holds every tag for equally likely: the logarithm of their number."""
        return math.log(self.number)

    def uneven(self, batch: Batch) -> Batch:
        """Returns the batch with words of its first half left out, so that its microbatches have unequal weights."""
        tags = batch["tags"].clone()
        half = tags[: len(tags) // 2]
        half[(half != IGNORED).cumsum(1) > 1] = IGNORED
        return replace(batch, fields={**batch.fields, "tags": tags})

    def equalities(self, batch: Batch) -> Iterator[Equality]:
        """Yields each sentence padded a little longer than its batch, and the sentence alone."""
        width = min(batch["tokens"].shape[1] + MULTIPLE, self.seq_len)
        for row in batch.split(1):
            length, more = int(row["lengths"][0]), width - row["tokens"].shape[1]
            padded = {
                "tokens": F.pad(row["tokens"], (0, more), value=1),
                "tags": F.pad(row["tags"], (0, more), value=-1),
            }
            alone = {name: row[name][:, :length] for name in padded}
            forms = (replace(row, fields={**row.fields, **form}) for form in (padded, alone))
            whole, part = forms
            yield "a padded sentence equals the sentence alone (the mask of `lengths`)", whole, [part]


class TagMetrics:
    """Loss and accuracy over words, and how good the entities are that tags mark.

    A sentence that is several examples, which come one after the other, is held open until it ends, and judged whole.
    """

    def __init__(self, task: TokenClassification):
        self.task, self.tags, self.counts = task, Classification(task.number), EntityCounts()
        self._open: tuple[int, list[int], list[int]] | None = None

    def update(self, model: nn.Module, batch: Batch) -> None:
        """Adds the batch's words that count."""
        logits, tags = self.task.logits(model, batch.with_noise(None)), batch["tags"]
        found = class_cross_entropy(logits.flatten(0, 1), tags.flatten())
        self.tags.loss.add(found.sum.double().item(), float(found.weight.item()))
        predicted = logits.argmax(-1).tolist()
        for number, true, said in zip(batch["numbers"].tolist(), tags.tolist(), predicted, strict=True):
            pairs = [pair for pair in zip(true, said, strict=True) if pair[0] != IGNORED]
            self.tags.pairs.update(pairs)
            if self.task.finds_entities:
                self._add(number, pairs)

    def _add(self, number: int, pairs: Sequence[tuple[int, int]]) -> None:
        """Adds a part of a sentence to what is open, or ends that."""
        if self._open is None or self._open[0] != number:
            self._close()
            self._open = (number, [], [])
        for true, said in pairs:
            self._open[1].append(true)
            self._open[2].append(said)

    def _close(self) -> None:
        if self._open is not None:
            true, said = ([str(self.task.name(tag)) for tag in tags] for tags in self._open[1:])
            self.counts.add(true, said)
        self._open = None

    def compute(self) -> dict[str, float]:
        """Returns loss and accuracy over words, and precision, recall and F1 of entities; asked at the end."""
        self._close()
        count = self.tags.pairs.total()
        right = sum(number for (label, said), number in self.tags.pairs.items() if label == said)
        figures = {"loss": self.tags.loss.value, "accuracy": right / count if count else math.nan}
        return {**figures, **(self.counts.figures() if self.task.finds_entities else {})}

    def details(self) -> dict[str, Any]:
        """Returns the figures of each type of entity and of each tag, and which tags were taken for which."""
        self._close()
        name = self.task.name
        types = {"types": self.counts.by_type()} if self.task.finds_entities else {}
        return {
            **types,
            "tags": {str(name(number)): row for number, row in self.tags.by_class().items()},
            "confusions": [
                {"is": name(tag), "taken for": name(said), "words": number}
                for tag, said, number in self.tags.confusions()
            ],
        }


def _described(entity: Entity, words: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns an entity with its words, how probable it is, and where it begins and ends if that is known."""
    inside = words[entity.first : entity.last + 1]
    found: dict[str, Any] = {"type": entity.type, "first": entity.first, "last": entity.last}
    found["probability"] = min(word["probability"] for word in inside)
    if "start" in inside[0]:
        found |= {"start": inside[0]["start"], "end": inside[-1]["end"]}
    return found
