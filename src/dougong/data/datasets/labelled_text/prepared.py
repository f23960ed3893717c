"""Labelled text made ready: read, split and tokenized, with random access to each example.

Knows how the parts of `data` fit together; does not know models, tasks or batches.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.core.errors import FileError
from dougong.data.datasets.labelled_text import ClassConfig, LabelledTextConfig
from dougong.data.examples import LabelledText
from dougong.data.inspection import write_quarantine
from dougong.data.labelled import Framing, Labelled, Text
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

    def __init__(self, config: LabelledTextConfig, seq_len: int, cache: Path | None = None):
        self.config, self.seq_len = config, seq_len
        self.labels = [each.label for each in config.classes]
        parts: dict[bool, list[Text]] = {False: [], True: []}
        self.counts, tallies = [], []
        for number, each in enumerate(config.classes):
            tally = Tally(config.max_bad_samples)
            apart, counts = _read(config, each, number, tally)
            tallies.append(tally)
            self.counts.append(counts)
            for kept, text in apart:
                parts[kept].append(text)
        training = [text.first for text in parts[False]]
        everything = [text.first for part in parts.values() for text in part]
        self.tokenizer: Tokenizer = config.tokenizer.build(lambda: training, lambda: everything)
        self.source = ", ".join(path for each in config.classes for path in each.paths)
        self.licence = config.licence
        framing = Framing(self.tokenizer, seq_len, config.too_long)
        train, self.validation = (framing.examples(parts[kept], self.licence, self.source) for kept in (False, True))
        framing.tell([train, self.validation])
        self.train: list[tuple[Labelled, float | None]] = [(train, None)]
        self.determines: dict[str, Any] = {"vocab_size": self.tokenizer.vocab_size, "num_classes": len(self.labels)}
        facts = [self.tokenizer.fingerprint, train.fingerprint, self.validation.fingerprint, *self.labels]
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        described = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
        folder = (cache or files.cache_folder()) / f"labelled_text-{described[:16]}"
        write_quarantine(folder, self.source, *tallies)

    def length(self, example: LabelledText) -> int:
        """Returns how long an example is, in tokens."""
        return len(example.tokens)

    def save_assets(self, folder: str | Path) -> None:
        """Writes what a model needs beside its weights: the tokenizer's files and the labels."""
        self.tokenizer.save(folder)
        files.write_json(Path(folder) / "labels.json", self.labels)


def _read(
    config: LabelledTextConfig, each: ClassConfig, label: int, tally: Tally
) -> tuple[list[tuple[bool, Text]], dict[str, Any]]:
    """Returns the lines of a class, each with whether it is kept apart, and how many there were."""
    reading = Reading(encoding=config.encoding)
    documents = (document for path in listed(each.paths, tally) for document in lines(path, reading, tally))
    texts = (Text(document.name, document.text, None, label) for document in documents)
    found = [(config.validation.keeps(text.first.encode()), text) for text in texts]
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
    return found, {
        **counts,
        "left_out": tally.left_out,
        **{part: {"examples": number} for part, number in numbers.items()},
    }
