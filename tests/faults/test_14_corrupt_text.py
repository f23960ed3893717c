"""Row 14: a corrupt sample: broken, cut off, of another encoding or form, empty. Promise: the run stops with exit 3 and
names file, line and reason; or, with `max_bad_samples`, leaves such samples aside, writes down which, and counts: read
equals used and quarantined together, and what is used is what would be used without them.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.core import log
from dougong.core.config import validate
from dougong.core.errors import FileError
from dougong.data.datasets.text import TextConfig, TextData
from dougong.data.source import Tally
from tests.conftest import shared
from tests.tiny import write_recipe

GOOD = [f"good record {number} with some text in it" for number in range(60)]
BAD = {
    "broken": b'{"text": "cut in the mid',
    "is not JSON": b'{"text": "a", "score": NaN}',
    "is of type list": b'["a"]',
    "must have the field 'text'": b'{"body": "a"}',
    "is null": b'{"text": null}',
    "byte 0xFF": b'{"text": "\xff"}',
    "half of a pair": rb'{"text": "\udc00"}',
    "nested too deep": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


def corpus(folder: Path) -> Path:
    """Writes good records with one bad one of each kind between them; every sixth line is bad."""
    lines = [json.dumps({"text": text}).encode() for text in GOOD]
    for place, line in enumerate(BAD.values()):
        lines.insert(6 * place + 5, line)
    path = folder / "corpus.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def prepared(path: Path, allowed: int, field: str = "text", *more: Path) -> TextData:
    paths = [str(file) for file in (path, *more)]
    source = {"name": "files", "paths": paths, "max_bad_samples": allowed, "field": field}
    validation = {"fraction": 0.2, "by": "document" if field == "text" else "position"}
    values = {"sources": [source], "tokenizer": {"name": "bytes"}, "validation": validation, "seq_len": 8}
    with log.listening(lambda line: None):
        return validate(TextConfig, values).prepare(path.parent / "cache")


def test_default_is_to_stop_and_name_shard_line_and_reason(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    with pytest.raises(FileError) as error:
        prepared(path, allowed=0)
    assert error.value.exit_code == 3
    assert str(error.value).startswith(f"{path}, line 6: a line must be one JSON object, but is broken: Unterminated")
    assert not list((tmp_path / "cache").glob("shards-*[!k]"))


def test_the_command_line_ends_with_code_3_and_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))
    source = {"name": "files", "paths": [str(corpus(tmp_path))]}
    recipe = write_recipe(tmp_path, data={"sources": [source], "validation": {"by": "document", "fraction": 0.2}})
    assert run_guarded(app, ["train", str(recipe), "--run", str(tmp_path / "run")]) == 3
    told = capsys.readouterr()
    [sentence] = [line for line in told.err.splitlines() if "error[" in line]
    assert sentence.startswith(f"dougong: error[E-FILE]: {tmp_path / 'corpus.jsonl'}, line 6: a line must be one JSON")
    assert (told.out, "Traceback" in told.err, (tmp_path / "run").exists()) == ("", False, False)


def test_samples_left_aside_are_counted_named_and_written_down(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    data = prepared(path, allowed=len(BAD))
    [count] = data.counts
    assert count["read"] == count["used"] + count["quarantined"] == len(GOOD) + len(BAD)
    assert count["used"] == count["train"]["documents"] + count["validation"]["documents"] == len(GOOD)
    [written] = (tmp_path / "cache").glob("shards-*/quarantine.jsonl")
    for number, (line, reason) in enumerate(zip(written.read_text().splitlines(), BAD, strict=True)):
        named = json.loads(line)
        assert named["where"] == f"{path}, line {6 * number + 6}"
        assert reason in named["reason"]


def test_what_is_used_is_what_would_be_used_without_the_bad(tmp_path: Path) -> None:
    bad = prepared(corpus(tmp_path), allowed=len(BAD))
    clean = tmp_path / "clean.jsonl"
    clean.write_text("\n".join(json.dumps({"text": text}) for text in GOOD))
    good = prepared(clean, allowed=0)
    assert bad.validation.fingerprint == good.validation.fingerprint
    assert bad.train[0][0].fingerprint == good.train[0][0].fingerprint


@pytest.mark.parametrize("allowed", [1, 5, len(BAD) - 1])
def test_one_bad_sample_more_than_allowed_stops(tmp_path: Path, allowed: int) -> None:
    with pytest.raises(
        FileError, match=rf"line \d+: .*bad sample {allowed + 1}, and max_bad_samples is {allowed}\."
    ) as error:
        prepared(corpus(tmp_path), allowed=allowed)
    assert error.value.exit_code == 3


def test_without_the_count_a_bad_sample_would_be_lost_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tally, "quarantine", lambda self, where, reason: None)
    [count] = prepared(corpus(tmp_path), allowed=0).counts
    assert count["read"] == len(GOOD) < len(GOOD) + len(BAD)


def test_result_of_a_lenient_run_is_not_served_to_a_strict_one(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    prepared(path, allowed=len(BAD))
    with pytest.raises(FileError, match="line 6"):
        prepared(path, allowed=0)


def test_half_written_shard_stops_whatever_is_allowed(tmp_path: Path) -> None:
    packed = gzip.compress("\n".join(json.dumps({"text": text}) for text in GOOD).encode())
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(packed)
    assert prepared(path, allowed=0).counts[0]["used"] == len(GOOD)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(FileError, match=r"corpus\.jsonl\.gz must be a whole compressed file, but ends in the middle"):
        prepared(path, allowed=1000)


def test_real_malformed_records_reconcile(tmp_path: Path) -> None:
    path = tmp_path / "jsonl_malformed.jsonl"
    path.write_bytes(shared("data/dirty/jsonl_malformed.jsonl").read_bytes())
    with pytest.raises(FileError, match=r"jsonl_malformed\.jsonl, line 3: "):
        prepared(path, allowed=0, field="prompt")
    [count] = prepared(path, allowed=8, field="prompt").counts
    assert (count["read"], count["used"], count["quarantined"], count["left_out"]) == (14, 6, 8, {"empty": 1})


def test_real_malformed_table_reconciles(tmp_path: Path) -> None:
    path = tmp_path / "table_malformed.csv"
    path.write_bytes(shared("data/dirty/table_malformed.csv").read_bytes())
    with pytest.raises(FileError, match=r"table_malformed\.csv, line 12: a row must have 21 fields, but has 20"):
        prepared(path, allowed=0, field="purpose")
    [count] = prepared(path, allowed=4, field="purpose").counts
    assert (count["read"], count["used"], count["quarantined"]) == (27, 23, 4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text_invalid_utf8.txt", "text must be UTF-8, but byte 0xFF at offset 5,000 is not"),
        (
            "text_latin1.txt",
            "text must be UTF-8, but byte 0xF3 at offset 47 is not; if it has another encoding, set enc",
        ),
        ("text_nul_and_long_line.txt", "text must not hold NUL, but character 977 is"),
    ],
)
def test_real_texts_that_are_none_are_left_aside_or_stop(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(shared(f"data/dirty/{name}").read_bytes())
    (tmp_path / "sound.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in GOOD))
    with pytest.raises(FileError) as error:
        prepared(tmp_path / name, 0, "text", tmp_path / "sound.jsonl")
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path / name))
    [count] = prepared(tmp_path / name, 1, "text", tmp_path / "sound.jsonl").counts
    assert (count["read"], count["used"], count["quarantined"]) == (61, 60, 1)
