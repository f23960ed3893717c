"""Texts to classify from columns by name: of tables, of lines of JSON, of Parquet, or of a data set of the hub.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from dougong.core.config import Config, Fault, did_you_mean
from dougong.core.errors import UsageError
from dougong.data.sources.hub import HubTableConfig
from dougong.data.split import HeldOutConfig
from dougong.data.vocabulary import TokenizerConfig, WordsConfig

_OF_FILES: dict[str, Any] = {"validation_paths": None, "columns": None, "encoding": None}


class TextTableConfig(Config):
    """Rows with a text, or two, and its class, as columns."""

    name: Literal["text_table"] = "text_table"
    """Which dataset."""
    paths: Annotated[list[str], Field(min_length=1)] | None = None
    """Files, folders and globs (.tsv, .csv, .jsonl, .json, .parquet), relative to the working folder; or give hub."""
    hub: HubTableConfig | None = None
    """A data set of the hub, or a folder laid out like one; or give paths."""
    text: str = "text"
    """The column of the text."""
    pair: str | None = None
    """The column of a second text that is read together with the first; absent: there is none."""
    label: str = "label"
    """The column of the class: text, or in JSON and Parquet a whole number or a truth value."""
    labels: Annotated[list[str], Field(min_length=2)] | None = None
    """The classes in the order of their numbers; absent: those of the training part, sorted."""
    columns: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the columns, for tables whose first line is not a header."""
    validation_paths: Annotated[list[str], Field(min_length=1)] | None = None
    """Such files to validate on; absent: a share of the others is kept apart."""
    validation: HeldOutConfig = HeldOutConfig()
    """Which rows are kept apart, by a hash of the (first) text, where none are named to validate on."""
    tokenizer: TokenizerConfig = WordsConfig()
    """What text is cut into."""
    seq_len: PositiveInt | None = None
    """Longest example, in tokens; absent: the model's `max_seq_len`."""
    too_long: Literal["cut", "split", "refuse"] = "cut"
    """What is done about longer texts: cut off (of a pair, the longer), split into several examples, or refused."""
    encoding: str | None = None
    """Encoding of the text; absent: UTF-8, or UTF-16 or -32 where a byte order mark says so."""
    max_bad_samples: NonNegativeInt = 0
    """Bad rows (of too few fields, without a class) to leave aside before reading stops."""
    licence: str = "unknown"
    """Licence of the text, for the model card; unknown: what the card of a data set of the hub states."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        if (self.paths is None) == (self.hub is None):
            wrong = "is required, unless hub is given." if self.paths is None else "has no effect beside hub."
            yield Fault("paths", f"{wrong} Give one of the two.")
        for name, default in _OF_FILES.items() if self.hub is not None else ():
            if getattr(self, name) != default:
                yield Fault(name, "has no effect, as it is for files, and hub is given. Remove it.")
        named = "validation_paths" if self.validation_paths else "hub.validation_split"
        if (self.validation_paths or (self.hub and self.hub.validation_split)) and self.validation != HeldOutConfig():
            yield Fault("validation", f"has no effect where {named} is given. Remove one of the two.")
        if self.pair is not None and self.too_long == "split":
            yield Fault("too_long", "must be cut or refuse where there is a pair, but is split. Choose one.")
        yield from self._column_faults()
        for number, label in enumerate(self.labels or ()):
            if label in (self.labels or ())[:number]:
                yield Fault(f"labels[{number}]", f"must be a class of its own, but {label!r} is given twice.")

    def _column_faults(self) -> Iterator[Fault]:
        chosen = {"text": self.text, "pair": self.pair, "label": self.label}
        seen: list[str | None] = [None]
        for field, column in chosen.items():
            if column in seen[1:]:
                yield Fault(field, f"must be a column of its own, but {column!r} is given twice.")
            elif column is not None and self.columns is not None and column not in self.columns:
                near = did_you_mean(column, self.columns)
                yield Fault(field, f"must be one of columns, but {column!r} is not.{near}")
            seen.append(column)
        for number, column in enumerate(self.columns or ()):
            if column in (self.columns or ())[:number]:
                yield Fault(f"columns[{number}]", f"must be a name of its own, but {column!r} is given twice.")

    def foreseen(self) -> dict[str, int]:
        """Returns what of the model the data decides and is known before it is read."""
        size = getattr(self.tokenizer, "vocab_size", None)
        known = {} if self.labels is None else {"num_classes": len(self.labels)}
        return {**known, **({} if size is None else {"vocab_size": size})}

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads, splits and tokenizes the text.

        Args:
            cache: Where bad rows that are left aside are written down; absent: $DOUGONG_CACHE, or `~/.cache/dougong`.
                All of the text is read again each time, which takes seconds.
            seq_len: The longest example where the config names none.

        Raises:
            UsageError: A path does not exist, or no length is given.
            FileError: The text is broken, a column is not there, or a part has no example or an unknown class.
            MissingExtra: The library `datasets` is absent, and `hub` is given.
        """
        length = self.seq_len or seq_len
        if length is None:
            raise UsageError(
                "the longest example must be known, but neither data.seq_len nor model.max_seq_len gives it. Set one."
            )
        return importlib.import_module(f"{__name__}.prepared").TextTableData(self, length, cache)


PART = TextTableConfig
