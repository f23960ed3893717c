"""Which text is for training and which for validation: a decision about text, made before any token exists.

Knows documents; does not know tokens or files.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from dougong.core.config import Config, Fault
from dougong.data.document import Document
from dougong.data.source import Source, Tally


class ValidationConfig(Config):
    """Which part of the text is kept apart to validate on."""

    by: Literal["document", "position"] = "document"
    """`document`: by a hash of each document's text; `position`: the end of each source, for one long text."""
    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of the documents, or of the characters, that is kept apart."""


class HeldOutConfig(Config):
    """Which of the examples are kept apart to validate on: by a hash of each, so that equal ones stay together."""

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the examples that is kept apart."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Which share: with `fraction: 0.1`, the folds 0 to 9 keep each example apart once (cross-validation)."""

    def faults(self) -> Iterator[Fault]:
        """Yields a fold beyond the last whole one."""
        folds = math.floor(1 / self.fraction + 1e-9)
        if self.fold >= folds:
            yield Fault("fold", f"must be less than {folds}, as fraction is {self.fraction:g}, but is {self.fold}.")

    def keeps(self, content: bytes) -> bool:
        """Tells whether an example of this content is kept apart."""
        digest = hashlib.blake2b(content, digest_size=8).digest()
        share = self.fraction * 2.0**64
        return self.fold * share <= int.from_bytes(digest, "big") < (self.fold + 1) * share


class Divided:
    """A source with each document marked: training or validation."""

    def __init__(self, source: Source, config: ValidationConfig):
        self.source, self.config = source, config

    def documents(self, tally: Tally) -> Iterator[tuple[bool, Document]]:
        """Yields (whether it is for validation, document), in the source's order."""
        documents = self.source.documents(tally)
        if self.config.by == "document":
            return by_document(documents, self.config.fraction)
        return by_position(documents, self._training_characters)

    def texts(self, everything: bool) -> Iterator[str]:
        """Yields the text of everything, or of the training part alone."""
        return (document.text for apart, document in self.documents(Tally()) if everything or not apart)

    @functools.cached_property
    def _training_characters(self) -> int:
        """Counts the characters of the source, which reads it once more."""
        whole = sum(len(document.text) for document in self.source.documents(Tally()))
        return int(whole * (1 - self.config.fraction))


def by_document(documents: Iterable[Document], fraction: float) -> Iterator[tuple[bool, Document]]:
    """Keeps a document apart if a hash of its text (of the first piece of a long one) falls below the fraction.

    So equal documents are on the same side, and adding a document moves no other.
    """
    apart = False
    for document in documents:
        if document.piece == 0:
            digest = hashlib.blake2b(document.text.encode(), digest_size=8).digest()
            apart = int.from_bytes(digest, "big") < fraction * 2.0**64
        yield apart, document


def by_position(documents: Iterable[Document], characters: int) -> Iterator[tuple[bool, Document]]:
    """Keeps all apart that follows after so many characters; the document at the cut becomes two."""
    left, first = characters, True
    for document in documents:
        head, tail = document.text[: max(0, left)], document.text[max(0, left) :]
        left -= len(head)
        if head:
            yield False, replace(document, text=head)
        if tail:
            yield True, replace(document, text=tail, piece=0 if first else document.piece)
            first = False
