"""What is isolated has no network, no other files, and an end; each wall is looked at from inside."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dougong.core import isolation
from dougong.core.errors import IsolationError
from dougong.core.isolation import Limits, Outcome, isolated

CONFINE = isolation._CONFINE
READABLE = [sys.prefix, sys.base_prefix]

# Tries what must not be possible, and tells what was.
PROBE = """
import json, os, socket, sys
port, unix, secret, elsewhere, own, parent = sys.argv[1:]
unix_path = os.path.dirname(elsewhere) + "/socket"
def possible(attempt):
    try:
        attempt()
        return True
    except OSError as error:
        return False
def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("127.0.0.1", int(port)))
def abstract():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\\0" + unix)
def path(name):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(name)
def write(path):
    with open(path, "w") as file:
        file.write("x")
print(json.dumps({
    "tcp": possible(lambda: socket.create_connection(("127.0.0.1", int(port)), 2)),
    "udp": possible(udp),
    "abstract socket": possible(abstract),
    "secret": possible(lambda: open(secret).read()),
    "list": possible(lambda: os.listdir(os.path.dirname(secret))),
    "elsewhere": possible(lambda: write(elsewhere)),
    "link": possible(lambda: os.link(secret, own + "/linked")),
    "mode": possible(lambda: os.chmod(secret, 0o640)),
    "times": possible(lambda: os.utime(secret, (1, 1))),
    "path socket": possible(lambda: path(unix_path)),
    "own": possible(lambda: write(own + "/mine")),
    "kill": possible(lambda: os.kill(int(parent), 0)),
    "environ": possible(lambda: open(f"/proc/{parent}/environ").read()),
    "privileges": any(line.startswith("CapEff") and int(line.split()[1], 16) for line in open("/proc/self/status")),
    "superuser": os.geteuid() == 0,
    "told": "DOUGONG_SECRET" in os.environ,
}))
"""
SOCKETS = {"tcp", "udp", "abstract socket", "path socket"}
REACHED = SOCKETS | {"secret", "list", "elsewhere", "link", "mode", "times", "kill", "environ", "told"}


def run(code: str, *words: str, **options: Any) -> Outcome:
    return isolated([sys.executable, "-I", "-c", code, *words], readable=READABLE, **options)


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine that takes connections and datagrams."""
    with socket.socket() as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        server.bind(("127.0.0.1", 0))
        server.listen()
        datagrams.bind(server.getsockname())
        yield server.getsockname()[1]


@pytest.fixture
def a_network(port: int) -> None:
    """Skips the test where there is no network to shut off, not even to this machine itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.sendto(b"x", ("127.0.0.1", port))
        except OSError as error:
            pytest.skip(f"this machine does not reach itself by network: {error.strerror}")


@pytest.fixture
def words(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the probe is given."""
    (tmp_path / "private").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "private" / "secret").write_text("s")
    monkeypatch.setenv("DOUGONG_SECRET", "s")
    name = f"dougong-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as with_path:
        server.bind("\0" + name)
        server.listen()
        monkeypatch.chdir(tmp_path)  # the path of a socket may have some hundred letters alone
        with_path.bind("socket")
        with_path.listen()
        places = (tmp_path / "private" / "secret", tmp_path / "elsewhere", tmp_path / "own")
        yield [str(port), name, *map(str, places), str(os.getpid())]


def test_from_inside_nothing_outside_can_be_reached(words: list[str], tmp_path: Path) -> None:
    outcome = run(PROBE, *words, writable=[tmp_path / "own"])
    assert (outcome.exit_code, outcome.broken) == (0, None), outcome.err
    found = json.loads(outcome.out)
    assert found == dict.fromkeys(REACHED | {"privileges", "superuser"}, False) | {"own": True}
    assert outcome.held == isolation.WALLS - {"folder"}
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["mine"]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.usefixtures("a_network")
def test_without_isolation_the_same_probe_reaches_what_it_wants(words: list[str], tmp_path: Path) -> None:
    answer = subprocess.run([sys.executable, "-I", "-c", PROBE, *words], capture_output=True, check=True)
    found = json.loads(answer.stdout)
    assert {name for name in REACHED if found[name]} == REACHED
    assert (tmp_path / "elsewhere").exists()


