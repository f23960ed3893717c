"""Translation: write a text in another language.

Here is the config, which needs no torch; the objective is in `objective.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dougong.core.config import Config, Fault


class TranslationConfig(Config):
    """Write the translation of a text, token by token."""

    about: ClassVar[str] = "texts"
    name: Literal["translation"] = "translation"
    """The objective."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of each target's probability that is spread over the vocabulary (Szegedy et al. 2016)."""
    num_beams: PositiveInt = 4
    """How many open translations the search keeps; 1 takes the likeliest token each time."""
    length_penalty: Annotated[float, Field(ge=0.0)] = 1.0
    """Exponent of the length by which a translation's log-probability is divided; above 0 favours long ones."""
    length_norm: Literal["power", "gnmt"] = "power"
    """What that exponent is applied to: the length, or `(5 + length) / 6` (Wu et al. 2016)."""
    coverage_penalty: NonNegativeFloat = 0.0
    """How much it costs to leave words of the source without attention (beta of Wu et al. 2016, eq. 14)."""
    max_ratio: PositiveFloat = 2.0
    """A translation has at most this many tokens for each of its source, and `max_extra` more."""
    max_extra: NonNegativeInt = 16
    """Tokens that a translation may have beyond `max_ratio`."""
    bleu_tokenizer: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """How BLEU cuts words (sacrebleu's names): `zh` for Chinese, `char` for scripts without spaces."""
    lowercase: bool = False
    """Whether BLEU takes no notice of upper and lower case."""

    def faults(self) -> Iterator[Fault]:
        """Yields what has no effect without beams."""
        if self.num_beams > 1:
            if self.length_norm == "gnmt" and not self.length_penalty:
                yield Fault("length_norm", "has no effect with length_penalty 0. Leave it out.")
            return
        for name in ("length_penalty", "length_norm", "coverage_penalty"):
            if getattr(self, name) != type(self).model_fields[name].default:
                yield Fault(name, "has no effect with num_beams 1. Raise num_beams, or leave it out.")

    def build(self, model: Any, data: Any = None) -> Any:
        """Returns the task.

        Args:
            model: The model's config: gives `max_seq_len`, `vocab_size` and `start_id`.
            data: The prepared data: gives `tokenizer` and `target_tokenizer`; None on the meta device.

        Raises:
            UsageError: The model or the data is not one of pairs of texts.
        """
        return importlib.import_module(f"{__name__}.objective").Translation(self, model, data)


PART = TranslationConfig
