"""One program before its tests: both run in isolation, apart from each other; the verdict is decided here.

Knows the two processes and carries what they say (`within.py` says what that is). It carries bytes and never opens
what the program answers. A program passes when the tests' process says so with the nonce that it alone was told, while
the program still answers, within its limits. Whatever else happens is no pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dougong.core.errors import FileError
from dougong.core.isolation import WALLS, Confined, Limits, bare_python, confined
from dougong.run.problems import Problem

VERDICTS = ("passed", "failed", "error", "timeout", "memory", "output", "forged")
"""What a program can come to: all but the first score nothing."""
_WITHIN = Path(__file__).with_name("within.py")
_PIECE = 1 << 16
_ANSWER_BYTES = 1 << 22  # of one line, either way


@dataclass(frozen=True)
class Verdict:
    """What a program came to.

    Attributes:
        kind: One of `VERDICTS`: `failed` is a test that did not hold, `error` an exception or an early end, `forged`
            an answer to a question that was not asked.
        reason: Why, for a person; it may hold words of the program.
        seconds: How long it took, from when the walls stood.
    """

    kind: str
    reason: str = ""
    seconds: float = dataclasses.field(default=0.0, compare=False)


def allowance(seconds: float | int = 10.0, memory_bytes: int = 1 << 29) -> Limits:
    """Returns what a program may use: no other process, 16 MB of files in memory, 1 MiB of output."""
    return Limits(
        seconds=seconds,
        cpu_seconds=math.ceil(seconds) + 1,
        file_bytes=1 << 24,
        open_files=64,
        processes=32,
        output_bytes=1 << 20,
        memory=memory_bytes,
        folder_bytes=1 << 24,
        children=False,
    )


class Examiner:
    """Examines programs, one at a time; the process of the tests is kept for the next, that of a program never is.

    To be used in a `with`, in one thread.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self._tests = contextlib.ExitStack()
        self._asking: Confined | None = None

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def examine(self, problem: Problem, program: str) -> Verdict:
        """Returns what a program comes to before the tests of its problem; the same each time, but for the clock.

        Raises:
            IsolationError: A wall cannot be had here; nothing was run.
            FileError: The suite's own code is no Python.
        """
        nonce = secrets.token_hex(16)
        with _room("program", self.limits) as answering:
            asking = self._open()
            answering.await_walls()
            talk = _Talk(answering, asking, nonce, self.limits)
            talk.tell("program", {"program": program, "seed": problem.task_id})
            given = {"setup": problem.setup, "tests": problem.tests, "names": problem.names}
            talk.tell("tests", {"nonce": nonce, "seed": problem.task_id, **given})
            begin = time.monotonic()
            verdict, clean = talk.verdict()
            seconds = time.monotonic() - begin
        if not clean:
            self._close()
        if verdict.kind == "suite":
            raise FileError(f"{problem.task_id}: the suite's tests must be Python, but are not: {verdict.reason}.")
        reason = "".join(letter if letter.isprintable() else " " for letter in verdict.reason)[:300]
        return Verdict(verdict.kind, reason, seconds)

    def _open(self) -> Confined:
        """Returns the process of the tests, which is watched by the clock alone, as it serves many programs."""
        if self._asking is None:
            limits = dataclasses.replace(self.limits, cpu_seconds=1 << 30)
            self._asking = self._tests.enter_context(_room("tests", limits))
            self._asking.await_walls()
        return self._asking

    def _close(self) -> None:
        self._tests.close()
        self._asking = None


def require_walls() -> None:
    """Sees that a program could be examined here.

    Raises:
        IsolationError: It could not.
    """
    with _room("program", allowance()) as room:
        room.await_walls()


@contextlib.contextmanager
def _room(part: str, limits: Limits) -> Iterator[Confined]:
    command, readable, environment = bare_python(_WITHIN, part)
    with confined(
        command, readable=readable, limits=limits, environment=environment, needs=WALLS, stdin=subprocess.PIPE
    ) as room:
        yield room


