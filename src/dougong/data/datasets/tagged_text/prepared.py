"""Tagged text made ready: read, split and tokenized, with random access to each example.

Knows how the parts of `data` fit together; does not know models, tasks or batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.core.errors import FileError, UsageError
from dougong.core.log import say
from dougong.data.classes import number_of, sorted_labels
from dougong.data.datasets.tagged_text import TaggedTextConfig
from dougong.data.datasets.tagged_text.conll import Sentence
from dougong.data.datasets.tagged_text.sentences import sentences
from dougong.data.examples import TaggedText
from dougong.data.inspection import write_quarantine
from dougong.data.raw import Bad
from dougong.data.source import Tally
from dougong.data.tokenizer import Tokenizer
from dougong.data.words import encoded, stretches, tagged


class TaggedTextData:
    """Tagged text, ready to train on.

    Attributes:
        config: What described it.
        tokenizer: Text to ids and back; learned from the training part alone.
        seq_len: The longest example, in tokens.
        labels: The tags, in the order of their numbers.
        train: The training examples; one source, without a weight.
        validation: The examples that are kept apart.
        determines: Fields of the model that the data decides.
        fingerprint: A hash of the tokenizer, the tags and every example.
        licence: Of the text, as the recipe states it.
        source: Where the text comes from.
        counts: Per part that is read: sentences read, used, quarantined, and examples of what it gives.

    Raises:
        UsageError: A path does not exist, or the length leaves no room for a word.
        FileError: A sentence is bad or too long, a part has none, or a tag is only in what is kept apart.
    """

    def __init__(self, config: TaggedTextConfig, seq_len: int, cache: Path | None = None):
        self.config, self.seq_len = config, seq_len
        self.source = ", ".join(dict.fromkeys([*_names(config, False), *_names(config, True)]))
        self.licence = config.licence
        if config.hub is not None and self.licence == "unknown":
            self.licence = config.hub.source(False).licence
        parts, tallies = _parts(config)
        training = parts["train"]
        derived = config.labels is None
        found = sorted_labels(tag for sentence in training for tag in sentence.tags) if derived else config.labels
        self.labels = list(found or ())
        self.tokenizer: Tokenizer = config.tokenizer.build(
            lambda: (" ".join(sentence.words) for sentence in training),
            lambda: (" ".join(sentence.words) for part in parts.values() for sentence in part),
        )
        train, self.validation = (self._examples(part) for part in parts.values())
        self.train: list[tuple[Tagged, float | None]] = [(train, None)]
        self.determines: dict[str, Any] = {"vocab_size": self.tokenizer.vocab_size, "num_classes": len(self.labels)}
        facts = [self.tokenizer.fingerprint, train.fingerprint, self.validation.fingerprint, *self.labels]
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        sizes = {"train": {"examples": len(train)}, "validation": {"examples": len(self.validation)}}
        described = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
        folder = (cache or files.cache_folder()) / f"tagged_text-{described[:16]}"
        write_quarantine(folder, self.source, *(tally for _, _, tally in tallies))
        self.counts = [
            {
                "source": ", ".join(paths),
                "read": tally.read,
                "used": tally.used,
                "quarantined": len(tally.quarantined),
                **({part: sizes[part] for part in given}),
            }
            for paths, given, tally in tallies
        ]

    def _examples(self, part: Sequence[Sentence]) -> Tagged:
        """Returns the examples of the sentences of a part."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        room = self.seq_len - self.tokenizer.frame_size(pair=False)
        if room < 1:
            raise UsageError(f"data.seq_len must have room for a token in the frame, but is {self.seq_len}. Raise it.")
        rows, longer = [], 0
        words = encoded(self.tokenizer, [sentence.words for sentence in part])
        for number, (sentence, tokens) in enumerate(zip(part, words, strict=True)):
            pieces = stretches(tokens, room)
            tags = [_number(tag, numbers, sentence) for tag in sentence.tags]
            if sum(map(len, tokens)) > room:
                longer += 1
                pieces = self._fitted(pieces, sentence)
            rows += [tagged(self.tokenizer, tokens[piece], tags[piece], number, self.seq_len) for piece in pieces]
        if longer:
            done = {"split": "split", "cut": "cut off"}[self.config.too_long]
            say(f"{longer:,} of {len(part):,} sentences are longer than {self.seq_len} tokens: {done}")
        return Tagged(rows, self.licence, self.source)

    def _fitted(self, pieces: list[slice], sentence: Sentence) -> list[slice]:
        if self.config.too_long == "refuse":
            raise FileError(
                f"{sentence.where}: a sentence must have at most {self.seq_len} tokens with its frame, but has more. "
                "Raise seq_len, or set too_long to split or cut."
            )
        return pieces[:1] if self.config.too_long == "cut" else pieces

    def length(self, example: TaggedText) -> int:
        """Returns how long an example is, in tokens."""
        return len(example.tokens)

    def save_assets(self, folder: str | Path) -> None:
        """Writes what a model needs beside its weights: the tokenizer's files and the tags."""
        self.tokenizer.save(folder)
        files.write_json(Path(folder) / "labels.json", self.labels)


