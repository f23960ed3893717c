"""Row 42: a generated program attacks the machine, or cheats: it wants the network, secrets, other processes and files,
or to be told to have passed. Promise: nothing outside is reached, no cheat scores, the verdict is decided by the parent
alone; where a wall cannot be had, exit code 7, nothing is run, and there is no score.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import dougong
from dougong.core import confine
from tests.faults import programs

# What each attack wants. One that is granted it gives the right answer; the others give none.
ATTACKS = {
    "tcp": "socket.create_connection(('127.0.0.1', PORT), 2)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "socket with a path": "socket.socket(socket.AF_UNIX).connect(os.path.relpath(PLACE + '/door'))",
    "abstract socket": "socket.socket(socket.AF_UNIX).connect(chr(0) + DOOR)",
    "read a secret": "assert 'key' in open(PLACE + '/.ssh/id').read()",
    "list a folder": "os.listdir(PLACE + '/.ssh')",
    "link to a secret": "os.symlink(PLACE + '/.ssh/id', 'link'); open('link').read()",
    "environment": "assert os.environ['DOUGONG_SECRET']",
    "environment of the parent": "open(f'/proc/{PARENT}/environ').read()",
    "write outside": "open(PLACE + '/written', 'w').write('x')",
    "change a file": "open(PLACE + '/.ssh/id', 'a').write('x')",
    "remove a file": "os.remove(PLACE + '/.ssh/id')",
    "change a mode": "os.chmod(PLACE + '/.ssh/id', 0o777)",
    "change times": "os.utime(PLACE + '/.ssh/id', (1, 1))",
    "shell": "subprocess.run(['/bin/sh', '-c', f'echo x > {PLACE}/written'], check=True)",
    "setsid": "os.setsid(); os.fork() or time.sleep(100)",
    "kill the parent": "os.kill(PARENT, 9)",
    "kill all": "os.kill(1, 9); os.kill(-1, 9); os.kill(PARENT, 0)",
    "fork bomb": "[os.fork() for _ in range(10)]",
    "trace": "assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
    "read another's memory": "open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "new namespaces": "assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "mount": "assert ctypes.CDLL(None).mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == 0",
}
# These would do harm to the machine of the control, or need what it may lack.
SPARED = {"kill the parent", "kill all", "fork bomb", "trace", "read another's memory", "new namespaces", "mount"}
SPARED |= {"setsid", "environment of the parent"}
ATTACK = """\
    import ctypes, os, socket, subprocess, time
    try:
        {attack}
    except BaseException:
        return None
    return x + 1
"""
FORGED = """
import os
for line in (b'passed', b'["passed", ""]', b'{"id": 0, "value": ["int", "0x2"]}', b'0' * 32 + b'["passed", ""]'):
    for number in range(30):
        try:
            os.write(number, line + bytes([10]))
        except OSError:
            pass
