"""Text with a label: sentences to classify, in one file or more for each class, a line an example.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from dougong.core.config import Config, Fault
from dougong.core.errors import UsageError
from dougong.data.split import HeldOutConfig
from dougong.data.vocabulary import TokenizerConfig, WordsConfig


class ClassConfig(Config):
    """The examples of one class."""

    label: str = Field(min_length=1)
    """The name of the class."""
    paths: Annotated[list[str], Field(min_length=1)]
    """Files, folders and globs whose every line is an example, relative to the working folder."""


class LabelledTextConfig(Config):
    """Lines of text, each with the class whose file it stands in."""

    name: Literal["labelled_text"] = "labelled_text"
    """Which dataset."""
    classes: Annotated[list[ClassConfig], Field(min_length=2)]
    """The classes, in the order of their numbers."""
    tokenizer: TokenizerConfig = WordsConfig()
    """What text is cut into."""
    seq_len: PositiveInt | None = None
    """Longest example, in tokens; absent: the model's `max_seq_len`."""
    too_long: Literal["cut", "split", "refuse"] = "cut"
    """What is done about longer lines: cut off, split into several examples of the class, or refused."""
    validation: HeldOutConfig = HeldOutConfig()
    """Which examples are kept apart to validate on."""
    encoding: str | None = None
    """Encoding of the text; absent: UTF-8, or UTF-16 or -32 where a byte order mark says so."""
    max_bad_samples: NonNegativeInt = 0
    """Bad lines (text that cannot be decoded) to leave aside before reading stops."""
    licence: str = "unknown"
    """Licence of the text, for the model card."""

    def faults(self) -> Iterator[Fault]:
        """Yields the faults of labels given twice."""
        labels = [each.label for each in self.classes]
        for number, label in enumerate(labels):
            if label in labels[:number]:
                yield Fault(f"classes[{number}].label", f"must be a name of its own, but {label!r} is given twice.")

    def foreseen(self) -> dict[str, int]:
        """Returns what of the model the data decides and is known before it is read."""
        size = getattr(self.tokenizer, "vocab_size", None)
        return {"num_classes": len(self.classes), **({} if size is None else {"vocab_size": size})}

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads, splits and tokenizes the text.

        Args:
            cache: Where bad lines that are left aside are written down; absent: $DOUGONG_CACHE, or `~/.cache/dougong`.
                All of the text is read again each time, which takes seconds.
            seq_len: The longest example where the config names none.

        Raises:
            UsageError: A path does not exist, or no length is given.
            FileError: The text is broken or too long, or a class has no example.
        """
        length = self.seq_len or seq_len
        if length is None:
            raise UsageError(
                "the longest example must be known, but neither data.seq_len nor model.max_seq_len gives it. Set one."
            )
        return _prepared().LabelledTextData(self, length, cache)


PART = LabelledTextConfig


def _prepared() -> Any:
    """Imports what makes the examples. By a computed name, as it imports this module in turn."""
    return importlib.import_module(f"{__name__}.prepared")
