"""Text for encoders that read from both sides: documents cut into pieces, or into pairs that may follow each other.

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
from dougong.data.vocabulary import TokenizerConfig, WordPieceConfig


class EncoderTextConfig(Config):
    """Text from any sources, whose documents are cut into pieces that an encoder reads one at a time."""

    name: Literal["encoder_text"] = "encoder_text"
    """Which dataset."""
    sources: Annotated[list[Annotated[SourceConfig, Part("data.sources")]], Field(min_length=1)] = Field(
        default_factory=lambda: [find_part("data.sources", "python_library").PART()]
    )
    """Where the text comes from."""
    tokenizer: TokenizerConfig = WordPieceConfig()
    """What text is cut into."""
    seq_len: PositiveInt | None = None
    """Longest example, in tokens, `[CLS]` and `[SEP]` included; absent: the model's `max_seq_len`."""
    pairs: bool = False
    """Whether a piece is cut in two, and the second half of every other one comes from another document."""
    validation: ValidationConfig = ValidationConfig()
    """Which part of the text is kept apart to validate on."""

    def faults(self) -> Iterator[Fault]:
        """Yields the fault of weights that some sources have and some lack."""
        weights = [source.weight for source in self.sources]
        if None in weights and any(weight is not None for weight in weights):
            yield Fault("sources", "must all have a weight or none, but only some have. Complete or remove them.")

    def foreseen(self) -> dict[str, int]:
        """Returns what of the model the data decides and is known before it is read."""
        size = getattr(self.tokenizer, "vocab_size", None)
        return {} if size is None else {"vocab_size": size}

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads, splits and tokenizes the text, or finds that done in the cache.

        Args:
            cache: The folder of what is made once; absent: $DOUGONG_CACHE, or `~/.cache/dougong`.
            seq_len: The longest example where the config names none.

        Raises:
            UsageError: A path does not exist, or the length is not given or too short.
            FileError: The text is broken, or has no piece that is long enough.
        """
        length = self.seq_len or seq_len
        if length is None:
            raise UsageError(
                "the longest example must be known, but neither data.seq_len nor model.max_seq_len gives it. Set one."
            )
        return importlib.import_module(f"{__name__}.prepared").prepared(self, cache, length)


PART = EncoderTextConfig
