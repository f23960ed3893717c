"""Token classification: name the tag of each word, such as its part of speech, or the entity that it belongs to.

Here is the config, which needs no torch; the objective is in `objective.py`, how entities are counted in `entities.py`.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Literal

from pydantic import Field

from dougong.core.config import Config


class TokenClassificationConfig(Config):
    """Name the tag of each word."""

    about: ClassVar[str] = "texts"
    name: Literal["token_classification"] = "token_classification"
    """The objective."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of each true tag's probability that is spread over all tags (Szegedy et al. 2016)."""

    def build(self, model: Any, data: Any = None) -> Any:
        """Returns the task.

        Args:
            model: The model's config: gives `max_seq_len`, `vocab_size` and `num_classes`.
            data: The prepared data: gives `labels`, the names of the tags; None on the meta device.

        Raises:
            UsageError: A number is given by neither, or the data has no tags.
        """
        return importlib.import_module(f"{__name__}.objective").TokenClassification(self, model, data)


PART = TokenClassificationConfig
