"""Runs a command where it can do no harm: no network, no other files, bounded time, memory and output (Linux).

What Linux gives without privileges: new namespaces of users, network, processes and mounts; Landlock for files; limits
on resources; no new privileges. The parent decides by the exit status and the output, and by what the confining program
itself told before the command began. Knows processes; what is run, and what its output means, the caller knows.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dougong.core import files
from dougong.core.errors import IsolationError

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
    """

    seconds: float = 60.0
    cpu_seconds: int = 60
    file_bytes: int = 1 << 30
    open_files: int = 256
    processes: int = 64
    output_bytes: int = 1 << 20
    memory: int | None = None

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
        held: Which walls stood: `network`, `processes`, `mounts`, `files`.
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
        "report": writing,
        "needs": sorted(needs),
    }
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CONFINE), json.dumps(spec)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_libraries(),
            cwd=allowed[0] if allowed else "/",
            pass_fds=(writing,),
            start_new_session=True,
        )
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as report, process:
        return _outcome(process, report, limits)


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


def _outcome(process: subprocess.Popen[bytes], report: IO[bytes], limits: Limits) -> Outcome:
    streams = {"report": report, "out": process.stdout, "err": process.stderr}
    try:
        texts, broken = _gathered(streams, limits)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the kernel ends all others with it
    told = dict(line.split(" ", 1) for line in texts["report"].decode().splitlines() if " " in line)
    if "held" not in told:
        reason = told.get("cannot", texts["err"].decode(errors="replace").strip() or "the machine does not say why")
        raise IsolationError(f"this must run in isolation, which cannot be had here: {reason}. {_ADVICE}")
    code = os.waitstatus_to_exitcode(int(told["status"])) if "status" in told else None
    return Outcome(None if broken else code, texts["out"], texts["err"], frozenset(told["held"].split()), broken)


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
