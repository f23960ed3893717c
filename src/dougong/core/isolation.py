"""Runs a command where it can do no harm: no network, no other files, bounded time, memory and output (Linux).

What Linux gives without privileges: new namespaces of users, network, processes and mounts; Landlock for files; seccomp
for calls; limits on resources; no new privileges. The parent decides by the exit status and the output, and by what the
confining program itself told before the command began. Knows processes; what is run, and what its output means, the
caller knows.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dougong.core import files
from dougong.core.errors import IsolationError

WALLS = frozenset({"network", "processes", "mounts", "files", "calls", "folder"})
"""What can stand around a command; `folder` where it has one of its own."""
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime")
_HARDWARE = ("/proc/cpuinfo", "/sys/devices/system/cpu")
_CONFINE = Path(__file__).with_name("confine.py")
_ADVICE = (
    "It takes Linux with namespaces for users (in a container: --security-opt seccomp=unconfined, or a kernel setting "
    "such as kernel.apparmor_restrict_unprivileged_userns=0)."
)


@dataclass(frozen=True)
class Limits:
    """What a command may use.

    Attributes:
        seconds: By the clock.
        cpu_seconds: Of all cores together, for each process.
        file_bytes: Of the largest file that it may write.
        open_files: At a time.
        processes: At a time, threads too; does not bind the superuser.
        output_bytes: Of its standard output; its standard error is cut to as many.
        memory: Bytes of address space; None is no limit. A command that loads much code of its own limits itself
            after that (`limit_memory`).
        folder_bytes: Of a folder of its own, in memory, which is its home and where it begins; None: it has none.
        children: Whether it may start processes; that it may not binds the superuser too.
    """

    seconds: float | int = 60.0
    cpu_seconds: int = 60
    file_bytes: int = 1 << 30
    open_files: int = 256
    processes: int = 64
    output_bytes: int = 1 << 20
    memory: int | None = None
    folder_bytes: int | None = None
    children: bool = True

    def by_name(self) -> dict[str, int]:
        """Returns the limits that the kernel keeps, by its names."""
        kept = {
            "CPU": self.cpu_seconds,
            "FSIZE": self.file_bytes,
            "NOFILE": self.open_files,
            "NPROC": self.processes,
            "CORE": 0,
        }
        return kept if self.memory is None else {**kept, "AS": self.memory}


@dataclass(frozen=True)
class Outcome:
    """How an isolated command ended.

    Attributes:
        exit_code: Its exit code; negative is the number of the signal that ended it; None: it was ended from here.
        out: Its standard output.
        err: The end of its standard error.
        held: Which walls stood, of `WALLS`.
        broken: The limit that it was ended for, `seconds` or `output_bytes`; None: it ended by itself.
    """

    exit_code: int | None
    out: bytes
    err: bytes
    held: frozenset[str]
    broken: str | None = None


def isolated(
    command: Sequence[str],
    *,
    readable: Sequence[str | Path] = (),
    writable: Sequence[str | Path] = (),
    limits: Limits | None = None,
    environment: Mapping[str, str] | None = None,
    needs: Collection[str] = ("network",),
) -> Outcome:
    """Runs a command in isolation and returns how it ended.

    Args:
        command: The program, by its whole path, and its arguments.
        readable: Files and folders that it may read, beside the system's libraries.
        writable: Folders that it may read and write.
        limits: What it may use.
        environment: All its environment variables; nothing of ours is handed on.
        needs: The walls without which it is not run.

    Raises:
        IsolationError: One of the walls cannot be had here; nothing was run.
    """
    limits = limits or Limits()
    with confined(command, readable, writable, limits, environment, needs) as room:
        streams = {"report": room.report, "out": room.process.stdout, "err": room.process.stderr}
        texts, broken = _gathered(streams, limits)
        room.end()
        room.heed(texts["report"], texts["err"])
        return Outcome(None if broken else room.exit_code, texts["out"], texts["err"], room.held, broken)


class Confined:
    """A command that runs in isolation, or is about to.

    Attributes:
        process: The process that shut itself in; its pipes are the command's.
        report: What the confining program tells, to its end.
        held: Which walls stand, once that is told.
        exit_code: As of `Outcome`, once that is told.
    """

    def __init__(self, process: subprocess.Popen[bytes], report: IO[bytes]):
        self.process, self.report = process, report
        self.held: frozenset[str] = frozenset()
        self.exit_code: int | None = None

    def await_walls(self, seconds: float = 60.0) -> None:
        """Waits until the walls stand and the command begins.

        Raises:
            IsolationError: They cannot be had here, or do not stand in time; nothing was run.
        """
        self.heed(self._told(seconds, 1), b"")

    def await_end(self, seconds: float = 1.0) -> int | None:
        """Waits a little for the exit code of a command that seems to have ended, and returns it."""
        self.heed(b"held " + " ".join(self.held).encode() + b"\n" + self._told(seconds), b"")
        return self.exit_code

    def heed(self, told: bytes, complaint: bytes) -> None:
        """Takes in what the confining program told, or else complained of.

        Raises:
            IsolationError: No walls stand; nothing was run.
        """
        words = dict(line.split(" ", 1) for line in told.decode().splitlines() if " " in line)
        if "held" not in words:
            reason = words.get("cannot", complaint.decode(errors="replace").strip() or "the machine does not say why")
            raise IsolationError(f"this must run in isolation, which cannot be had here: {reason}. {_ADVICE}")
        self.held = frozenset(words["held"].split())
        self.exit_code = os.waitstatus_to_exitcode(int(words["status"])) if "status" in words else None

    def end(self) -> None:
        """Ends the command and all that it started: the kernel ends the others with the first."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _told(self, seconds: float, lines: int | None = None) -> bytes:
        """Reads so many lines of the report, or all there is, but waits no longer than this for each piece."""
        told = b""
        while lines is None or told.count(b"\n") < lines:
            ready, _, _ = select.select([self.report], [], [], seconds)
            piece = os.read(self.report.fileno(), 1 << 12) if ready else b""
            told += piece
            if not piece:
                break
        return told


