"""Row 25: malformed files: safetensors with lying lengths, overlaps, holes, names given twice, shapes of 10^18, endless
headers; tokenizers and settings of garbage, nested without end. Promise: exit 3 within a second, in bounded memory;
thousands of random changes to small files lead to no crash, no hang and no traceback.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dougong.checkpoint.weights import load_model
from dougong.core import files, strict
from dougong.core.errors import DougongError, FileError
from dougong.data.tokenizer import Tokenizer
from tests.faults import hostile


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Returns a file with this header (JSON values, or a text), which says that it has `length` bytes."""
    raw = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(start: int, stop: int, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


ONE = '"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}'
TWICE = '{"a": {"dtype": "U8", "dtype": "I8", "shape": [8], "data_offsets": [0, 8]}}'
LARGE = '{"a": {"dtype": "U8", "shape": [1' + "0" * 400 + '], "data_offsets": [0, 8]}}'
TENSORS: dict[str, bytes] = {
    "empty": b"",
    "no header": b"1234567",
    "header longer than the file": safetensors({}, length=100),
    "header of 2^63 bytes": safetensors({}, length=2**63),
    "header of 2^64 - 1 bytes": safetensors({}, length=2**64 - 1),
    "header of 100 MB": safetensors({}, length=100_000_001),
    "header cut off": safetensors({"a": tensor(0, 8)}, bytes(8), length=20),
    "header of words": safetensors("hello"),
    "header a list": safetensors([1, 2]),
    "header a number": safetensors("7"),
    "header not UTF-8": struct.pack("<Q", 2) + b"\xff\xfe",
    "header nested": safetensors("[" * 5000 + "]" * 5000),
    "header nested inside": safetensors('{"a": ' + '{"b": ' * 5000 + "1" + "}" * 5001),
    "entry nested": safetensors('{"__metadata__": {"a": ' + "[" * 1000 + "]" * 1000 + "}}"),
    "entry a word": safetensors({"a": "b"}),
    "no offsets": safetensors({"a": {"dtype": "U8", "shape": [8]}}, bytes(8)),
    "data cut off": safetensors({"a": tensor(0, 8)}, bytes(7)),
    "data too long": safetensors({"a": tensor(0, 8)}, bytes(9)),
    "offsets outside": safetensors({"a": tensor(0, 1 << 40)}, bytes(8)),
    "offsets backwards": safetensors({"a": tensor(8, 0, [8])}, bytes(8)),
    "offsets negative": safetensors({"a": tensor(-8, 0, [8])}, bytes(8)),
    "offsets of words": safetensors({"a": {"dtype": "U8", "shape": [8], "data_offsets": ["0", "8"]}}, bytes(8)),
    "overlap": safetensors({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
    "the same place": safetensors({"a": tensor(0, 8), "b": tensor(0, 8)}, bytes(8)),
    "hole": safetensors({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)),
    "hole at the start": safetensors({"a": tensor(4, 8)}, bytes(8)),
    "name given twice": safetensors(f"{{{ONE}, {ONE}}}", bytes(8)),
    "key given twice": safetensors(TWICE, bytes(8)),
    "shape of another size": safetensors({"a": tensor(0, 8, [9])}, bytes(8)),
    "shape of 10^18": safetensors({"a": tensor(0, 8, [10**9, 10**9])}, bytes(8)),
    "shape that overflows": safetensors({"a": tensor(0, 8, [2**32, 2**32, 8])}, bytes(8)),
    "shape that overflows to zero": safetensors({"a": tensor(0, 0, [2**63, 2])}),
    "shape negative": safetensors({"a": tensor(0, 8, [-8])}, bytes(8)),
    "shape of fractions": safetensors({"a": tensor(0, 8, [8.5])}, bytes(8)),
    "shape of 10^400": safetensors(LARGE, bytes(8)),
    "type unknown": safetensors({"a": tensor(0, 8, dtype="X8")}, bytes(8)),
    "type a number": safetensors({"a": tensor(0, 8, dtype=3)}, bytes(8)),
    "metadata of numbers": safetensors({"__metadata__": {"a": 1}, "a": tensor(0, 8)}, bytes(8)),
    "not a number": safetensors('{"a": {"dtype": "U8", "shape": [NaN], "data_offsets": [0, 8]}}', bytes(8)),
}  # fmt: skip

DEEP = "[" * 100_000 + "]" * 100_000
SETTINGS: dict[str, str | bytes] = {
    "empty": "",
    "word": "hello",
    "number": "7",
    "list": "[]",
    "deep": DEEP,
    "deep inside": '{"a": ' * 50_000 + "1" + "}" * 50_000,
    "key given twice": '{"model_type": "gpt2", "model_type": "llama"}',
    "not a number": '{"model_type": "gpt2", "n_embd": NaN}',
    "infinite": '{"model_type": "gpt2", "n_embd": 1e999}',
    "endless number": '{"model_type": "gpt2", "n_embd": ' + "9" * 100_000 + "}",
    "not UTF-8": b'{"model_type": "\xff"}',
    "half a pair": '{"model_type": "\\ud800"}',
    "NUL": b"\0" * 1000,
}

TOKENIZERS: dict[str, str | bytes] = {
    **{name: text for name, text in SETTINGS.items()},
    "no model": '{"version": "1.0"}',
    "model of words": '{"version": "1.0", "model": "BPE"}',
    "unknown model": '{"version": "1.0", "model": {"type": "Pickle", "vocab": {}}}',
    "merges of nothing": '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}}',
    "ids beyond reason": '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}}',
    "ids negative": '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
}


def refused(read: Callable[[Path], Any], path: Path) -> None:
    """Sees that a file is refused with exit 3, in a sentence, within a second of computing."""
    begin = time.process_time()
    with pytest.raises(FileError) as caught:
        read(path)
    assert time.process_time() - begin < 1.0
    assert caught.value.exit_code == 3
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("name", TENSORS)
def test_malformed_tensors_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(TENSORS[name])
    refused(files.read_tensors, tmp_path / "a.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.sound_model(tmp_path_factory.mktemp("sound") / "model")


@pytest.mark.parametrize("name", ["overlap", "hole", "name given twice", "shape of 10^18", "header of 2^63 bytes"])
def test_a_model_of_malformed_tensors_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    folder = hostile.copied(model, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(TENSORS[name])
    refused(load_model, folder)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_malformed_settings_are_refused(file: str, name: str, model: Path, tmp_path: Path) -> None:
    folder = hostile.copied(model, tmp_path / "model")
    if file != "config.json":
        (folder / "model.safetensors").unlink()
    text = SETTINGS[name]
    (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(load_model, folder)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_malformed_tokenizers_are_refused(name: str, model: Path, tmp_path: Path) -> None:
    folder = hostile.copied(model, tmp_path / "model")
    text = TOKENIZERS[name]
    (folder / "tokenizer.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(Tokenizer.from_folder, folder)


def test_a_header_without_end_takes_no_more_memory_than_the_file(tmp_path: Path) -> None:
    """A file of 1 TB (of zeros that the disk does not hold) whose header would be all of it is not read."""
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 2**40 - 8))
        file.truncate(2**40)
    refused(files.read_tensors, tmp_path / "a.safetensors")
    refused(files.read_json, tmp_path / "a.safetensors")


FUZZ = """
import json, random, shutil, sys, time
from pathlib import Path
from dougong.checkpoint import seal
from dougong.checkpoint.weights import load_model
from dougong.core import files
from dougong.core.errors import DougongError
from dougong.core.isolation import limit_memory
from dougong.core.config import validate
from dougong.data.shards import Shards
from dougong.data.tokenizer import Tokenizer
folder, seconds, seed = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
WORDS = [b"0", b"-1", b"1e999", b"NaN", b"null", b"[", b"{", b'"', b",",
        b"\\\\ud800", b"\\xff", b"\\0", b"99999999999", b"true", b"[]", b"{}"]
def read(path):
    if path.name.startswith("tokenizer"):
        tokenizer = Tokenizer.from_folder(path.parent)
        tokenizer.decode(tokenizer.encode("a b"))
    elif path.parent.name == "tensors":
        files.read_tensors(path)
    elif path.parent.name == "sealed":
        seal.verify(path.parent)
    else:
        load_model(path.parent)
def changed(raw, dice):
    raw = bytearray(raw)
    for _ in range(dice.choice((1, 1, 2, 5, 20))):
        place = dice.randrange(len(raw) + 1) if dice.random() < 0.5 else dice.randrange(min(len(raw), 300) + 1)
        kind = dice.randrange(6)
        if kind == 0 and place < len(raw):
            raw[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            raw[place:place] = dice.choice(WORDS)
        elif kind == 2:
            del raw[place : place + dice.choice((1, 1, 4, 100))]
        elif kind == 3:
            raw[place : place + 1] = dice.choice(WORDS)
        elif kind == 4:
            raw[place:place] = raw[place : place + dice.choice((4, 40))]
        elif dice.random() < 0.1:
            del raw[place:]
    return bytes(raw)
sound = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
for path in sound:
    read(path)
limit_memory(1_000_000_000)
dice, until, counts, slowest = random.Random(seed), time.monotonic() + seconds, [0, 0], 0.0
while time.monotonic() < until:
    path = dice.choice(sorted(sound))
    path.write_bytes(changed(sound[path], dice))
    begin = time.process_time()
    try:
        read(path)
        counts[0] += 1
    except DougongError as error:
        assert error.exit_code in (2, 3), (path, error)
        counts[1] += 1
    except BaseException as error:
        shutil.copy(path, folder.parent / "guilty")
        raise
    took = time.process_time() - begin
    if took > slowest:
        slowest = took
        shutil.copy(path, folder.parent / "slowest")
    path.write_bytes(sound[path])
print(json.dumps([*counts, slowest]))
"""


@pytest.fixture
def corpus(model: Path, tmp_path: Path) -> Path:
    """Small sound files of each kind."""
    folder = tmp_path / "corpus"
    hostile.copied(model, folder / "model")
    (folder / "tensors").mkdir()
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(0), "c": torch.tensor(True), "d": torch.ones(3).bfloat16()}
    save_file(tensors, folder / "tensors/a.safetensors", metadata={"format": "pt"})
    (folder / "sealed").mkdir()
    (folder / "sealed/state.json").write_text('{"step": 3}')
    save_file({"a": torch.ones(3)}, folder / "sealed/model.safetensors")
    from dougong.checkpoint import seal

    seal.seal(folder / "sealed")
    return folder


def fuzzed(corpus: Path, seconds: float, seed: int = 0) -> list[float]:
    words = [sys.executable, "-c", FUZZ, str(corpus), str(seconds), str(seed)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + 90)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_random_changes_are_read_or_refused(corpus: Path) -> None:
    read, turned_away, slowest = fuzzed(corpus, 10)
    assert turned_away > read > 10
    assert read + turned_away > 300
    assert slowest < 1.0


# Without the protection


def test_without_the_look_at_the_header_a_name_given_twice_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.safetensors").write_bytes(TENSORS["name given twice"])
    refused(files.read_tensors, tmp_path / "a.safetensors")
    monkeypatch.setattr(files, "_check_header", lambda path: None)
    assert list(files.read_tensors(tmp_path / "a.safetensors")) == ["a"]


def test_without_strictness_settings_say_two_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text(str(SETTINGS["key given twice"]))
    with pytest.raises(DougongError, match="given twice"):
        files.read_json(tmp_path / "a.json")
    monkeypatch.setattr(strict, "_unique", dict)
    assert files.read_json(tmp_path / "a.json") == {"model_type": "llama"}


def test_without_care_random_changes_end_the_process(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    careless = FUZZ.replace("files.read_tensors(path)", "__import__('safetensors.torch').torch.load_file(path)")
    assert careless != FUZZ
    monkeypatch.setitem(globals(), "FUZZ", careless)
    with pytest.raises(AssertionError, match="SafetensorError"):
        fuzzed(corpus, 10)
