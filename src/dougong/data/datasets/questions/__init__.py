"""Questions about texts, whose answers are parts of these: SQuAD's JSON, or tables with a question in each row.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`,
how files are read in `squad.py`.
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

_OF_FILES = {"validation_paths": None}


class QuestionsConfig(Config):
    """Questions, each with a text and where in it the answer stands, or that there is none."""

    name: Literal["questions"] = "questions"
    """Which dataset."""
    paths: Annotated[list[str], Field(min_length=1)] | None = None
    """Files, folders and globs: .json as SQuAD 1.1 and 2.0 have it, or .jsonl and .parquet with a question a row."""
    hub: HubTableConfig | None = None
    """A data set of the hub, or a folder laid out like one; or give paths."""
    validation_paths: Annotated[list[str], Field(min_length=1)] | None = None
    """Such files to validate on; absent: a share of the others is kept apart."""
    validation: HeldOutConfig = HeldOutConfig()
    """Which texts are kept apart, with all their questions, where none are named to validate on."""
    tokenizer: TokenizerConfig = WordPieceConfig()
    """What text is cut into; must have the tokens `[CLS]` and `[SEP]`."""
    seq_len: PositiveInt | None = None
    """Longest example, question and text together, in tokens; absent: the model's `max_seq_len`."""
    stride: PositiveInt = 128
    """How far the windows over a text that is too long are apart, in tokens; at most as far as nothing is skipped."""
    max_question_len: PositiveInt = 64
    """Longest question, in tokens; the rest of it is cut off."""
    max_bad_samples: NonNegativeInt = 0
    """Bad questions (an answer that does not stand where it is said to) to leave aside before reading stops."""
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
        if self.seq_len is not None and self.max_question_len > self.seq_len - 4:
            text = f"must leave room for text within seq_len, but {self.max_question_len} > {self.seq_len} - 4."
            yield Fault("max_question_len", f"{text} Lower it.")

    @property
    def validates_on(self) -> list[str] | str | None:
        """What is named to validate on, files or a split of the hub; None: a share is kept apart."""
        return self.validation_paths if self.hub is None else self.hub.validation_split

    def foreseen(self) -> dict[str, int]:
        """Returns what of the model the data decides and is known before it is read."""
        size = getattr(self.tokenizer, "vocab_size", None)
        return {} if size is None else {"vocab_size": size}

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads, splits and tokenizes the questions and their texts.

        Args:
            cache: Where bad questions left aside are written down; absent: $DOUGONG_CACHE or `~/.cache/dougong`.
                All of the text is read again each time, which takes some 20 s for SQuAD.
            seq_len: The longest example where the config names none.

        Raises:
            UsageError: A path does not exist, no length is given or it is too short, or the tokenizer has no frame.
            MissingExtra: The library `datasets` is absent, and `hub` is given.
            FileError: A question is bad, or a part has none.
        """
        length = self.seq_len or seq_len
        if length is None:
            raise UsageError(
                "the longest example must be known, but neither data.seq_len nor model.max_seq_len gives it. Set one."
            )
        return importlib.import_module(f"{__name__}.prepared").QuestionsData(self, length, cache)


PART = QuestionsConfig
