"""Question answering: find in a text the words that answer a question, or say that none do.

Here is the config, which needs no torch; the objective is in `objective.py`, how answers are judged in `figures.py`.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Literal

from pydantic import PositiveInt

from dougong.core.config import Config


class QuestionAnsweringConfig(Config):
    """Find in a text the words that answer a question, or say that none do."""

    about: ClassVar[str] = "texts"
    name: Literal["question_answering"] = "question_answering"
    """The objective."""
    max_answer_len: PositiveInt = 30
    """Longest answer that is given, in tokens."""
    no_answer_threshold: float | None = 0.0
    """By how many nats "none" must be likelier than the best answer to be the answer; null: none is never said."""

    def build(self, model: Any, data: Any = None) -> Any:
        """Returns the task.

        Args:
            model: The model's config: gives `max_seq_len` and `vocab_size`.
            data: The prepared data: gives `questions`, with the right answers; None on the meta device.

        Raises:
            UsageError: A number is not given, or the data has no questions.
        """
        return importlib.import_module(f"{__name__}.objective").QuestionAnswering(self, model, data)


PART = QuestionAnsweringConfig