OFF = {
    "namespaces": ("held = _enter_namespaces()", "held = set()"),
    "users": ("_libc.unshare(flags) == 0", "False"),
    "files": ('held = _landlock([*spec["readable"], "/proc/self"], spec["writable"])', "held = set()"),
    "still": ('not _still(spec["writable"])', "False"),
    "calls": ("if not calls:", "if True:"),
    "all": ("def main() -> None:", "def main() -> None:\n    raise SystemExit(0)"),
}


def weakened(folder: Path, monkeypatch: pytest.MonkeyPatch, *walls: str) -> None:
    """Lets the confining program be one in which something fails or is left out."""
    text = CONFINE.read_text(encoding="utf-8")
    for old, new in map(OFF.__getitem__, walls):
        assert old in text
        text = text.replace(old, new)
    (folder / "confine.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(isolation, "_CONFINE", folder / "confine.py")


def test_where_namespaces_cannot_be_had_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    weakened(tmp_path, monkeypatch, "users")
    touch = "import sys; open(sys.argv[1], 'w')"
    with pytest.raises(IsolationError, match="must run in isolation, .* no wall around network") as caught:
        run(touch, str(tmp_path / "own" / "touched"), writable=[tmp_path / "own"])
    assert caught.value.exit_code == 7
    assert not (tmp_path / "own" / "touched").exists()
    weaker = run(touch, str(tmp_path / "own" / "touched"), writable=[tmp_path / "own"], needs=())
    assert weaker.held == {"files", "calls"}
    assert (tmp_path / "own" / "touched").exists()


HOLES: dict[tuple[str, ...], set[str]] = {
    ("files",): {"secret", "list"},
    ("files", "still"): {"secret", "list", "elsewhere", "link", "mode", "times"},
    ("still",): {"mode", "times"},
    ("calls",): {"path socket"},
    ("calls", "namespaces"): {"udp", "path socket", "mode", "times"},
}


@pytest.mark.usefixtures("a_network")
@pytest.mark.parametrize("walls", HOLES, ids="+".join)
def test_without_one_wall_the_probe_finds_the_hole(
    walls: tuple[str, ...], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weakened(tmp_path, monkeypatch, *walls)
    found = json.loads(run(PROBE, *words, writable=[tmp_path / "own"], needs=()).out)
    assert {name for name in REACHED if found[name]} == HOLES[walls]


def test_a_confining_program_that_fails_has_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weakened(tmp_path, monkeypatch, "all")
    with pytest.raises(IsolationError, match="cannot be had here"):
        run("print(1)")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(IsolationError, match="darwin offers none"):
        run("print(1)")


LIMITED: dict[str, tuple[str, Limits, int | None, str | None]] = {
    "clock": ("import time; time.sleep(60)", Limits(seconds=0.5), None, "seconds"),
    "computing": ("while True: pass", Limits(cpu_seconds=1), -signal.SIGXCPU, None),
    "output": ("while True: print('x' * 1000)", Limits(output_bytes=10_000), None, "output_bytes"),
    "complaints": ("import sys; sys.stderr.write('x' * 10**6)", Limits(output_bytes=10_000), 0, None),
    "memory": ("x = bytearray(10**9)", Limits(memory=10**8), 1, None),
    "file": ("open('a', 'wb').write(bytes(10**6))", Limits(file_bytes=10**5), 1, None),
    "files": ("[open('/dev/null') for _ in range(100)]", Limits(open_files=20), 1, None),
    "crash": ("import os; os.abort()", Limits(), -signal.SIGABRT, None),
    "code": ("raise SystemExit(5)", Limits(), 5, None),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITED)
def test_what_is_used_has_a_limit_and_the_parent_knows_how_it_ended(name: str, tmp_path: Path) -> None:
    code, limits, exit_code, broken = LIMITED[name]
    begin = time.monotonic()
    outcome = run(code, limits=limits, writable=[tmp_path])
    assert (outcome.exit_code, outcome.broken) == (exit_code, broken), outcome.err
    assert len(outcome.err) <= limits.output_bytes
    assert time.monotonic() - begin < 30


FOLDER = """
import os, sys, tempfile
place = tempfile.gettempdir()
try:
    for number in range(100):
        with open(f"{sys.argv[1]}{number}", "wb") as file:
            file.write(bytes(10**5))
except OSError as error:
    print(error.strerror)
print(os.getcwd() == os.environ["HOME"] == place, len(os.listdir()) < 20)
"""


def test_its_own_folder_is_small_is_its_home_and_goes_with_it() -> None:
    mark = f"mark-{os.getpid()}-"
    outcome = run(FOLDER, mark, limits=Limits(folder_bytes=1 << 20), needs=isolation.WALLS)
    assert outcome.out == b"No space left on device\nTrue True\n", outcome.err
    places = [path for path in ("/dev/shm", "/tmp", "/mnt", "/media") if os.path.isdir(path)]
    assert not [name for path in places for name in os.listdir(path) if name.startswith(mark)]
    with pytest.raises(IsolationError, match="no wall around folder"):
        run(FOLDER, mark, needs=isolation.WALLS)


PROCESSES = """
import os, subprocess, sys, threading
thread = threading.Thread(target=print, args=("thread",))
thread.start()
thread.join()
for name, attempt in (("fork", os.fork), ("spawn", lambda: subprocess.run([sys.executable, "-c", ""]))):
    try:
        if attempt() == 0:
            os._exit(0)
        print(name, flush=True)
    except OSError:
        pass
"""


def test_what_may_have_no_children_has_none_though_it_were_the_superuser() -> None:
    assert run(PROCESSES, limits=Limits(children=False)).out == b"thread\n"
    assert run(PROCESSES).out == b"thread\nfork\nspawn\n"


UNCOUNTED = """
import ctypes, os
libc = ctypes.CDLL(None)
print("shared" * (libc.shmget(0, 4096, 0o1600) >= 0), "messages" * (libc.msgget(0, 0o1600) >= 0), end=" ")
try:
    os.memfd_create("a")
    print("file")
except OSError:
    pass
"""


def test_memory_that_counts_for_no_limit_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments and queues of System V stay when they are let go, and files without a name are in memory."""
    assert run(UNCOUNTED, limits=Limits(folder_bytes=1 << 20)).out.split() == []
    assert run(UNCOUNTED).out.split() == [b"file"]  # which a reader without a folder reads its sample from
    weakened(tmp_path, monkeypatch, "calls")
    assert run(UNCOUNTED, needs=()).out.split() == [b"shared", b"messages", b"file"]


def test_what_is_confined_is_talked_to_while_it_runs() -> None:
    code = "while line := input():\n    print(line[::-1], flush=True)"
    command = [sys.executable, "-I", "-c", code]
    with isolation.confined(command, readable=READABLE, stdin=subprocess.PIPE) as room:
        room.await_walls()
        assert room.process.stdin is not None
        assert room.process.stdout is not None
        for word in (b"one\n", b"two\n"):
            room.process.stdin.write(word)
            assert room.process.stdout.read(4) == word[-2::-1] + b"\n"
        assert room.exit_code is None
        room.process.stdin.write(b"\n")
        assert room.await_end(20.0) == 0
    with isolation.confined(command, readable=READABLE, stdin=subprocess.PIPE) as room:
        room.await_walls()
    assert room.process.returncode == -signal.SIGKILL


def test_what_it_leaves_running_ends_with_it(tmp_path: Path) -> None:
    """A grandchild in a session of its own would write a mark, were it not ended with the first."""
    code = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    os.close(1); os.close(2)\n"
        "    time.sleep(1)\n"
        "    open('mark', 'w')\n"
        "    os._exit(0)\n"
    )
    assert run(code, writable=[tmp_path]).exit_code == 0
    time.sleep(1.5)
    assert list(tmp_path.iterdir()) == []
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    deadline = time.monotonic() + 20
    while not (tmp_path / "mark").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_when_the_parent_is_killed_the_isolated_command_ends_too(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from dougong.core.isolation import isolated\n"
        "inner = 'import time; open(\\'begun\\', \\'w\\'); time.sleep(3); open(\\'ended\\', \\'w\\')'\n"
        f"isolated([sys.executable, '-I', '-c', inner], readable={READABLE!r}, writable=[{str(tmp_path)!r}])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    time.sleep(3.2)
    assert not (tmp_path / "ended").exists()


def test_a_module_of_ours_can_be_run(tmp_path: Path) -> None:
    command, readable, environment = isolation.python("dougong", "--version")
    outcome = isolated(command, readable=readable, environment=environment)
    assert outcome.out.startswith(b"dougong "), outcome.err


def test_memory_is_limited_from_what_is_there() -> None:
    code = (
        "from dougong.core.isolation import limit_memory\n"
        "limit_memory(200_000_000)\n"
        "x = bytearray(100_000_000)\n"
        "try:\n    y = bytearray(200_000_000)\n"
        "except MemoryError:\n    print('full')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"full\n"
