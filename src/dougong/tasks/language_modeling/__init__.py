"""Language modeling: predict each next token of a text.

Here is the config, which needs no torch; the objective is in `objective.py`.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat

from dougong.core.config import Config
from dougong.core.errors import UsageError


class LanguageModelingConfig(Config):
    """Predict each next token of a text."""

    name: Literal["language_modeling"] = "language_modeling"
    """The objective."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of each target's probability that is spread over the vocabulary (Szegedy et al. 2016)."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared logarithm of the softmax's normaliser (PaLM uses 1e-4)."""

    def build(self, model: Any, data: Any = None) -> Any:
        """Returns the task.

        Args:
            model: The model's config: gives `max_seq_len` and `vocab_size`.
            data: The prepared data: gives `tokenizer` (with `decode` and `token_bytes`); None on the meta device,
                where there is no text.

        Raises:
            UsageError: The model does not write text, or the data is something else.
        """
        from dougong.data.examples import TokenRow
        from dougong.tasks._fit import require_examples

        if getattr(model, "answers_as", None) is not None:
            raise UsageError(
                f"the model must be one that writes text for the task {self.name}, but this {model.name} is one for "
                f"{model.answers_as}. Set task.name to that, or choose another head or model."
            )
        require_examples(data, self.name, TokenRow)
        return _objective().LanguageModeling(
            self, model.max_seq_len, model.vocab_size, getattr(data, "tokenizer", None)
        )


PART = LanguageModelingConfig


def _objective() -> Any:
    """Imports the objective. By a computed name, as it imports this module in turn."""
    return importlib.import_module(f"{__name__}.objective")


def __getattr__(name: str) -> Any:
    if name not in ("LanguageModeling", "LanguageMetrics"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_objective(), name)
