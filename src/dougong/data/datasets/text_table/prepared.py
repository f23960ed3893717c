"""Rows of labelled text made ready: read, split and tokenized, with random access to each example.

Knows how the parts of `data` fit together; does not know models, tasks or batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.core.errors import FileError
from dougong.core.log import warn
from dougong.data.classes import number_of, sorted_labels
from dougong.data.columns import Record, Table, name_of, records, refuse, text_of
from dougong.data.datasets.text_table import TextTableConfig
from dougong.data.examples import LabelledText
from dougong.data.inspection import write_quarantine
from dougong.data.labelled import Framing, Labelled, Text
from dougong.data.raw import Bad
from dougong.data.source import Tally
from dougong.data.sources.files import listed
from dougong.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Row:
    """A sound row."""

    record: Record
    first: str
    second: str | None
    label: str


class TextTableData:
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
        licence: Of the text, as the recipe or the card of the data set states it.
        source: Where the text comes from.
        counts: Rows read, used, quarantined, left out; and of each part the examples, and the texts too long.

    Raises:
        UsageError: A path does not exist.
        FileError: The text is broken, or a part has no example or an unknown class.
    """

    def __init__(self, config: TextTableConfig, seq_len: int, cache: Path | None = None):
        self.config, self.seq_len = config, seq_len
        self.source = config.hub.dataset if config.hub is not None else ", ".join(config.paths or [])
        tally = Tally(config.max_bad_samples)
        parts = _parts(config, tally)
        self.labels = config.labels or sorted_labels(row.label for row in parts[0])
        texts = [list(_numbered(part, self.labels, tally, config)) for part in parts]
        self._see_that_all_are_there(texts, tally)
        training, everything = (_said(each) for each in (texts[0], [*texts[0], *texts[1]]))
        self.tokenizer: Tokenizer = config.tokenizer.build(lambda: training, lambda: everything)
        self.licence = _licence(config)
        framing = Framing(self.tokenizer, seq_len, config.too_long)
        train, self.validation = (framing.examples(part, self.licence, self.source) for part in texts)
        framing.tell([train, self.validation])
        self.train: list[tuple[Labelled, float | None]] = [(train, None)]
        self.determines: dict[str, Any] = {"vocab_size": self.tokenizer.vocab_size, "num_classes": len(self.labels)}
        facts = [self.tokenizer.fingerprint, train.fingerprint, self.validation.fingerprint, *self.labels]
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        described = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
        folder = (cache or files.cache_folder()) / f"text_table-{described[:16]}"
        write_quarantine(folder, self.source, tally)
        counts = {"read": tally.read, "used": tally.used, "quarantined": len(tally.quarantined)}
        sizes = {"train": train, "validation": self.validation}
        examples = {name: {"examples": len(part), "too_long": part.long} for name, part in sizes.items()}
        self.counts = [{"source": self.source, **counts, "left_out": tally.left_out, **examples}]

    def length(self, example: LabelledText) -> int:
        """Returns how long an example is, in tokens."""
        return len(example.tokens)

    def save_assets(self, folder: str | Path) -> None:
        """Writes what a model needs beside its weights: the tokenizer's files and the labels."""
        self.tokenizer.save(folder)
        files.write_json(Path(folder) / "labels.json", self.labels)

    def _see_that_all_are_there(self, parts: Sequence[Sequence[Text]], tally: Tally) -> None:
        for name, part in zip(("train", "validate"), parts, strict=True):
            if not part:
                raise FileError(
                    f"there must be rows to {name} on, but {self.source} gives none ({tally.summary('rows')}). Add "
                    "some, or change which are kept apart."
                )
        if len(self.labels) < 2:
            raise FileError(f"there must be two classes or more, but all rows are of {self.labels[0]!r}. Add others.")
        seen = {text.label for text in parts[0]}
        if without := [label for number, label in enumerate(self.labels) if number not in seen]:
            warn(f"every class should have rows to train on, but these have none: {', '.join(without)}.")


def _parts(config: TextTableConfig, tally: Tally) -> tuple[list[_Row], list[_Row]]:
    """Returns the sound rows to train and to validate on."""
    apart = config.validation_paths if config.hub is None else config.hub.validation_split
    rows = list(_rows(config, _records(config, tally, apart=False), tally))
    if apart is not None:
        return rows, list(_rows(config, _records(config, tally, apart=True), tally))
    kept = [config.validation.keeps(row.first.encode()) for row in rows]
    first, second = ([row for row, keep in zip(rows, kept, strict=True) if keep is side] for side in (False, True))
    return first, second


def _records(config: TextTableConfig, tally: Tally, apart: bool) -> Iterator[Record]:
    wanted = [column for column in (config.text, config.pair, config.label) if column is not None]
    if config.hub is not None:
        return config.hub.source(apart).rows(wanted, tally)
    paths = config.validation_paths if apart else config.paths
    return records(listed(paths or [], tally), wanted, Table(config.columns, config.encoding), tally)


def _rows(config: TextTableConfig, found: Iterator[Record], tally: Tally) -> Iterator[_Row]:
    """Yields the sound rows; counts those without a class as bad, and leaves out those without text."""
    columns = [config.text] if config.pair is None else [config.text, config.pair]
    for record in found:
        texts = [text_of(record.values, column) for column in columns]
        label = name_of(record.values[config.label], config.label)
        bad = next((each for each in (*texts, label) if isinstance(each, Bad)), None)
        first, *rest = (str(text).strip() for text in texts)
        if bad is not None:
            refuse(record, str(bad), tally)
        elif not first:
            tally.used -= 1
            tally.leave_out("empty")
        else:
            yield _Row(record, first, rest[0] if rest else None, str(label))


def _numbered(rows: Sequence[_Row], labels: Sequence[str], tally: Tally, config: TextTableConfig) -> Iterator[Text]:
    """Yields the rows with the numbers of their classes.

    A class that is not among those given is a bad sample.

    Raises:
        FileError: None are given, and a class is only in what is kept apart.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    unseen = [row for row in rows if row.label not in numbers]
    if unseen and config.labels is None:
        names = ", ".join(map(repr, sorted_labels(row.label for row in unseen)))
        raise FileError(
            f"{unseen[0].record.where}: the classes to validate on must be among those to train on, but {names} "
            f"({len(unseen):,} rows) have no row there. Add some, or name all classes in labels."
        )
    for row in rows:
        try:
            number = number_of(row.label, numbers)
        except Bad as bad:
            refuse(row.record, str(bad), tally)
        else:
            yield Text(row.record.where, row.first, row.second, number)


def _said(texts: Sequence[Text]) -> list[str]:
    """Returns all that is said, to learn a vocabulary from."""
    return [said for text in texts for said in (text.first, text.second) if said]


def _licence(config: TextTableConfig) -> str:
    stated = config.licence != "unknown" or config.hub is None
    return config.licence if stated or config.hub is None else config.hub.source(False).licence
