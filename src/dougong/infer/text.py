"""Tokens to text, piece by piece, ending at stop strings.

Knows no model; what a token says is the tokenizer's matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Characters(Protocol):
    """Turns tokens into whole characters: `data.tokenizer.TextStream` and its like."""

    def push(self, token: int) -> str:
        """Returns the characters that this token completes, which may be none."""

    def end(self) -> str:
        """Returns what stands for a character that was never completed."""


class TextPieces:
    """The text of tokens as they come; the pieces together are the text, which ends before the first stop string.

    What may be the beginning of a stop string is held back until it is known not to be, so that no part of one is ever
    shown.

    Attributes:
        stopped: Whether a stop string appeared.
    """

    def __init__(self, characters: Characters, stop: Sequence[str] = ()):
        self._characters = characters
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Adds a token; returns the text that is certain now and was not before, often ""."""
        return "" if self.stopped else self._release(self._characters.push(token), last=False)

    def end(self) -> str:
        """Returns what was held back, once no more tokens come."""
        return "" if self.stopped else self._release(self._characters.end(), last=True)

    def _release(self, text: str, last: bool) -> str:
        self._held += text
        found = [place for place in map(self._held.find, self._stop) if place >= 0]
        self.stopped = bool(found)
        size = min(found) if found else len(self._held) - (0 if last else self._undecided())
        piece, self._held = self._held[:size], self._held[size:]
        return piece

    def _undecided(self) -> int:
        """Returns the length of the longest end of the held text that begins a stop string."""
        longest = max(map(len, self._stop), default=0)
        for size in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stop):
                return size
        return 0


def whole_text(pieces: TextPieces, tokens: Iterable[int]) -> str:
    """Returns the text of tokens that are all known, up to the first stop string."""
    return "".join([pieces.push(token) for token in tokens]) + pieces.end()
