"""Row 41: a generated program loops, leaks memory, prints without end, or leaves children and open files behind.
Promise: it is ended within a second of its limit with all that it started, the verdict names the limit and is the same
each time, and the programs beside it are judged as if it were not there.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import dougong
from dougong.run import exam
from dougong.run.exam import allowance
from tests.faults import programs

# Each body stands below the head of the function; the verdict that is promised stands beside it.
ENDLESS = {
    "loop": ("    while True: pass\n", "timeout"),
    "sleep": ("    import time\n    time.sleep(100)\n", "timeout"),
    "wait": ("    import threading\n    threading.Event().wait()\n", "timeout"),
    "one long instruction": ("    return 10 ** 10 ** 8\n", "timeout"),
    "no end of memory, caught": (
        "    while True:\n        try:\n            bytearray(10**10)\n        except MemoryError:\n            pass\n",
        "timeout",
    ),
    "slow leak": ("    kept = []\n    while True:\n        kept.append(bytes(10**6))\n", "memory"),
    "leap": ("    return bytearray(10**10)\n", "memory"),
    "10**9 letters": ("    for _ in range(1000):\n        print('x' * 10**6)\n    return x + 1\n", "output"),
    "complaints": (
        "    import sys\n    while True:\n        print('x' * 1000, file=sys.stderr)\n",
        "output",
    ),
    "long answer": ("    return 'x' * 10**7\n", "output"),
    "zombies": ("    import os\n    while os.fork():\n        pass\n    os._exit(0)\n", "error"),
    "child": (
        "    import subprocess, sys\n    subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
        "    return x + 1\n",
        "error",
    ),
    "threads": (
        "    import threading, time\n    while True:\n"
        "        threading.Thread(target=time.sleep, args=(100,)).start()\n",
        "error",
    ),
    "open files": ("    kept = []\n    while True:\n        kept.append(open('/dev/null'))\n", "error"),
    "shared memory": (
        "    import ctypes\n    libc = ctypes.CDLL(None)\n    libc.shmat.restype = ctypes.c_void_p\n"
        "    for _ in range(8):\n"  # each is let go, and stays
        "        place = libc.shmat(libc.shmget(0, 10**8, 0o1600), None, 0)\n"
        "        assert place != 2**64 - 1\n        ctypes.memset(place, 1, 10**8)\n"
        "        libc.shmdt(ctypes.c_void_p(place))\n    return x + 1\n",
        "failed",
    ),
    "files without a name": (
        "    import os\n    kept = [os.memfd_create('a') for _ in range(50)]\n"
        "    for file in kept:\n        os.write(file, bytes(10**7))\n    return x + 1\n",
        "error",
    ),
    "full folder": (
        "    for i in range(10**6):\n"
        "        with open(f'MARK{i}', 'wb') as file:\n            file.write(bytes(10**6))\n",
        "error",
    ),
}
LIMIT = 1.5


def processes(mark: Path) -> list[str]:
    """The commands of running processes that have a path among their words."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if str(mark).encode() in words:
            found.append(words.decode(errors="replace"))
    return found


def gone(mark: Path) -> bool:
    """Tells whether no such process is left; the kernel may take a moment to end one."""
    deadline = time.monotonic() + 10
    while processes(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not processes(mark)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script that runs inside the walls, under a path that no other test's processes have."""
    copy = tmp_path / "within.py"
    shutil.copy(exam._WITHIN, copy)
    monkeypatch.setattr(exam, "_WITHIN", copy)
    return copy


def test_each_is_ended_by_its_limit_and_the_others_are_judged_as_ever(tmp_path: Path, own: Path) -> None:
    mark = f"mark-{os.getpid()}-"
    bodies = {name: body.replace("MARK", mark) for name, (body, _) in ENDLESS.items()}
    bodies = {"first": programs.HONEST, **bodies, "last": programs.HONEST, "wrong": "    return x\n"}
    files = programs.written(tmp_path, bodies)
    expected = {name: verdict for name, (_, verdict) in ENDLESS.items()}
    expected |= {"first": "passed", "last": "passed", "wrong": "failed"}
    found: list[dict[str, str]] = []
    for again in ("a", "b"):
        score = dougong.evaluate_code(**files, to=tmp_path / again, workers=2, timeout=LIMIT)
        found.append({name: kind for name, (kind, _) in programs.kept_verdicts(tmp_path / again).items()})
        assert score["pass@1"] == 2 / len(bodies)
    assert found == [expected, expected]
    assert gone(own)
    places = [path for path in ("/tmp", "/dev/shm", "/var/tmp") if os.path.isdir(path)]
    assert not [name for place in places for name in os.listdir(place) if name.startswith(mark)]


@pytest.mark.parametrize("name", ["loop", "sleep", "one long instruction"])
def test_the_end_comes_within_a_second_of_the_limit(name: str, tmp_path: Path) -> None:
    verdict = programs.examined(tmp_path, ENDLESS[name][0], allowance(0.5))
    assert verdict.kind == "timeout"
    assert 0.5 <= verdict.seconds <= 1.5


LEAVES_A_CHILD = """\
    import os, time
    if not os.fork():
        os.setsid()
        for number in range(3, 20):
            try:
                os.close(number)
            except OSError:
                pass
        time.sleep(100)
    return x + 1
"""


def test_a_child_in_a_session_of_its_own_ends_with_the_program(tmp_path: Path, own: Path) -> None:
    """Where children were allowed: the walls hold them as well."""
    limits = dataclasses.replace(allowance(20), children=True)
    assert programs.examined(tmp_path, LEAVES_A_CHILD, limits).kind == "passed"
    assert gone(own)


CONTROLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "seconds": ("    import time\n    time.sleep(0.4)\n    return x + 1\n", "timeout", {"seconds": 30.0}),
    "memory": ("    kept = bytes(6 * 10**8)\n    return x + 1\n", "memory", {"memory": 1 << 30}),
    "output_bytes": ("    print('x' * 10**6)\n    return x + 1\n", "output", {"output_bytes": 1 << 22}),
    "children": (LEAVES_A_CHILD, "error", {"children": True}),
    "open_files": (
        "    kept = [open('/dev/null') for _ in range(70)]\n    return x + 1\n",
        "error",
        {"open_files": 200},
    ),
    "folder_bytes": (
        "    for i in range(20):\n        open(f'{i}', 'wb').write(bytes(10**6))\n    return x + 1\n",
        "error",
        {"folder_bytes": 1 << 25},
    ),
}


@pytest.mark.parametrize("limit", CONTROLS)
def test_without_its_limit_a_program_goes_on(limit: str, tmp_path: Path) -> None:
    body, verdict, more = CONTROLS[limit]
    whole = dataclasses.replace(allowance(30), **more)
    less = {"seconds": 0.5} if limit == "seconds" else {}
    assert programs.examined(tmp_path, body, dataclasses.replace(allowance(30), **less)).kind == verdict
    assert programs.examined(tmp_path, body, whole).kind == "passed"