"""
LIAR = "class Liar(int):\n    __eq__ = lambda self, other: True\n    __ne__ = lambda self, other: False\n"
CHEATS = {
    "says so": "    print('passed')\n    print('1 passed in 0.01s')\n",
    "exits": "    import os\n    os._exit(0)\n",
    "exits while it is read": "    pass\nimport os\nos._exit(0)\n",
    "leaves": "    import sys\n    sys.exit(0)\n",
    "leaves while it is read": "    pass\nraise SystemExit(0)\n",
    "at exit": "    import atexit, os\n    atexit.register(os._exit, 0)\n    raise SystemExit(0)\n",
    "equals all": f"    return Liar()\n{LIAR.replace('(int)', '')}",
    "is an int that equals all": f"    return Liar()\n{LIAR}",
    "changes builtins": (
        "    return 2\nimport builtins\nbuiltins.AssertionError = KeyError\nbuiltins.check = lambda candidate: None\n"
        "def check(candidate): pass\nimport operator\noperator.eq = lambda a, b: True\n"
    ),
    "raises what a test raises": "    raise AssertionError('passed')\n",
    "changes the caller": (
        "    import sys\n    frame = sys._getframe()\n    while frame:\n"
        "        frame.f_globals.update(check=lambda c: None, pack=lambda *a: ['plain', True])\n"
        "        frame.f_globals.get('json', sys).loads = lambda line: {'id': 0, 'words': [], 'verb': 'call'}\n"
        "        frame = frame.f_back\n    return None\n"
    ),
    "looks for the tests": (
        "    import gc, sys, os\n    seen = [str(o) for o in gc.get_objects() if isinstance(o, (str, dict, list))]\n"
        "    seen += [open(f'/proc/self/{name}').read() for name in ('cmdline', 'environ', 'maps')]\n"
        "    for folder in ('/dev/shm', '/tmp', '.'):\n        try:\n            seen += os.listdir(folder)\n"
        "        except OSError:\n            pass\n"
        "    return x + 1 if any('candidate' + '(41)' in text for text in seen) else None\n"
    ),
    "writes verdicts everywhere": f"    pass\n{FORGED}",
    "writes verdicts when asked": "    exec(FORGED)\n" + f"FORGED = {FORGED!r}\n",
    "answers a question twice": (
        "    import json, sys\n    key = sys._getframe(2).f_locals['question']['id']\n"
        "    line = json.dumps({'id': key, 'value': ['int', '0x2']})\n"
        "    answers = sys._getframe(2).f_locals['answers']\n    answers.write((line + chr(10)).encode() * 2)\n"
        "    return None\n"
    ),
    "answers with what is no data": (
        "    import json, sys\n    caller = sys._getframe(2).f_locals\n"
        "    line = json.dumps({'id': caller['question']['id'], 'value': ['set', [['list', []]]]})\n"
        "    caller['answers'].write((line + chr(10)).encode())\n    import time\n    time.sleep(100)\n"
    ),
    "closes everything": "    import os\n    os.closerange(0, 100)\n",
}  # fmt: skip


@dataclass
class Sentinels:
    """What an attack must not touch, and the words that a program needs to try."""

    place: Path
    port: int
    door: str
    calls: list[str]

    def body(self, attack: str) -> str:
        words = {"PORT": self.port, "DOOR": repr(self.door), "PLACE": repr(str(self.place)), "PARENT": os.getpid()}
        for name, value in words.items():
            attack = attack.replace(f"{{{name}}}", str(value).strip("'")).replace(name, str(value))
        return ATTACK.format(attack=attack)

    def untouched(self) -> bool:
        secret = self.place / ".ssh" / "id"
        found = secret.stat()
        kept = (secret.read_text(), oct(found.st_mode)[-3:], found.st_mtime) == ("key", "600", 1e9)
        return kept and not self.calls and not (self.place / "written").exists()


@pytest.fixture
def sentinels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sentinels]:
    """A secret, a variable, and doors at which somebody notes who knocks."""
    (tmp_path / ".ssh").mkdir(mode=0o700)
    secret = tmp_path / ".ssh" / "id"
    secret.write_text("key")
    secret.chmod(0o600)
    os.utime(secret, (1e9, 1e9))
    monkeypatch.setenv("DOUGONG_SECRET", "key")
    monkeypatch.chdir(tmp_path)  # the path of a socket may have some hundred letters alone
    found = Sentinels(tmp_path, 0, f"door-{os.getpid()}", [])
    doors = [socket.socket(), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for door, where in zip(doors, (("127.0.0.1", 0), "door", "\0" + found.door), strict=True):
        door.bind(where)
        door.listen()
    found.port = doors[0].getsockname()[1]
    udp.bind(doors[0].getsockname())
    ended = threading.Event()

    def watch() -> None:
        for door in (*doors, udp):
            door.settimeout(0.01)
        while not ended.is_set():
            for door in (*doors, udp):
                try:
                    found.calls.append(str(door.recv(1) if door is udp else door.accept()[0].close()))
                except TimeoutError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield found
    ended.set()
    watcher.join()
    for door in (*doors, udp):
        door.close()


def test_no_attack_and_no_cheat_scores_and_nothing_outside_is_touched(sentinels: Sentinels, tmp_path: Path) -> None:
    bodies = {name: sentinels.body(attack) for name, attack in ATTACKS.items()} | CHEATS
    assert len(bodies) >= 30
    files = programs.written(tmp_path, {**bodies, "honest": programs.HONEST})
    score = dougong.evaluate_code(**files, to=tmp_path / "kept", workers=2, timeout=20.0)
    verdicts = programs.kept_verdicts(tmp_path / "kept")
    assert {name for name, (kind, _) in verdicts.items() if kind == "passed"} == {"honest"}
    assert score["pass@1"] == 1 / len(verdicts)
    kinds = {name: kind for name, (kind, _) in verdicts.items()}
    assert {kinds[name] for name in ATTACKS} <= {"failed", "error"}, verdicts
    assert kinds["writes verdicts everywhere"] == kinds["answers a question twice"] == "forged"
    assert kinds["answers with what is no data"] == "forged"
    assert sentinels.untouched()


def plainly(folder: Path, body: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs a program and its tests in one process without walls: how it is often done."""
    text = "\n".join([programs.PROMPT + body, programs.TEST, "check(f)", *more])
    command = [sys.executable, "-c", text]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=60)


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - SPARED))
def test_without_walls_the_attack_has_its_way(name: str, sentinels: Sentinels, tmp_path: Path) -> None:
    done = plainly(tmp_path, sentinels.body(ATTACKS[name]).replace("return x + 1", "print('done')\n    return x + 1"))
    if name in ("tcp", "udp") and "done" not in done.stdout:
        pytest.skip("this machine does not reach itself by network")
    assert "done" in done.stdout, done.stderr