@contextlib.contextmanager
def confined(
    command: Sequence[str],
    readable: Sequence[str | Path] = (),
    writable: Sequence[str | Path] = (),
    limits: Limits | None = None,
    environment: Mapping[str, str] | None = None,
    needs: Collection[str] = ("network",),
    stdin: int = subprocess.DEVNULL,
) -> Iterator[Confined]:
    """Gives a command that begins to run in isolation, with pipes to talk to it; it ends with the block.

    What time and output it may use is for the caller to watch; else as `isolated`. It ends with the thread that called
    this as well: the kernel calls that its parent.

    Args:
        stdin: `subprocess.PIPE` to have a pipe into it.

    Raises:
        IsolationError: This is no Linux.
    """
    limits = limits or Limits()
    if not sys.platform.startswith("linux"):
        raise IsolationError(f"this must run in isolation, but {sys.platform} offers none. {_ADVICE}")
    reading, writing = os.pipe()
    allowed = [_real(path) for path in writable]
    spec = {
        "command": list(command),
        "environment": dict(environment or {}),
        "readable": [*_SYSTEM, *_HARDWARE, *map(_real, readable)],
        "writable": allowed,
        "limits": limits.by_name(),
        "folder_bytes": limits.folder_bytes,
        "children": limits.children,
        "report": writing,
        "needs": sorted(needs),
    }
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CONFINE), json.dumps(spec)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=_libraries(),
            cwd=allowed[0] if allowed else "/",
            pass_fds=(writing,),
            start_new_session=True,
        )
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as report, process:
        room = Confined(process, report)
        try:
            yield room
        finally:
            room.end()


def bare_python(script: Path, *arguments: str) -> tuple[list[str], list[Path], dict[str, str]]:
    """Returns the command that runs a script with the standard library alone, what it must read, its environment."""
    interpreter = Path(_real(getattr(sys, "_base_executable", sys.executable)))
    readable = [interpreter, Path(sys.base_prefix) / "lib", Path(sysconfig.get_path("stdlib")), script]
    # Sets are ordered by hashes: a program that looks at their order would not do the same thing twice.
    environment = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", **_libraries()}
    return [str(interpreter), "-P", "-s", "-S", "-B", str(script), *arguments], readable, environment


def python(module: str, *arguments: str) -> tuple[list[str], list[Path], dict[str, str]]:
    """Returns the command that runs a module of ours, what it must be able to read, and its environment."""
    paths = [Path(path) for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    root = Path(__file__).parents[2]  # the folder that holds this package
    search = os.pathsep.join(map(str, [root, *paths]))
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sysconfig.get_path("stdlib")}
    environment = {"PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    environment |= _libraries()
    # -I would ignore PYTHONPATH; -P and -s do the rest of it, as the environment is made here.
    return [sys.executable, "-P", "-s", "-m", module, *arguments], [*map(Path, prefixes), root, *paths], environment


def limit_memory(more: int) -> None:
    """Limits the address space of this process to what it has now and so many bytes more."""
    import resource

    most = int(files.read_text("/proc/self/statm").split()[0]) * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _real(path: str | Path) -> str:
    return os.path.realpath(path)


def _libraries() -> dict[str, str]:
    """Returns the one variable of ours that Python itself may need to start."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def _gathered(streams: Mapping[str, IO[bytes] | None], limits: Limits) -> tuple[dict[str, bytes], str | None]:
    """Reads streams to their ends, or until a limit is broken, which is the second thing returned."""
    texts = {name: b"" for name in streams}
    deadline = time.monotonic() + limits.seconds
    with selectors.DefaultSelector() as waiting:
        for name, stream in streams.items():
            waiting.register(stream, selectors.EVENT_READ, name)  # type: ignore[arg-type]
        while waiting.get_map():
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                return texts, "seconds"
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                texts[key.data] = texts[key.data] + chunk
                if not chunk:
                    waiting.unregister(key.fileobj)
            texts["err"] = texts["err"][-limits.output_bytes :]
            if len(texts["out"]) > limits.output_bytes:
                return texts, "output_bytes"
    return texts, None
