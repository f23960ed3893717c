"""Texts with their translations: from columns of tables, or from two files whose lines belong together.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from dougong.core.config import Config, Fault
from dougong.core.errors import UsageError
from dougong.data.sources.hub import HubTableConfig
from dougong.data.split import HeldOutConfig
from dougong.data.vocabulary import BpeConfig, TokenizerConfig

_SIDES = ("source_paths", "target_paths")


class ParallelTextConfig(Config):
    """Pairs of a text and its translation."""

    name: Literal["parallel_text"] = "parallel_text"
    """Which dataset."""
    paths: list[str] | None = None
    """Tables (.tsv, .csv, .jsonl, .parquet) with a pair in each row; or give hub, or source_paths and target_paths."""
    hub: HubTableConfig | None = None
    """A data set of the hub, or a folder laid out like one; or give paths."""
    columns: list[str] | None = None
    """Names of the columns, for tables whose first line is not a header."""
    source: str = "source"
    """The column of the text; `translation.en` is the part `en` of a column with several languages."""
    target: str = "target"
    """The column of its translation."""
    source_paths: list[str] | None = None
    """Plain text, a line an example; line by line the texts of target_paths."""
    target_paths: list[str] | None = None
    """Plain text, a line an example."""
    validation_paths: list[str] | None = None
    """Tables with the pairs to validate on; absent: a share of the others is kept apart."""
    validation_source_paths: list[str] | None = None
    """Plain text to validate on, where source_paths are given."""
    validation_target_paths: list[str] | None = None
    """Its translation."""
    validation: HeldOutConfig = HeldOutConfig()
    """Which pairs are kept apart, where no validation files are named."""
    tokenizer: TokenizerConfig = BpeConfig()
    """What text is cut into; that of both sides, if target_tokenizer is absent."""
    target_tokenizer: TokenizerConfig | None = None
    """What translations are cut into; absent: one vocabulary serves both sides."""
    seq_len: PositiveInt | None = None
    """Longest side, in tokens; absent: the model's `max_seq_len`."""
    too_long: Literal["drop", "cut", "refuse"] = "drop"
    """What is done about pairs with a longer side: left out and counted, cut off, or refused."""
    encoding: str | None = None
    """Encoding of the text; absent: UTF-8, or UTF-16 or -32 where a byte order mark says so."""
    max_bad_samples: NonNegativeInt = 0
    """Bad rows (text that cannot be decoded, a missing column) to leave aside before reading stops."""
    licence: str = "unknown"
    """Licence of the text, for the model card."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        aligned = [name for name in _SIDES if getattr(self, name)]
        tabled = "hub" if self.hub is not None else "paths" if self.paths else None
        if self.hub is not None and self.paths:
            yield Fault("paths", "has no effect beside hub. Remove one of the two.")
        if tabled and aligned:
            yield Fault(aligned[0], f"has no effect beside {tabled}. Remove one of the two.")
        if not tabled and len(aligned) < 2:
            lacking = next(name for name in _SIDES if name not in aligned) if aligned else "paths"
            yield Fault(lacking, "is required: name tables in paths, or plain texts in source_paths and target_paths.")
        tables = {"columns": None, "source": "source", "target": "target", "validation_paths": None}
        plain = {"validation_source_paths": None, "validation_target_paths": None}
        for name, default in (plain if tabled else tables).items():
            if getattr(self, name) != default:
                other = "plain texts" if tabled else "tables"
                yield Fault(name, f"has no effect, as it is for {other}. Remove it.")
        for name in ("columns", "validation_paths", "encoding") if self.hub is not None else ():
            if getattr(self, name) is not None:
                yield Fault(name, "has no effect, as it is for files, and hub is given. Remove it.")
        if not tabled and bool(self.validation_source_paths) != bool(self.validation_target_paths):
            yield Fault("validation_source_paths", "must be given together with validation_target_paths. Give both.")
        named = self.validation_paths or self.validation_source_paths or (self.hub and self.hub.validation_split)
        if named and self.validation != HeldOutConfig():
            yield Fault("validation", "has no effect where it is named what to validate on. Remove it.")
        if self.source == self.target:
            yield Fault("target", f"must be another column than that of source, but both are {self.source!r}.")
        if self.columns is not None:
            for name in ("source", "target"):
                if getattr(self, name) not in self.columns:
                    listed = ", ".join(self.columns)
                    yield Fault(name, f"must be one of columns, which are {listed}, but is {getattr(self, name)}.")

    def foreseen(self) -> dict[str, int]:
        """Returns what of the model the data decides and is known before it is read."""
        size = getattr(self.target_tokenizer or self.tokenizer, "vocab_size", None)
        return {} if size is None else {"vocab_size": size}

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads, splits and tokenizes the pairs.

        Args:
            cache: Where bad rows that are left aside are written down; absent: $DOUGONG_CACHE, or `~/.cache/dougong`.
                All of it is read again each time, which takes seconds.
            seq_len: The longest side where the config names none.

        Raises:
            UsageError: A path does not exist, a column is not there, or no length is given.
            FileError: The text is broken, the sides have unlike numbers of lines, or a part has no pair.
        """
        length = self.seq_len or seq_len
        if length is None:
            raise UsageError(
                "the longest side must be known, but neither data.seq_len nor model.max_seq_len gives it. Set one."
            )
        return importlib.import_module(f"{__name__}.prepared").ParallelTextData(self, length, cache)


PART = ParallelTextConfig
