"""Words for the terminal: progress and warnings go to standard error, results to standard output.

Knows no colours and no progress bars; the command line replaces `say` where the terminal can do more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

_listeners: list[Callable[[str], None]] = []


def say(text: str) -> None:
    """Tells the person what is happening, in one line on standard error (or to the listener of the moment)."""
    if _listeners:
        _listeners[-1](text)
    else:
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Tells the person of something that is wrong but survivable."""
    say(f"dougong: warning: {text}")


class listening:
    """While in this context, `say` calls `listener` instead of printing."""

    def __init__(self, listener: Callable[[str], None]):
        self.listener = listener

    def __enter__(self) -> None:
        _listeners.append(self.listener)

    def __exit__(self, *_: object) -> None:
        _listeners.remove(self.listener)
