"""How good answers are: SQuAD's exact match and F1 (Rajpurkar et al. 2016, section 6.1; 2018 for "no answer").

Knows texts; does not know tokens or models.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dougong.nn.metrics import Mean

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)
ANSWERABLE, UNANSWERABLE = "answerable", "unanswerable"


def normalised(answer: str) -> str:
    """Returns an answer in small letters, without ASCII punctuation and articles, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_MARKS)).split())


def exact(answer: str, right: str) -> float:
    """Returns 1 where two answers are equal once normalised, else 0."""
    return float(normalised(answer) == normalised(right))


def f1(answer: str, right: str) -> float:
    """Returns the F1 of the words that two answers share; where one has no word, 1 if neither has."""
    said, there = normalised(answer).split(), normalised(right).split()
    if not said or not there:
        return float(said == there)
    shared = (Counter(said) & Counter(there)).total()
    return 2 * shared / (len(said) + len(there))


class AnswerFigures:
    """Exact match and F1 over questions; of several right answers the one that is nearest counts."""

    def __init__(self) -> None:
        self._means = {(kind, name): Mean() for kind in (ANSWERABLE, UNANSWERABLE) for name in ("exact_match", "f1")}

    def add(self, answer: str, right: Sequence[str]) -> None:
        """Adds a question.

        Args:
            answer: What was said; empty where it was that there is no answer.
            right: What is held for right; nothing where there is no answer.
        """
        wanted = [each for each in right if normalised(each)] or [""]
        kind = ANSWERABLE if wanted != [""] else UNANSWERABLE
        self._means[kind, "exact_match"].add(max(exact(answer, each) for each in wanted), 1.0)
        self._means[kind, "f1"].add(max(f1(answer, each) for each in wanted), 1.0)

    def figures(self) -> dict[str, float]:
        """Returns the figures over all questions; none where there was no question."""
        found = {}
        for name in ("exact_match", "f1"):
            whole = Mean()
            for kind in (ANSWERABLE, UNANSWERABLE):
                whole.add(self._means[kind, name].sum, self._means[kind, name].weight)
            if whole.weight:
                found[name] = whole.value
        return found

    def by_kind(self) -> dict[str, dict[str, Any]]:
        """Returns the figures of the questions that have an answer, and of those that have none."""
        return {
            kind: {
                "questions": int(self._means[kind, "f1"].weight),
                **{name: self._means[kind, name].value for name in ("exact_match", "f1")},
            }
            for kind in (ANSWERABLE, UNANSWERABLE)
            if self._means[kind, "f1"].weight
        }
