"""Being asked to stop: by Ctrl-C, by a scheduler, by the machine going away.

Knows signals; does not know what is done about them.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")


class Interruption:
    """While in this context, the first signal is noted in `asked`, and the second ends the process at once.

    The handlers of before are put back at the end. Outside the main thread, where Python allows no handlers, it notes
    nothing.

    Attributes:
        asked: The name of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = signal.Signals(number).name
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
