"""Masked language modeling: name the words of a text that are hidden, from what stands on both sides of them.

Here is the config, which needs no torch; the objective is in `objective.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from dougong.core.config import Config, Fault


class MaskedLMConfig(Config):
    """Name hidden words (Devlin et al. 2019, section 3.1); with the model's head `pretraining`, also what follows."""

    about: ClassVar[str] = "texts"
    name: Literal["masked_lm"] = "masked_lm"
    """The objective."""
    share: float = Field(0.15, gt=0.0, le=1.0)
    """Share of a text's words that are to be named; at least one of each text."""
    masked: float = Field(0.8, ge=0.0, le=1.0)
    """Share of these that the model sees as `[MASK]`."""
    random: float = Field(0.1, ge=0.0, le=1.0)
    """Share of these that it sees as some other word, drawn at random; the rest it sees as they are."""
    whole_words: bool = False
    """Whether a word of several tokens is hidden as a whole or not at all."""

    def faults(self) -> Iterator[Fault]:
        """Yields shares that are together more than all, or nothing."""
        if self.masked + self.random > 1.0 + 1e-9:
            both = f"{self.masked:g} + {self.random:g}"
            yield Fault("random", f"must be at most 1 together with masked, but {both} is more. Lower one.")
        if self.masked + self.random == 0.0:
            yield Fault("masked", "must be above 0 where random is 0, or no word is hidden. Raise it.")

    def build(self, model: Any, data: Any = None) -> Any:
        """Returns the task.

        Args:
            model: The model's config: gives `head`, `max_seq_len` and `vocab_size`.
            data: The prepared data: gives `tokenizer`; None on the meta device, where token 0 stands for `[MASK]`.

        Raises:
            UsageError: The model, or the data, is for something else.
        """
        return importlib.import_module(f"{__name__}.objective").MaskedLM(self, model, data)


PART = MaskedLMConfig
