"""Pairs of texts made ready: read, aligned, split and tokenized, with random access to each pair.

Knows how the parts of `data` fit together; does not know models, tasks or batches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from dougong.core import files
from dougong.core.errors import FileError, UsageError
from dougong.core.log import say
from dougong.data.columns import Record, Table, records, refuse, text_of
from dougong.data.datasets.parallel_text import ParallelTextConfig
from dougong.data.examples import TextPair
from dougong.data.inspection import write_quarantine
from dougong.data.reading import Bad, Reading, kind_of, numbered_lines
from dougong.data.source import Tally
from dougong.data.sources.files import listed
from dougong.data.tokenizer import Tokenizer

SOURCE_TOKENIZER = "source_tokenizer"
Pair = tuple[str, str]


class ParallelTextData:
    """Pairs of texts, ready to train on.

    Attributes:
        config: What described them.
        tokenizer: Text to translate to ids and back; learned from the training part alone.
        target_tokenizer: The same of translations; the same one, if one vocabulary serves both sides.
        seq_len: The longest side, in tokens.
        train: The training pairs; one source, without a weight.
        validation: The pairs that are kept apart.
        determines: Fields of the model that the data decides.
        fingerprint: A hash of the tokenizers and of every pair.
        licence: Of the text, as the recipe states it.
        source: Where the text comes from.
        counts: Pairs read, used, quarantined, left out, and of each part those that are too long.

    Raises:
        UsageError: A path or a column does not exist.
        FileError: The text is broken, files are not aligned, or a part has no pair.
    """

    def __init__(self, config: ParallelTextConfig, seq_len: int, cache: Path | None = None):
        self.config, self.seq_len = config, seq_len
        tally = Tally(config.max_bad_samples)
        parts = _divided(config, tally)
        training = parts[0]
        sides = [[pair[side] for pair in training] for side in (0, 1)]
        whole = [[pair[side] for part in parts for pair in part] for side in (0, 1)]
        if config.target_tokenizer is None:
            both, all_ = [*sides[0], *sides[1]], [*whole[0], *whole[1]]
            self.tokenizer: Tokenizer = config.tokenizer.build(lambda: both, lambda: all_)
            self.target_tokenizer = self.tokenizer.target
        else:
            self.tokenizer = config.tokenizer.build(lambda: sides[0], lambda: whole[0])
            self.target_tokenizer = config.target_tokenizer.build(lambda: sides[1], lambda: whole[1]).target
        self.licence, self.source = _origin(config)
        described = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
        write_quarantine((cache or files.cache_folder()) / f"parallel_text-{described[:16]}", self.source, tally)
        train, self.validation = (
            self._pairs(part, name) for part, name in zip(parts, ("train", "validate"), strict=True)
        )
        self.validation = dataclasses.replace(self.validation, first=len(train))
        self.train: list[tuple[Pairs, float | None]] = [(train, None)]
        joint = self.tokenizer.shares_ids(self.target_tokenizer)
        self.determines: dict[str, Any] = {
            "vocab_size": self.target_tokenizer.vocab_size,
            "source_vocab_size": None if joint else self.tokenizer.vocab_size,
            "start_id": self.target_tokenizer.eot_id,
        }
        facts = [self.tokenizer.fingerprint, self.target_tokenizer.fingerprint]
        facts += [train.fingerprint, self.validation.fingerprint]
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self.counts = [
            {
                "source": self.source,
                "read": tally.read,
                "used": tally.used,
                "quarantined": len(tally.quarantined),
                "left_out": tally.left_out,
                "train": {"pairs": len(train), "too_long": train.too_long},
                "validation": {"pairs": len(self.validation), "too_long": self.validation.too_long},
            }
        ]

    def length(self, example: TextPair) -> int:
        """Returns how long a pair is: the tokens of both sides."""
        return len(example.source) + len(example.target)

    def texts(self, number: int) -> Pair:
        """Returns the texts of the pair of a number, of either part."""
        train = self.train[0][0]
        return train.texts[number] if number < len(train) else self.validation.texts[number - len(train)]

    def save_assets(self, folder: str | Path) -> None:
        """Writes what a model needs beside its weights: the tokenizer of translations, and of the text if another."""
        self.target_tokenizer.save(folder)
        if self.tokenizer.target is not self.target_tokenizer:
            place = Path(folder) / SOURCE_TOKENIZER
            place.mkdir(exist_ok=True)
            self.tokenizer.save(place)

    def _pairs(self, texts: Sequence[Pair], part: str) -> Pairs:
        """Tokenizes a part, and does with long pairs what the config says."""
        ids = [
            tokenizer.encode_batch([pair[side] for pair in texts])
            for side, tokenizer in enumerate((self.tokenizer, self.target_tokenizer))
        ]
        rows, kept, long, most = [], list[Pair](), 0, self.seq_len - 1
        ends = self.tokenizer.eot_id, self.target_tokenizer.eot_id
        for pair, source, target in zip(texts, *ids, strict=True):
            if max(len(source), len(target)) > most:
                self._refuse(pair, max(len(source), len(target)) + 1)
                long += 1
                if self.config.too_long == "drop":
                    continue
            rows.append(
                tuple(np.array([*side[:most], end], np.int32) for side, end in zip((source, target), ends, strict=True))
            )
            kept.append(pair)
        if long:
            done = "left out" if self.config.too_long == "drop" else "cut off"
            say(f"{long:,} of {len(texts):,} pairs to {part} on have a side longer than {self.seq_len} tokens: {done}")
        if not rows:
            raise FileError(
                f"there must be pairs to {part} on, but there are none ({len(texts):,} read, {long:,} too long). "
                "Add some, or raise seq_len."
            )
        return Pairs(cast(Any, rows), kept, self.licence, self.source, long)

    def _refuse(self, pair: Pair, tokens: int) -> None:
        if self.config.too_long == "refuse":
            raise FileError(
                f"both sides of a pair must have at most {self.seq_len} tokens with the one that ends it, but one has "
                f"{tokens:,}: {pair[0][:60]!r}. Shorten it, raise seq_len, or set too_long to drop or cut."
            )


@dataclass(frozen=True)
class Pairs:
    """Tokenized pairs with random access; a `Dataset`.

    Attributes:
        rows: The tokens of both sides of each.
        texts: Their texts.
        licence: Of the text.
        source: Where it comes from.
        too_long: How many pairs had a side longer than is read.
        first: The number of the first one; those to validate on are numbered on from those to train on.
    """

    rows: Sequence[tuple[np.ndarray, np.ndarray]]
    texts: Sequence[Pair]
    licence: str
    source: str
    too_long: int
    first: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TextPair:
        return TextPair(*self.rows[index], self.first + index)

    @property
    def fingerprint(self) -> str:
        """A hash of every token."""
        whole = hashlib.sha256()
        for row in itertools.chain.from_iterable(self.rows):
            whole.update(len(row).to_bytes(4, "little") + row.tobytes())
        return whole.hexdigest()

    @property
    def longest(self) -> int:
        """The number of a pair than which none is longer."""
        return max(range(len(self.rows)), key=lambda index: sum(map(len, self.rows[index])))


def _origin(config: ParallelTextConfig) -> tuple[str, str]:
    """Returns the licence, as the recipe or the hub states it, and where the text comes from."""
    if config.hub is not None:
        stated = config.licence if config.licence != "unknown" else config.hub.source(False).licence
        return stated, config.hub.dataset
    return config.licence, ", ".join(config.paths or [*(config.source_paths or ()), *(config.target_paths or ())])


def _divided(config: ParallelTextConfig, tally: Tally) -> tuple[list[Pair], list[Pair]]:
    """Returns the pairs to train and to validate on."""
    pairs = list(_read(config, tally, apart=False))
    hub = config.hub is not None and config.hub.validation_split
    if hub or config.validation_paths or config.validation_source_paths:
        return pairs, list(_read(config, tally, apart=True))
    # By the text alone: the same text with two translations stays on one side.
    kept = [config.validation.keeps(source.encode()) for source, _ in pairs]
    return tuple([pair for pair, apart in zip(pairs, kept, strict=True) if apart == part] for part in (False, True))  # type: ignore[return-value]


def _read(config: ParallelTextConfig, tally: Tally, apart: bool) -> Iterator[Pair]:
    """Yields the pairs of tables, or of plain texts side by side; those without a side are counted and left out."""
    tables = config.validation_paths if apart else config.paths
    if config.hub is None and not tables:
        yield from _side_by_side(config, tally, apart)
        return
    names = (config.source, config.target)
    for record in _records(config, tables or (), tally, apart):
        sides = [text_of(*_place(record.values, name)) for name in names]
        bad = next((side for side in sides if isinstance(side, Bad)), None)
        if bad is not None:
            refuse(record, str(bad), tally)
        elif all(str(side).strip() for side in sides):
            yield cast(Pair, tuple(str(side).strip() for side in sides))
        else:
            tally.used -= 1
            tally.leave_out("without one side")


def _records(config: ParallelTextConfig, tables: Sequence[str], tally: Tally, apart: bool) -> Iterator[Record]:
    """Yields the columns of a data set, or of tables; but for those of text, a column may hold several languages."""
    names = [config.source, config.target]
    whole = list(dict.fromkeys(name.partition(".")[0] for name in names))
    if config.hub is not None:
        yield from config.hub.source(apart).rows(whole, tally)
        return
    for path in listed(tables, tally):
        wanted = names if kind_of(path) in ("csv", "tsv") else whole
        yield from records([path], wanted, Table(config.columns, config.encoding), tally)


def _place(values: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Returns where a text stands: a column, or a part of one that holds several languages."""
    column, _, part = name.partition(".")
    inside = values.get(column)
    return (inside, part) if name not in values and isinstance(inside, dict) else (values, name)


