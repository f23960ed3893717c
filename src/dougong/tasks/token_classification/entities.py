"""Entities that tags mark (`B-PER I-PER O`), and how many of them are found: the count of the CoNLL shared tasks.

Counts as their program conlleval does (Tjong Kim Sang and De Meulder 2003): an entity is found if its type, its first
and its last word are right. Reads the schemes IOB1, IOB2 (BIO), IOBES and BILOU, and what breaks them, as that program
does: an entity begins where a type changes, even at an `I-`. Knows tags; does not know words or models.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_FORM = re.compile("O|[BIESLU](-.*)?")
_SAME = {"L": "E", "U": "S"}  # BILOU's letters for IOBES's


class Entity(NamedTuple):
    """One entity.

    Attributes:
        type: What follows `B-`; empty where the tag is `B` alone.
        first: Its first word.
        last: Its last word.
    """

    type: str
    first: int
    last: int


def mark_entities(labels: Sequence[str]) -> bool:
    """Tells whether tags mark entities: each is `O` or begins with a letter of the schemes, and not all are `O`."""
    return all(_FORM.fullmatch(label) for label in labels) and any(label != "O" for label in labels)


def entities(tags: Sequence[str]) -> list[Entity]:
    """Returns the entities of a sentence, in order."""
    found: list[Entity] = []
    before, kind_before, first = "O", "", 0
    for place, tag in enumerate([*tags, "O"]):
        letter, _, kind = tag.partition("-")
        letter = _SAME.get(letter, letter)
        if _ends(before, kind_before, letter, kind):
            found.append(Entity(kind_before, first, place - 1))
        if _begins(before, kind_before, letter, kind):
            first = place
        before, kind_before = letter, kind
    return found


def _ends(before: str, kind_before: str, letter: str, kind: str) -> bool:
    """Tells whether an entity ends between two tags."""
    if before == "O":
        return False
    return before in "ES" or letter in "BSO" or kind != kind_before


def _begins(before: str, kind_before: str, letter: str, kind: str) -> bool:
    """Tells whether an entity begins at the second of two tags."""
    if letter == "O":
        return False
    return letter in "BS" or before in "ESO" or kind != kind_before


class EntityCounts:
    """How many entities of each type there are, are found, and are found rightly."""

    def __init__(self) -> None:
        self.there, self.found, self.right = Counter[str](), Counter[str](), Counter[str]()

    def add(self, tags: Sequence[str], predicted: Sequence[str]) -> None:
        """Adds a sentence: its tags, and those that were predicted."""
        there, found = set(entities(tags)), set(entities(predicted))
        for counter, some in ((self.there, there), (self.found, found), (self.right, there & found)):
            counter.update(entity.type for entity in some)

    def figures(self) -> dict[str, float]:
        """Returns precision, recall and F1 over all types together; not numbers where nothing was there nor found."""
        return _figures(self.right.total(), self.found.total(), self.there.total())

    def by_type(self) -> dict[str, dict[str, float | int]]:
        """Returns the same of each type, with how many entities there are and were found."""
        return {
            kind: {
                "entities": self.there[kind],
                "found": self.found[kind],
                **_figures(self.right[kind], self.found[kind], self.there[kind]),
            }
            for kind in sorted(self.there | self.found)
        }


def _figures(right: int, found: int, there: int) -> dict[str, float]:
    """Returns precision, recall and F1; 0 where a share is of nothing, but something was there or found."""
    if not found + there:
        return dict.fromkeys(("precision", "recall", "f1"), math.nan)
    return {
        "precision": right / found if found else 0.0,
        "recall": right / there if there else 0.0,
        "f1": 2 * right / (found + there),
    }
