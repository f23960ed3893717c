"""Labelled text made ready: read, split and tokenized, with random access to each example.

Knows how the parts of `data` fit together; does not know models, tasks or batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dougong.core import files
from dougong.core.errors import FileError
from dougong.core.log import say
from dougong.data.datasets.labelled_text import ClassConfig, LabelledTextConfig
from dougong.data.examples import LabelledText
from dougong.data.reading import Reading, lines
from dougong.data.source import Tally
from dougong.data.sources.files import listed
from dougong.data.tokenizer import Tokenizer


class LabelledTextData:
    """Labelled text, ready to train on.

    Attributes:
        config: What described it.
        tokenizer: Text to ids and back; learned from the training part alone.
        seq_len: The longest example, in tokens.
        labels: The name of each class.
        train: The training examples; one source, without a weight.
        validation: The examples that are kept apart.
        determines: Fields of the model that the data decides.
        fingerprint: A hash of the tokenizer and of every example.
        licence: Of the text, as the recipe states it.
        source: Where the text comes from.
        counts: Per class: lines read, used, quarantined, left out, and examples of both parts.

    Raises:
        UsageError: A path does not exist.
        FileError: The text is broken, or a class has no example in one of the parts.
    """

    def __init__(self, config: LabelledTextConfig, seq_len: int):
        self.config, self.seq_len = config, seq_len
        self.labels = [each.label for each in config.classes]
        parts: dict[bool, list[tuple[str, int]]] = {False: [], True: []}
        self.counts = []
        for number, each in enumerate(config.classes):
            apart, counts = _read(config, each)
            self.counts.append(counts)
            for kept, text in apart:
                parts[kept].append((text, number))
        training = [text for text, _ in parts[False]]
        everything = [text for part in parts.values() for text, _ in part]
        self.tokenizer: Tokenizer = config.tokenizer.build(lambda: training, lambda: everything)
        self.source = ", ".join(path for each in config.classes for path in each.paths)
        self.licence = config.licence
        train, self.validation = (self._examples(parts[kept]) for kept in (False, True))
        self.train: list[tuple[Labelled, float | None]] = [(train, None)]
        self.determines: dict[str, Any] = {"vocab_size": self.tokenizer.vocab_size, "num_classes": len(self.labels)}
        facts = [self.tokenizer.fingerprint, train.fingerprint, self.validation.fingerprint, *self.labels]
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        cut = train.cut + self.validation.cut
        if cut:
            say(f"{cut:,} of {len(train) + len(self.validation):,} examples are longer than {seq_len} tokens: cut off")

    def _examples(self, texts: Sequence[tuple[str, int]]) -> Labelled:
        ids = self.tokenizer.encode_batch([text for text, _ in texts])
        rows = [np.array(tokens[: self.seq_len] or [self.tokenizer.eot_id], dtype=np.int32) for tokens in ids]
        cut = sum(len(tokens) > self.seq_len for tokens in ids)
        return Labelled(rows, [label for _, label in texts], self.licence, self.source, cut)

    def save_assets(self, folder: str | Path) -> None:
        """Writes what a model needs beside its weights: the tokenizer's files and the labels."""
        self.tokenizer.save(folder)
        files.write_json(Path(folder) / "labels.json", self.labels)


@dataclass(frozen=True)
class Labelled:
    """Tokenized examples with random access; a `Dataset`.

    Attributes:
        rows: The tokens of each, at least one.
        labels: The number of each one's class.
        licence: Of the text.
        source: Where it comes from.
        cut: How many were longer than is read.
    """

    rows: Sequence[np.ndarray]
    labels: Sequence[int]
    licence: str
    source: str
    cut: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> LabelledText:
        return LabelledText(self.rows[index], self.labels[index])

    @property
    def fingerprint(self) -> str:
        """A hash of every token and label."""
        whole = hashlib.sha256(np.array(self.labels, dtype=np.int32).tobytes())
        for row in self.rows:
            whole.update(len(row).to_bytes(4, "little") + row.tobytes())
        return whole.hexdigest()

    @property
    def longest(self) -> int:
        """The number of an example than which none is longer."""
        return max(range(len(self.rows)), key=lambda index: len(self.rows[index]))


def _read(config: LabelledTextConfig, each: ClassConfig) -> tuple[list[tuple[bool, str]], dict[str, Any]]:
    """Returns the lines of a class, each with whether it is kept apart, and how many there were."""
    tally, reading = Tally(config.max_bad_samples), Reading(encoding=config.encoding)
    texts = (document.text for path in listed(each.paths, tally) for document in lines(path, reading, tally))
    found = [(config.validation.keeps(text.encode()), text) for text in texts]
    numbers = {"train": sum(not apart for apart, _ in found), "validation": sum(apart for apart, _ in found)}
    for part, number in numbers.items():
        if not number:
            of = ", ".join(each.paths)
            advice = "Add lines." if not found else "Add lines, or change data.validation.fraction."
            raise FileError(
                f"the class {each.label!r} must have examples in both parts, but {of} give none to the {part} part "
                f"({tally.summary()}). {advice}"
            )
    counts = {"source": each.label, "read": tally.read, "used": tally.used, "quarantined": len(tally.quarantined)}
    return found, {**counts, **{part: {"examples": number} for part, number in numbers.items()}}
