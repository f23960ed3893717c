"""Being asked to stop: by Ctrl-C, by a scheduler, by the machine going away.

Knows signals and a clock; does not know what is done about them, nor what is saved.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
_ENDED = 128 + signal.SIGTERM


class Interruption:
    """While in this context, the first signal is noted in `asked`, and the second ends the process at once.

    For the second, the system's own handlers are put in place: they work even where Python is deep in a library. The
    handlers of before are put back at the end. Outside the main thread, where Python allows no handlers, it notes
    nothing.

    Args:
        grace: Seconds from the first signal to the end of this context; after these the process is ended, code 143.

    Attributes:
        asked: The name of the signal that came, or None.
    """

    def __init__(self, grace: float = 30.0) -> None:
        self.asked: str | None = None
        self.grace = grace
        self._before: dict[int, Any] = {}
        self._came, self._over = threading.Event(), threading.Event()
        # Made here and not when the signal comes: a handler may run where a thread is just being started.
        self._clock = threading.Thread(target=self._watch, name="dougong-grace", daemon=True)

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                self._before[number] = signal.signal(number, self._note)
            self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            self._over.set()
            self._came.set()
            self._clock.join()
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if self.asked is not None:  # both came before Python looked
            os.kill(os.getpid(), number)
        self.asked = signal.Signals(number).name
        self._came.set()

    def _watch(self) -> None:
        self._came.wait()
        if not self._over.wait(self.grace):
            self._end()

    def _end(self) -> None:
        text = (
            f"dougong: error[E-GRACE]: the step and its save must be done {self.grace:g} s after {self.asked} "
            "(train.grace), but are not. The run ends without them; the last checkpoint, if there is one, is whole: "
            "go on from it with --resume, and allow more time.\n"
        )
        # Not by way of `log` or an exception: whatever holds the run up might hold these up too.
        os.write(2, text.encode())
        os._exit(_ENDED)