FOOLED = ("exits", "exits while it is read", "leaves", "leaves while it is read", "at exit", "equals all")


@pytest.mark.parametrize("name", [*FOOLED, "is an int that equals all", "looks for the tests"])
def test_without_a_process_of_their_own_the_tests_are_fooled(name: str, tmp_path: Path) -> None:
    assert plainly(tmp_path, CHEATS[name]).returncode == 0
    assert programs.examined(tmp_path, CHEATS[name]).kind != "passed"


HELPER = 'def shift(s):\n    return s[1:] + s[:1]\n\n\ndef f(s):\n    """Undoes shift."""\n'
HELPED = "def check(candidate):\n    for s in ('abc', 'hello'):\n        assert candidate(shift(s)) == s\n"


def test_a_program_that_redefines_what_the_tests_lean_on_changes_nothing_for_them(tmp_path: Path) -> None:
    cheat = "    return s\ndef shift(s):\n    return s\n"
    given = {"prompt": HELPER, "test": HELPED}
    assert programs.examined(tmp_path, cheat, **given).kind == "failed"
    assert programs.examined(tmp_path, "    return s[-1:] + s[:-1]\n", **given).kind == "passed"
    text = "\n".join([HELPER + cheat, HELPED, "check(f)"])
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0


def test_an_exception_of_the_programs_cannot_end_a_test_early_as_if_it_had_passed(tmp_path: Path) -> None:
    test = "def check(candidate):\n    assert all(y == x + 1 for x, y in zip((1, 2), map(candidate, (1, 2))))\n"
    cheat = "    raise StopIteration\n"
    assert programs.examined(tmp_path, cheat, test=test).kind == "error"
    text = "\n".join([programs.PROMPT + cheat, test, "check(f)"])
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0


def test_tests_that_ask_nothing_let_nothing_pass(tmp_path: Path) -> None:
    verdict = programs.examined(tmp_path, programs.HONEST, test="def check(candidate):\n    pass\n")
    assert (verdict.kind, verdict.reason) == ("error", "the tests asked nothing")


DENIED = """
import ctypes, os, sys
from dougong.core import confine
architecture, calls = confine._CALLS[os.uname().machine]
confine._prctl(confine._NO_NEW_PRIVILEGES, 1)
assert confine._forbid(architecture, [calls["unshare"]] if sys.argv[1] == "deny" else [], calls["clone"], True)
os.execv(sys.executable, [sys.executable, "-m", "dougong", *sys.argv[2:]])
"""


@pytest.mark.parametrize("how", ["deny", "allow"])
def test_where_namespaces_are_denied_it_ends_with_7_and_no_score_and_nothing_is_run(how: str, tmp_path: Path) -> None:
    """With `allow`, the control, the same filter denies nothing that is needed, and there is a score."""
    files = programs.written(tmp_path, {"honest": programs.HONEST})
    words = [f"--{name}={path}" for name, path in files.items()]
    command = [sys.executable, "-c", DENIED, how, "evaluate", *words, f"--to={tmp_path / 'kept'}", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=100)
    if how == "allow":
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["pass@1"] == 1
        return
    assert done.returncode == 7, done.stderr
    assert done.stdout == ""
    assert "must run in isolation" in done.stderr
    assert "error[E-ISOLATION]" in done.stderr
    assert not (tmp_path / "kept").exists()


def test_the_machine_is_one_whose_calls_are_known() -> None:
    """Else the tests above would not have run: an unknown architecture has no wall around its calls."""
    assert os.uname().machine in confine._CALLS
    assert ctypes.sizeof(ctypes.c_void_p) == 8