@dataclass(frozen=True)
class Tagged:
    """Tokenized examples with random access; a `Dataset`.

    Attributes:
        rows: The examples; those of one sentence stand together.
        licence: Of the text.
        source: Where it comes from.
    """

    rows: Sequence[TaggedText]
    licence: str
    source: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TaggedText:
        return self.rows[index]

    @property
    def longest(self) -> int:
        """The number of an example than which none is longer."""
        return max(range(len(self.rows)), key=lambda index: len(self.rows[index].tokens))

    @property
    def fingerprint(self) -> str:
        """A hash of every token and tag, and of which examples are of one sentence."""
        whole = hashlib.sha256()
        for row in self.rows:
            whole.update(row.number.to_bytes(8, "little") + len(row.tokens).to_bytes(8, "little"))
            whole.update(row.tokens.astype("<i4").tobytes() + row.tags.astype("<i4").tobytes())
        return whole.hexdigest()


Read = tuple[Sequence[str], tuple[str, ...], Tally]


def _parts(config: TaggedTextConfig) -> tuple[dict[str, list[Sentence]], list[Read]]:
    """Returns the sentences of both parts, and of each pass which files it read, for which parts, and its counts."""
    tally = Tally(config.max_bad_samples)
    found = list(_known(config, False, tally))
    if config.validates_on is None:
        apart = [config.validation.keeps("\n".join(sentence.words).encode()) for sentence in found]
        both = list(zip(apart, found, strict=True))
        parts = {
            "train": [sentence for kept, sentence in both if not kept],
            "validation": [sentence for kept, sentence in both if kept],
        }
        reads: list[Read] = [(_names(config, False), ("train", "validation"), tally)]
    else:
        other = Tally(config.max_bad_samples)
        parts = {"train": found, "validation": list(_known(config, True, other))}
        reads = [(_names(config, False), ("train",), tally), (_names(config, True), ("validation",), other)]
    for paths, given, counted in reads:
        for part in given:
            if not parts[part]:
                advice = "Add sentences, or change data.validation.fraction." if counted.used else "Name others."
                raise FileError(
                    f"the {part} part must have sentences, but {', '.join(paths)} give it none "
                    f"({counted.summary('sentences')}). {advice}"
                )
    return parts, reads


def _names(config: TaggedTextConfig, apart: bool) -> list[str]:
    """Returns the names of what is read."""
    if config.hub is not None:
        return [config.hub.dataset]
    return list((config.validation_paths if apart else config.paths) or ())


def _known(config: TaggedTextConfig, apart: bool, tally: Tally) -> Iterator[Sentence]:
    """Yields the good sentences, and counts all; one with a tag that is not among the given ones is bad."""
    numbers = {label: number for number, label in enumerate(config.labels or ())}
    for where, sentence in sentences(config, apart, tally):
        try:
            if isinstance(sentence, Bad):
                raise sentence
            for tag in sentence.tags if numbers else ():
                number_of(tag, numbers)
        except Bad as bad:
            tally.quarantine(where, str(bad).replace("a class must", "a tag must"))
            continue
        tally.used += 1
        yield sentence


def _number(tag: str, numbers: Mapping[str, int], sentence: Sentence) -> int:
    if tag not in numbers:
        raise FileError(
            f"{sentence.where}: each tag must be one of the training part, but {tag!r} is not. Set data.labels to all "
            "tags, or validate on other sentences."
        )
    return numbers[tag]