def _side_by_side(config: ParallelTextConfig, tally: Tally, apart: bool) -> Iterator[Pair]:
    """Yields the lines of plain texts that belong together.

    Raises:
        UsageError: There are more files of one side than of the other.
    """
    named = (
        (config.validation_source_paths, config.validation_target_paths)
        if apart
        else (config.source_paths, config.target_paths)
    )
    both = [list(listed(paths or (), tally)) for paths in named]
    if len(both[0]) != len(both[1]):
        raise UsageError(
            "data.source_paths and data.target_paths must name as many files, as they belong together in order, but "
            f"name {len(both[0])} and {len(both[1])}. Complete the shorter one."
        )
    reading = Reading(encoding=config.encoding)
    for source, target in zip(*both, strict=True):
        yield from _aligned(source, target, reading, tally)


def _aligned(source: Path, target: Path, reading: Reading, tally: Tally) -> Iterator[Pair]:
    """Yields the lines of two files side by side.

    Raises:
        FileError: One has more lines than the other.
    """
    numbers = [sum(1 for _ in numbered_lines(path, reading)) for path in (source, target)]
    if numbers[0] != numbers[1]:
        raise FileError(
            f"{source} and {target} must have the same number of lines, a text and its translation in each, but have "
            f"{numbers[0]:,} and {numbers[1]:,}. Find the line that one lacks."
        )
    for (number, said), (_, meant) in zip(
        numbered_lines(source, reading), numbered_lines(target, reading), strict=True
    ):
        for path, text in ((source, said), (target, meant)):
            if isinstance(text, Bad):
                tally.quarantine(f"{path}, line {number}", str(text))
                break
        else:
            if said and meant:
                tally.used += 1
                yield cast(Pair, (said, meant))
            else:
                tally.leave_out("without one side")