class _Talk:
    """What goes to and fro until there is a verdict; nothing here ever waits for one side alone."""

    def __init__(self, answering: Confined, asking: Confined, nonce: str, limits: Limits):
        self._program, self._nonce, self._limits = answering, nonce.encode(), limits
        self._deadline = time.monotonic() + limits.seconds
        self._heard = {"program": bytearray(), "tests": bytearray()}
        self._unsent = {"program": b"", "tests": b""}
        self._printed, self._answered = 0, 0
        self._asked = self._done = False
        self._waiting = selectors.DefaultSelector()
        self._into = {}
        for name, room in (("program", answering), ("tests", asking)):
            process = room.process
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            self._into[name] = process.stdin.fileno()
            os.set_blocking(process.stdin.fileno(), False)
            self._waiting.register(process.stdout, selectors.EVENT_READ, name)
            self._waiting.register(process.stderr, selectors.EVENT_READ, f"prints of {name}")

    def tell(self, name: str, message: object) -> None:
        """Sends one of the two its first message."""
        self._send(name, json.dumps(message).encode() + b"\n")

    def verdict(self) -> tuple[Verdict, bool]:
        """Carries what is said until there is a verdict; returns it, and whether the tests came to their end."""
        with self._waiting:
            while True:
                left = self._deadline - time.monotonic()
                ready = self._waiting.select(left) if left > 0 else []
                if not ready:
                    return Verdict("timeout", f"it took more than {self._limits.seconds:g} seconds"), False
                # What the program did is looked at before what the tests say of it.
                for key, _ in sorted(ready, key=lambda each: each[0].data):
                    found = self._happened(key.fd, key.data)
                    if found is not None:
                        return found, self._done and found.kind not in ("forged", "memory")

    def _happened(self, descriptor: int, name: str) -> Verdict | None:
        if name.startswith("into "):
            return self._flush(name.removeprefix("into "))
        piece = os.read(descriptor, _PIECE)
        if name.startswith("prints of "):
            return self._prints(descriptor, name.removeprefix("prints of "), piece)
        if not piece:
            return self._ended(name)
        self._heard[name] += piece
        if len(self._heard[name]) > _ANSWER_BYTES:
            return Verdict("output", f"an answer had more than {_ANSWER_BYTES:,} bytes")
        return self._answers() if name == "program" else self._questions()

    def _prints(self, descriptor: int, name: str, piece: bytes) -> Verdict | None:
        if not piece:
            self._waiting.unregister(descriptor)
        self._printed += len(piece) if name == "program" else 0
        most = self._limits.output_bytes
        return Verdict("output", f"it printed more than {most:,} bytes") if self._printed > most else None

    def _answers(self) -> Verdict | None:
        heard = self._heard["program"]
        end = heard.find(b"\n", max(0, len(heard) - _PIECE))
        if not self._asked or 0 <= end < len(heard) - 1:
            return Verdict("forged", "it answered what was not asked")
        if end < 0:
            return None
        line, self._asked = bytes(heard), False
        heard.clear()
        self._answered += 1
        return self._send("tests", line)

    def _questions(self) -> Verdict | None:
        heard = self._heard["tests"]
        if not heard.endswith(b"\n"):  # it says one line at a time
            return None
        line = bytes(heard)
        heard.clear()
        if line.startswith(self._nonce):
            self._done = True
            kind, reason = json.loads(line[len(self._nonce) :])
            if kind == "passed" and not self._answered:
                return Verdict("error", "the tests asked nothing")
            return Verdict(kind, reason)
        self._asked = True
        return self._send("program", line)

    def _ended(self, name: str) -> Verdict:
        if name == "tests":
            return Verdict("error", "the tests ended without a verdict")
        code = self._program.await_end()
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return Verdict("timeout", f"it computed for more than {self._limits.cpu_seconds} seconds")
        return Verdict("error", "the program closed its answers" if code is None else f"the program ended with {code}")

    def _send(self, name: str, message: bytes) -> Verdict | None:
        self._unsent[name] += message
        return self._flush(name)

    def _flush(self, name: str) -> Verdict | None:
        """Writes what the pipe takes, and comes back for the rest when it takes more."""
        descriptor = self._into[name]
        waited_for = descriptor in self._waiting.get_map()
        try:
            written = os.write(descriptor, self._unsent[name])
        except BlockingIOError:
            written = 0
        except BrokenPipeError:
            return self._ended(name)
        self._unsent[name] = self._unsent[name][written:]
        if self._unsent[name] and not waited_for:
            self._waiting.register(descriptor, selectors.EVENT_WRITE, f"into {name}")
        elif not self._unsent[name] and waited_for:
            self._waiting.unregister(descriptor)
        return None
