"""Row 14: a corrupt row of a table of texts: of too few or too many fields, without or of an unknown class, broken,
cut off, of another encoding. Promise: the run stops with exit 3 and names file, line and reason; or, with
`max_bad_samples`, leaves such rows aside, writes down which, and counts: read equals used and quarantined together, and
what is used is what would be used without them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.core import log
from dougong.core.config import validate
from dougong.core.errors import FileError
from dougong.data.datasets.text_table import TextTableConfig
from dougong.data.datasets.text_table.prepared import TextTableData
from dougong.data.source import Tally
from tests.conftest import shared
from tests.tiny import write_recipe

GOOD = [(("praise", "blame")[number % 2], f"sentence {number}, of some words") for number in range(60)]
BAD: dict[str, dict[str, tuple[bytes, str]]] = {
    "csv": {
        "short": (b'"praise"', "must have 2 fields, but has 1"),
        "long": (b"praise,a,b", "must have 2 fields, but has 3"),
        "header": (b"label,text", "repeats the header"),
        "no class": (b",a", "the field 'label' must be given, but is empty"),
        "unknown class": (b"odd,a", "a class must be known, but 'odd' is not"),
        "encoding": (b"praise,\xff", "must be in the file's encoding, but is not; set encoding"),
        "nul": (b"praise,a\0b", "must not hold NUL"),
        "quote": (b'praise,"a"b', "must be valid CSV, but is not"),
    },
    "tsv": {
        "short": (b"praise", "must have 2 fields, but has 1"),
        "long": (b"praise\ta\tb", "must have 2 fields, but has 3"),
        "no class": (b"\ta", "the field 'label' must be given, but is empty"),
        "unknown class": (b"odd\ta", "a class must be known, but 'odd' is not"),
        "encoding": (b"praise\t\xff", "must be in the file's encoding, but is not; set encoding"),
    },
    "jsonl": {
        "broken": (b'{"text": "cut in the mid', "must be one JSON object, but is broken"),
        "list": (b'["a"]', "is of type list"),
        "field": (b'{"text": "a"}', "must have the field 'label', but has only 'text'"),
        "null": (b'{"text": null, "label": "praise"}', "the field 'text' must be text, but is null"),
        "number": (b'{"text": "a", "label": 1.5}', "the field 'label' must be text, but is float"),
        "surrogate": (rb'{"text": "\udc00", "label": "praise"}', "half of a pair"),
        "nan": (b'{"text": "a", "label": NaN}', "NaN is not JSON"),
    },
}


def table(path: Path, kind: str, bad: bool) -> Path:
    """Writes good rows, with one bad one of each kind between them: every sixth is bad."""
    make: Callable[[str, str], str] = {
        "csv": lambda label, text: f'{label},"{text}"',
        "tsv": lambda label, text: f"{label}\t{text}",
        "jsonl": lambda label, text: json.dumps({"label": label, "text": text}),
    }[kind]
    rows = [make(*row).encode() for row in GOOD]
    for place, (line, _) in enumerate(BAD[kind].values() if bad else ()):
        rows.insert(6 * place + 5, line)
    header = {"csv": [b"label,text"], "tsv": [b"label\ttext"], "jsonl": []}[kind]
    path.write_bytes(b"\n".join([*header, *rows]) + b"\n")
    return path


def prepared(path: Path, allowed: int, **options: Any) -> TextTableData:
    values = {
        "paths": [str(path)],
        "labels": ["praise", "blame"],
        "tokenizer": {"name": "bytes"},
        "seq_len": 32,
        "max_bad_samples": allowed,
        **options,
    }
    with log.listening(lambda line: None):
        return validate(TextTableConfig, values).prepare(path.parent / "cache")


@pytest.mark.parametrize("kind", BAD)
def test_default_is_to_stop_and_name_file_line_and_reason(tmp_path: Path, kind: str) -> None:
    path = table(tmp_path / f"a.{kind}", kind, bad=True)
    with pytest.raises(FileError) as error:
        prepared(path, allowed=0)
    assert error.value.exit_code == 3
    reasons = [reason for _, reason in BAD[kind].values()]
    assert str(error.value).startswith(f"{path}, line ")
    assert any(reason in str(error.value) for reason in reasons)


@pytest.mark.parametrize("kind", BAD)
def test_rows_left_aside_are_counted_named_and_written_down(tmp_path: Path, kind: str) -> None:
    path = table(tmp_path / f"a.{kind}", kind, bad=True)
    data = prepared(path, allowed=len(BAD[kind]))
    [count] = data.counts
    assert count["read"] == count["used"] + count["quarantined"] == len(GOOD) + len(BAD[kind])
    assert count["used"] == count["train"]["examples"] + count["validation"]["examples"] == len(GOOD)
    [written] = (tmp_path / "cache").glob("text_table-*/quarantine.jsonl")
    found = {each["where"]: each["reason"] for each in map(json.loads, written.read_text().splitlines())}
    first = 6 + (kind != "jsonl")
    for number, (_, reason) in enumerate(BAD[kind].values()):
        assert reason in found[f"{path}, line {6 * number + first}"]
    assert len(found) == len(BAD[kind])


@pytest.mark.parametrize("kind", BAD)
def test_what_is_used_is_what_would_be_used_without_the_bad(tmp_path: Path, kind: str) -> None:
    bad = prepared(table(tmp_path / f"a.{kind}", kind, bad=True), allowed=len(BAD[kind]))
    assert bad.fingerprint == prepared(table(tmp_path / f"b.{kind}", kind, bad=False), allowed=0).fingerprint


@pytest.mark.parametrize("allowed", [1, len(BAD["csv"]) - 1])
def test_one_bad_row_more_than_allowed_stops(tmp_path: Path, allowed: int) -> None:
    path = table(tmp_path / "a.csv", "csv", bad=True)
    with pytest.raises(FileError, match=rf"That is bad sample {allowed + 1}, and max_bad_samples is {allowed}\."):
        prepared(path, allowed=allowed)


def test_without_the_count_a_bad_row_would_be_lost_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "a.tsv", "tsv", bad=True)
    monkeypatch.setattr(Tally, "quarantine", lambda self, where, reason: None)
    [count] = prepared(path, allowed=0).counts
    assert count["read"] == len(GOOD) < len(GOOD) + len(BAD["tsv"])


def test_half_written_table_stops_whatever_is_allowed(tmp_path: Path) -> None:
    packed = gzip.compress(table(tmp_path / "a.csv", "csv", bad=False).read_bytes())
    path = tmp_path / "a.csv.gz"
    path.write_bytes(packed)
    assert prepared(path, allowed=0).counts[0]["used"] == len(GOOD)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(FileError, match=r"a\.csv\.gz must be a whole compressed file, but ends in the middle"):
        prepared(path, allowed=1000)


def test_the_command_line_ends_with_code_3_and_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))
    path = table(tmp_path / "a.csv", "csv", bad=True)
    stages = [{"embed": 4}, "pool", "classify"]
    recipe = write_recipe(
        tmp_path,
        model={"name": "stack", "max_seq_len": 8, "stages": stages},
        task={"name": "text_classification"},
        data={"name": "text_table", "paths": [str(path)]},
    )
    assert run_guarded(app, ["train", str(recipe), "--run", str(tmp_path / "run")]) == 3
    told = capsys.readouterr()
    [sentence] = [line for line in told.err.splitlines() if "error[" in line]
    assert sentence.startswith(
        f"dougong: error[E-FILE]: {path}, line 7: a row must have 2 fields, but has 1. Repair it"
    )
    assert (told.out, "Traceback" in told.err, (tmp_path / "run").exists()) == ("", False, False)


def test_real_malformed_table_reconciles(tmp_path: Path) -> None:
    path = tmp_path / "table_malformed.csv"
    path.write_bytes(shared("data/dirty/table_malformed.csv").read_bytes())
    columns = {"text": "purpose", "label": "credit", "labels": ["1", "2"]}
    with pytest.raises(FileError, match=r"table_malformed\.csv, line 12: a row must have 21 fields, but has 20"):
        prepared(path, allowed=0, **columns)
    data = prepared(path, allowed=6, **columns, validation={"fraction": 0.5})
    [count] = data.counts
    assert (count["read"], count["used"], count["quarantined"]) == (27, 21, 6)
    [written] = (tmp_path / "cache").glob("text_table-*/quarantine.jsonl")
    lines = [int(json.loads(line)["where"].rsplit(" ", 1)[1]) for line in written.read_text().splitlines()]
    assert sorted(lines) == [12, 13, 15, 16, 18, 30]


def test_real_malformed_records_reconcile(tmp_path: Path) -> None:
    path = tmp_path / "jsonl_malformed.jsonl"
    path.write_bytes(shared("data/dirty/jsonl_malformed.jsonl").read_bytes())
    columns = {"text": "prompt", "label": "task_id", "labels": None, "validation_paths": [str(path)]}
    with pytest.raises(FileError, match=r"jsonl_malformed\.jsonl, line 3: "):
        prepared(path, allowed=0, **columns)
    [count] = prepared(path, allowed=16, **columns).counts  # it is read to train and to validate on
    assert (count["read"], count["used"], count["quarantined"], count["left_out"]) == (28, 12, 16, {"empty": 2})
