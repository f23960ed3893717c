"""What a source yields. Knows text alone; does not know where it comes from or what is done with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One text, or one piece of a long one: a source cuts what is too long to hold, and yields the pieces in order.

    Attributes:
        text: The characters; they can be encoded as UTF-8 (no lone surrogates).
        name: Where it comes from, for messages: `notes.jsonl, line 3`.
        piece: 0 for a document's beginning, 1, 2, ... for what follows of the same document.
    """

    text: str
    name: str
    piece: int = 0
