"""Text for language models: sources, a tokenizer and a split become rows of tokens.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from dougong.core.config import Config, Fault, Part, find_part
from dougong.core.errors import UsageError
from dougong.data.source import SourceConfig
from dougong.data.split import ValidationConfig
from dougong.data.vocabulary import FIM, BpeConfig, TokenizerConfig


class FimConfig(Config):
    """Documents rearranged, so that the model learns to fill in the middle (Bavarian et al. 2022)."""

    rate: float = Field(0.5, gt=0.0, le=1.0)
    """How probable it is that a document's piece of a row is cut in three and its middle moved to the end."""
    spm_share: float = Field(0.5, ge=0.0, lt=1.0)
    """Of these, how many have suffix, prefix, middle; others prefix, suffix, middle, as infilling asks."""


class TextConfig(Config):
    """Text from any sources, cut into rows of equal length."""

    name: Literal["text"] = "text"
    """Which dataset."""
    sources: Annotated[list[Annotated[SourceConfig, Part("data.sources")]], Field(min_length=1)] = Field(
        default_factory=lambda: [find_part("data.sources", "python_library").PART()]
    )
    """Where the text comes from."""
    tokenizer: TokenizerConfig = BpeConfig()
    """What text is cut into."""
    seq_len: PositiveInt | None = None
    """Context, in tokens; absent: the model's `max_seq_len`."""
    across_documents: bool = True
    """Whether attention may cross from one document of a row into the next."""
    fim: FimConfig | None = None
    """Rearranges training rows for infilling; absent: they are as the text is. Validation rows always are."""
    validation: ValidationConfig = ValidationConfig()
    """Which part of the text is kept apart to validate on."""

    def faults(self) -> Iterator[Fault]:
        """Yields the faults of weights that some sources lack, and of a tokenizer that has no tokens for infilling."""
        weights = [source.weight for source in self.sources]
        if None in weights and any(weight is not None for weight in weights):
            yield Fault("sources", "must all have a weight or none, but only some have. Complete or remove them.")
        if self.fim is not None and self.tokenizer.name != "file":
            lacking = [token for token in FIM if token not in getattr(self.tokenizer, "special", ())]
            if lacking:
                yield Fault(
                    "fim",
                    f"needs the special tokens {', '.join(FIM)}, but the tokenizer {self.tokenizer.name} lacks "
                    f"{', '.join(lacking)}. Use bpe, and name them in tokenizer.special.",
                )

    def foreseen(self) -> dict[str, int]:
        """Returns what of the model the data decides and is known before it is read."""
        size = getattr(self.tokenizer, "vocab_size", None)
        return {} if size is None else {"vocab_size": size}

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads, splits and tokenizes the text, or finds that done in the cache.

        Args:
            cache: The folder of what is made once; absent: $DOUGONG_CACHE, or `~/.cache/dougong`.
            seq_len: The context where the config names none.

        Raises:
            UsageError: A path does not exist, or no context is given.
            FileError: The text is broken, or too short.
        """
        length = self.seq_len or seq_len
        if length is None:
            raise UsageError("the context must be known, but neither data.seq_len nor the model gives it. Set one.")
        return _prepared().prepared(self, cache, length)


PART = TextConfig


def _prepared() -> Any:
    """Imports what makes the rows. By a computed name, as it imports this module in turn."""
    return importlib.import_module(f"{__name__}.prepared")


def __getattr__(name: str) -> Any:
    if name != "TextData":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_prepared(), name)
