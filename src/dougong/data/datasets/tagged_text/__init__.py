"""Words with a tag each: names in a text, parts of speech; from files of columns, or tables with lists.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`,
how files of columns are read in `conll.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from dougong.core.config import Config, Fault
from dougong.core.errors import UsageError
from dougong.data.sources.hub import HubTableConfig
from dougong.data.split import HeldOutConfig
from dougong.data.vocabulary import TokenizerConfig, WordPieceConfig

_COMMENT = "# "
_OF_FILES = {"validation_paths": None, "columns": None, "comment": _COMMENT, "encoding": None}


class TaggedTextConfig(Config):
    """Sentences, cut into words, with a tag for each word."""

    name: Literal["tagged_text"] = "tagged_text"
    """Which dataset."""
    paths: Annotated[list[str], Field(min_length=1)] | None = None
    """Files, folders and globs: columns as in CoNLL, or .jsonl, .json, .parquet with a list of words and of tags."""
    hub: HubTableConfig | None = None
    """A data set of the hub, or a folder laid out like one; or give paths."""
    validation_paths: Annotated[list[str], Field(min_length=1)] | None = None
    """Such files to validate on; absent: a share of the others is kept apart."""
    validation: HeldOutConfig = HeldOutConfig()
    """Which sentences are kept apart, where none are named to validate on."""
    word: str | int | None = None
    """Column of the words, by name or number (the first is 0); absent: the first, in tables `tokens`."""
    tag: str | int | None = None
    """Column of the tags, by name or number (the last is -1); absent: the last, in tables `tags`."""
    columns: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the columns of CoNLL files; absent: those of CoNLL-U in .conllu, or of a line `# global.columns =`."""
    comment: str | None = _COMMENT
    """How a line before a sentence begins that is no word; null: every line is one."""
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    """The tags in the order of the numbers that tables may hold; absent: those of the training part, sorted."""
    tokenizer: TokenizerConfig = WordPieceConfig()
    """What words are cut into."""
    seq_len: PositiveInt | None = None
    """Longest example, in tokens; absent: the model's `max_seq_len`."""
    too_long: Literal["split", "cut", "refuse"] = "split"
    """What is done about longer sentences: several examples, whose tags are judged together; cut off; or refused."""
    encoding: str | None = None
    """Encoding of the text; absent: UTF-8, or UTF-16 or -32 where a byte order mark says so."""
    max_bad_samples: NonNegativeInt = 0
    """Bad sentences (a line without a tag, text that cannot be decoded) to leave aside before reading stops."""
    licence: str = "unknown"
    """Licence of the text, for the model card; unknown: what the card of a data set of the hub states."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        if (self.paths is None) == (self.hub is None):
            wrong = "is required, unless hub is given." if self.paths is None else "has no effect beside hub."
            yield Fault("paths", f"{wrong} Give one of the two.")
        for field, default in _OF_FILES.items() if self.hub is not None else ():
            if getattr(self, field) != default:
                yield Fault(field, "has no effect, as it is for files, and hub is given. Remove it.")
        if self.validates_on is not None and self.validation != HeldOutConfig():
            named = "validation_paths" if self.validation_paths else "hub.validation_split"
            yield Fault("validation", f"has no effect where {named} is given. Remove one of the two.")
        for number, label in enumerate(self.labels or ()):
            if label in (self.labels or ())[:number]:
                yield Fault(f"labels[{number}]", f"must be a tag of its own, but {label!r} is given twice.")
        for field in ("word", "tag"):
            name = getattr(self, field)
            if self.columns is not None and isinstance(name, str) and name not in self.columns:
                yield Fault(field, f"must be one of columns, which are {', '.join(self.columns)}, but is {name}.")
        files = [*(self.paths or ()), *(self.validation_paths or ())]
        if files and all(is_table(Path(path)) for path in files):
            for field in ("columns", "comment"):
                if getattr(self, field) != _OF_FILES[field]:
                    yield Fault(field, "has no effect, as all paths are tables, whose columns have names. Remove it.")

    @property
    def validates_on(self) -> list[str] | str | None:
        """What is named to validate on, files or a split of the hub; None: a share is kept apart."""
        return self.validation_paths if self.hub is None else self.hub.validation_split

    def foreseen(self) -> dict[str, int]:
        """Returns what of the model the data decides and is known before it is read."""
        size = getattr(self.tokenizer, "vocab_size", None)
        known = {} if self.labels is None else {"num_classes": len(self.labels)}
        return {**known, **({} if size is None else {"vocab_size": size})}

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads, splits and tokenizes the sentences.

        Args:
            cache: Where bad sentences left aside are written down; absent: $DOUGONG_CACHE or `~/.cache/dougong`.
                All of the text is read again each time, which takes seconds.
            seq_len: The longest example where the config names none.

        Raises:
            UsageError: A path does not exist, or no length is given.
            MissingExtra: The library `datasets` is absent, and `hub` is given.
            FileError: A sentence is bad or too long, a part has none, or a tag is only in what is kept apart.
        """
        length = self.seq_len or seq_len
        if length is None:
            raise UsageError(
                "the longest example must be known, but neither data.seq_len nor model.max_seq_len gives it. Set one."
            )
        return importlib.import_module(f"{__name__}.prepared").TaggedTextData(self, length, cache)


def is_table(path: Path) -> bool:
    """Tells whether a file is a table with lists, by its name."""
    return path.name.lower().removesuffix(".gz").removesuffix(".zst").endswith((".jsonl", ".json", ".parquet"))


PART = TaggedTextConfig
