"""Which part of a pickled state holds the weights, and what ends the process that reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dougong.checkpoint import unpickle
from dougong.core.errors import FileError
from tests.faults import hostile

ONE = torch.ones(2)
WEIGHTS = {"a": ONE, "b": ONE}


@pytest.mark.parametrize(
    ("content", "key", "found", "left_out"),
    [
        (WEIGHTS, None, "", []),
        ({**WEIGHTS, "step": 3}, None, "", []),
        ({"state_dict": WEIGHTS, "epoch": 3}, None, "state_dict", ["epoch"]),
        ({"model": WEIGHTS, "step": ONE, "adam": {"state": {0: {"m": ONE}}}}, None, "model", ["step", "adam"]),
        ({"net": {"inner": WEIGHTS}, "lr": 0.1}, None, "net.inner", ["lr"]),
        ({"model": WEIGHTS, "ema": WEIGHTS}, "ema", "ema", ["model"]),
        ({"net": {"inner": WEIGHTS, "x": 1}}, "net.inner", "net.inner", []),
        ({"a.b": WEIGHTS, "a": {"b": {}}}, "a.b", "a.b", ["a"]),
    ],
)  # fmt: skip
def test_the_mapping_that_holds_the_weights_is_found(
    content: dict[str, Any], key: str | None, found: str, left_out: list[str]
) -> None:
    where, weights, rest = unpickle.chosen(content, key)
    assert where == found
    assert weights.keys() >= WEIGHTS.keys()
    assert sorted(name for name, _ in rest) == sorted(left_out)


@pytest.mark.parametrize(
    ("content", "key", "sentence"),
    [
        ({"model": WEIGHTS, "ema": WEIGHTS}, None, "such mappings: model, ema. Say which with --key"),
        ({"epoch": 3}, None, "such mappings: none"),
        ({}, None, "holds nothing"),
        ({"model": WEIGHTS}, "modle", "must hold a mapping under the key modle, but holds model"),
        ({"model": ONE}, "model", "must hold a mapping under the key model"),
        ({"\x1b[31m": 3}, None, "x1b"),
    ],
)
def test_where_it_is_not_plain_which_the_choice_is_left_to_the_person(
    content: dict[str, Any], key: str | None, sentence: str
) -> None:
    with pytest.raises(FileError, match=sentence) as caught:
        unpickle.chosen(content, key)
    assert str(caught.value).isprintable()


def converted(folder: Path, content: Any, **request: Any) -> dict[str, Any]:
    """Runs the module itself, without walls."""
    torch.save(content, folder / "a.pt")
    (folder / "new").mkdir(exist_ok=True)
    words = {"source": str(folder / "a.pt"), "folder": str(folder / "new"), "stem": "part", "key": None}
    program = [
        sys.executable,
        "-m",
        "dougong.checkpoint.unpickle",
        json.dumps({**words, "shard_bytes": 100, **request}),
    ]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_tensors_are_written_in_files_of_a_size(tmp_path: Path) -> None:
    tensors = {name: torch.full((10,), float(number)) for number, name in enumerate("abcd")}
    answer = converted(tmp_path, {"model": tensors, "step": 3})
    assert answer == {"key": "model", "left_out": [["step", "int"]], "tensors": 4}
    paths = sorted((tmp_path / "new").iterdir())
    assert [path.name for path in paths] == ["part-00001.safetensors", "part-00002.safetensors"]
    found = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("name", ["__metadata__", "a\nb", "\x1b[31m", "x" * 2000, 3])
def test_names_that_would_mean_something_else_are_refused(name: Any) -> None:
    with pytest.raises(FileError, match="must name its tensors by words"):
        unpickle._sound_name(name)


EVENTS = {
    "import": "import json.tool",
    "exec": "exec('1')",
    "compile": "compile('1', 'x', 'eval')",
    "system": "os.system('true')",
    "process": "os.posix_spawn('/bin/true', ['true'], {})",
    "fork": "os.fork()",
    "socket": "socket.socket()",
    "resolve": "socket.getaddrinfo('localhost', 1)",
    "read": "open('/etc/hostname')",
    "write": "open(sys.argv[1], 'w')",
    "own file to write": "open(f'/proc/self/fd/{source.fileno()}', 'r+b')",
    "remove": "os.remove(sys.argv[1])",
    "rename": "os.rename(sys.argv[1], 'x')",
    "library": "ctypes.CDLL('libc.so.6')",
    "pickle": "pickle.loads(b'cos\\nsystem\\n.')",
}


def _program() -> str:
    """Each event in a process of its own, forked from one that has imported torch; prints how each ended."""
    functions = "".join(f"def event_{number}():\n    {line}\n" for number, line in enumerate(EVENTS.values()))
    listed = ", ".join(f"{name!r}: event_{number}" for number, name in enumerate(EVENTS))
    return f"""
import ctypes, json, os, pickle, socket, sys
from dougong.checkpoint.unpickle import watch
source = open(sys.argv[1], "rb")
{functions}
found = {{}}
for armed in (True, False):
    for name, event in {{{listed}}}.items():
        child = os.fork()
        if child == 0:
            if armed:
                watch(source.fileno())
            try:
                event()
            except BaseException:
                os._exit(1)
            os._exit(0)
        found[f"{{name}} {{armed}}"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(found))
"""


def test_what_reading_tensors_does_not_need_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    program = [sys.executable, "-c", _program(), str(tmp_path / "a")]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name: found[f"{name} True"] for name in EVENTS} == dict.fromkeys(EVENTS, unpickle.CAUGHT)
    assert unpickle.CAUGHT not in [found[f"{name} False"] for name in EVENTS]
    assert found["read False"] == found["import False"] == found["exec False"] == 0


def test_a_sound_archive_is_told_from_others(tmp_path: Path) -> None:
    for content, sound in ((hostile.saved(WEIGHTS), True), (hostile.with_second_pickle(), False)):
        (tmp_path / "a").write_bytes(content)
        with (tmp_path / "a").open("rb") as file:
            if sound:
                assert unpickle._opened(file).keys() == WEIGHTS.keys()
            else:
                with pytest.raises(FileError, match="must be an archive of one torch.save"):
                    unpickle._opened(file)
