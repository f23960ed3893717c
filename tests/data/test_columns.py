from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dougong.core import files
from dougong.core.errors import FileError, UsageError
from dougong.data import raw
from dougong.data.columns import Record, Table, name_of, records, refuse, rows, text_of
from dougong.data.raw import Bad
from dougong.data.source import Tally
from tests.conftest import shared

GOOD = [{"label": "a", "text": "one, two"}, {"label": "b", "text": 'he said "三"'}, {"label": "a", "text": "x"}]


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(
    path: Path, wanted: Sequence[str] = ("text", "label"), allowed: int | None = None, **table: Any
) -> tuple[list[dict[str, Any]], Tally]:
    tally = Tally(allowed)
    return [record.values for record in records([path], wanted, Table(**table), tally)], tally


def lines(tally: Tally) -> list[int]:
    return [int(where.rsplit(" ", 1)[1]) for where, _ in tally.quarantined]


def stored(path: Path) -> Path:
    """Writes the good records in the form that the name tells."""
    kind = path.name.removesuffix(".gz").removesuffix(".zst").rsplit(".", 1)[1]
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(GOOD), path, row_group_size=2)
        return path
    text = {
        "tsv": "label\ttext\n" + "".join(f"{each['label']}\t{each['text']}\n" for each in GOOD),
        "csv": 'text,label\r\n"one, two",a\r\n"he said ""三""",b\r\nx,a\r\n',
        "jsonl": "\n\n".join(json.dumps(each) for each in GOOD),
        "json": json.dumps(GOOD, ensure_ascii=False),
    }[kind]
    pack: Any = {".gz": gzip.compress, ".zst": None}.get(path.suffix, bytes)
    return written(path, (pack or pytest.importorskip("zstandard").compress)(text.encode()))


@pytest.mark.parametrize(
    "ending", ["tsv", "csv", "jsonl", "json", "parquet", "tsv.gz", "csv.zst", "jsonl.gz", "json.gz"]
)
def test_every_form_gives_the_same_records(tmp_path: Path, ending: str) -> None:
    found, tally = read(stored(tmp_path / f"a.{ending}"))
    assert found == GOOD
    assert (tally.read, tally.used) == (3, 3)
    assert read(tmp_path / f"a.{ending}", ["text"])[0] == [{"text": each["text"]} for each in GOOD]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_records_are_read_in_any_encoding(tmp_path: Path, encoding: str, name: str) -> None:
    sign = {"a.csv": ",", "a.tsv": "\t"}.get(name)
    text = f"text{sign}label\r\nné{sign}b\r\n" if sign else '{"text": "né", "label": "b"}\r\n'
    path = written(tmp_path / name, text.encode(encoding))
    given = None if encoding == "utf-8-sig" else encoding
    assert read(path, encoding=given)[0] == [{"text": "né", "label": "b"}]


def test_quoted_line_ends_are_in_the_field_and_the_number_is_that_of_the_first_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'text,label\n"one\ntwo",a\nthree,b\nfour\n')
    found, tally = read(path)
    assert [each["text"] for each in found] == ["one\ntwo", "three"]
    assert lines(tally) == [5]


def test_quotes_in_tabbed_text_are_letters(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", 'label\ttext\npor\t"Infelizmente", afirmou\neng\tso "it\n')
    assert [each["text"] for each in read(path)[0]] == ['"Infelizmente", afirmou', 'so "it']


@pytest.mark.parametrize(("name", "sign"), [("a.csv", ","), ("a.tsv", "\t")])
def test_columns_are_named_where_the_file_has_no_header(tmp_path: Path, name: str, sign: str) -> None:
    path = written(tmp_path / name, f"a{sign}one\n\nb{sign}two\n")
    assert [each["text"] for each in read(path, columns=["label", "text"])[0]] == ["one", "two"]
    headed = written(tmp_path / name, f"label{sign}text\na{sign}one\n")
    found, tally = read(headed, columns=["label", "text"])
    assert ([each["text"] for each in found], lines(tally)) == (["one"], [1])
    with pytest.raises(FileError, match="must have the column 'text', but has 'a', 'one'"):
        read(written(tmp_path / name, f"a{sign}one\n"))


def test_names_of_columns_have_no_effect_where_records_have_their_own(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"columns is for tables without a header, but .*a\.jsonl has names of its own"
    ):
        read(stored(tmp_path / "a.jsonl"), columns=["text", "label"])


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_absent_column_is_told_with_the_nearest(tmp_path: Path, ending: str) -> None:
    path = stored(tmp_path / f"a.{ending}")
    with pytest.raises(FileError, match=r"must have the column 'texts', but has .*\. Did you mean text\?"):
        read(path, ["texts"])
    with pytest.raises(FileError, match=r"must have the column 'zz', but has .*\. Name one of these\."):
        read(path, ["zz"])


def test_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,text,label\na,b,c\n")
    with pytest.raises(FileError, match="must have the column 'text' once, but has it twice"):
        read(path)
    assert read(path, ["label"])[0] == [{"label": "c"}]


BAD_ROWS = {
    "must have 2 fields, but has 1": b"only",
    "must have 2 fields, but has 3": b"a,b,c",
    "repeats the header": b"text,label",
    "must be in the file's encoding": b"\xff,a",
    "must not hold NUL": b"a\0b,a",
}


@pytest.mark.parametrize("reason", BAD_ROWS)
@pytest.mark.parametrize(("name", "sign"), [("a.csv", b","), ("a.tsv", b"\t")])
def test_bad_row_is_left_aside_with_its_reason(tmp_path: Path, name: str, sign: bytes, reason: str) -> None:
    raw_lines = b"text,label\none,a\n" + BAD_ROWS[reason] + b"\ntwo,b"
    path = written(tmp_path / name, raw_lines.replace(b",", sign))
    found, tally = read(path, allowed=1)
    assert ([each["text"] for each in found], tally.read, tally.used) == (["one", "two"], 3, 2)
    [(where, said)] = tally.quarantined
    assert where == f"{path}, line 3"
    assert reason in said
    with pytest.raises(FileError, match=r"line 3: .*set max_bad_samples to leave such aside"):
        read(path, allowed=0)


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_bad_records_of_json_are_left_aside(tmp_path: Path, ending: str) -> None:
    made: list[Any] = [GOOD[0], {"text": "b"}, ["text"], {"label": "a", "text": ["\ud800"]}, GOOD[1]]
    if ending == "json":
        made[3] = 3
    whole = "\n".join(map(json.dumps, made)) if ending == "jsonl" else json.dumps(made)
    found, tally = read(written(tmp_path / f"a.{ending}", whole))
    assert (found, lines(tally)) == (GOOD[:2], [2, 3, 4])
    said = ["must have the field 'label', but has only 'text'", "is of type list", "half of a pair"]
    for (_, reason), expected in zip(tally.quarantined[: 3 if ending == "jsonl" else 2], said, strict=False):
        assert expected in reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "a"}', "must be a JSON array of objects, but is an object"),
        (b"3", "must be a JSON array of objects, but is of type int"),
        (b'[{"text": "a"', "must be JSON, but is broken"),
        (b'[{"text": NaN}]', "must be JSON, but is broken: NaN"),
        (b'[{"text": "\\ud800"}]', "half a surrogate pair"),
        (b"\xff", "text must be UTF-8, but byte 0xFF"),
        (b"", "must be JSON, but is broken"),
    ],
)
def test_json_that_is_no_array_of_objects_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(FileError) as error:
        read(written(tmp_path / "a.json", content), ["text"])
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "a.json"))


def test_long_json_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path / "a.json")
    monkeypatch.setattr(files, "JSON_BYTES", 20)
    with pytest.raises(FileError, match=r"must have at most 20 characters, but is longer\. Make it JSON lines\."):
        read(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv"])
def test_line_longer_than_the_limit_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text = {"a.jsonl": '{"text": "%s"}\n' * 3, "a.csv": "text\n" + "%s\n" * 3, "a.tsv": "text\n" + "%s\n" * 3}[name]
    path = written(tmp_path / name, text % ("a", "x" * 3_000_000, "b"))
    assert len(read(path, ["text"])[0]) == 3
    monkeypatch.setattr(raw, "LINE", 2_000_000)
    found, tally = read(path, ["text"])
    assert [each["text"] for each in found] == ["a", "b"]
    [(_, reason)] = tally.quarantined
    assert "must have at most 2,000,000 bytes, but this is longer" in reason


def test_too_long_line_of_a_table_is_called_so_rather_than_one_of_too_few_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "LINE", 2_000_000)
    path = written(tmp_path / "a.tsv", "text\tlabel\na\tb\n" + "x" * 3_000_000 + "\tb\n")
    found, tally = read(path)
    assert (found, lines(tally)) == ([{"text": "a", "label": "b"}], [3])
    assert "a line must have at most 2,000,000 bytes" in tally.quarantined[0][1]


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [("iso2022_jp", b"a\x1b$Z b"), ("hz", b"a~x b"), ("shift_jis", b"a\x81\x30"), ("utf-8", b"\xff")],
)
@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_row_that_its_encoding_cannot_have_is_bad_in_every_encoding(
    tmp_path: Path, encoding: str, bad: bytes, kind: str
) -> None:
    comma = b"\t" if kind == "tsv" else b","
    path = written(tmp_path / f"a.{kind}", b"\n".join(comma.join([text, b"c"]) for text in (b"a", bad, b"b")))
    found, tally = read(path, columns=["text", "label"], encoding=encoding)
    assert ([each["text"] for each in found], lines(tally)) == (["a", "b"], [2])
    assert tally.quarantined[0][1].startswith("the column 'text' must be in the file's encoding, but is not")


def test_file_without_records_gives_none_and_other_kinds_are_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        assert read(written(tmp_path / name, ""))[0] == []
    with pytest.raises(UsageError, match=r"a\.txt must be a \.csv, \.tsv, \.jsonl, \.json or \.parquet file by its"):
        read(written(tmp_path / "a.txt", "x"))
    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path / "none.tsv")


def test_header_that_is_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="must begin with the names of its columns, but does not: a row must be valid"):
        read(written(tmp_path / "a.csv", '"text,label\n'))


def test_record_that_turns_out_bad_is_given_back(tmp_path: Path) -> None:
    tally = Tally(1)
    found = list(records([stored(tmp_path / "a.jsonl")], ["text"], Table(), tally))
    assert tally.used == 3
    refuse(found[1], "a reason", tally)
    assert (tally.read, tally.used, tally.quarantined) == (3, 2, [(f"{tmp_path / 'a.jsonl'}, line 3", "a reason")])
    with pytest.raises(FileError, match="line 1: a reason. That is bad sample 2, and max_bad_samples is 1"):
        refuse(found[0], "a reason", tally)


def test_names_of_classes_are_texts_numbers_and_truth_values() -> None:
    assert [name_of(value, "label") for value in (" a ", 3, True)] == ["a", "3", "true"]
    for value, said in (("", "is empty"), (None, "is null"), (1.5, "is float"), ("\ud800", "half of a pair")):
        bad = name_of(value, "label")
        assert isinstance(bad, Bad)
        assert said in str(bad)
    assert isinstance(text_of({}, "text"), Bad)


def test_real_malformed_table_gives_twenty_clean_rows_and_names_the_others() -> None:
    found, tally = read(shared("data/dirty/table_malformed.csv"), ["status", "credit"])
    assert lines(tally) == [12, 13, 18, 30]
    clean = [each for each in found if each["credit"] in ("1", "2")]
    assert len(found) == 23
    assert [each["credit"] for each in found if each not in clean] == ["", "3"]
    assert len(clean) == 21  # 20, and the one that has "n/a" in another column


def test_real_malformed_lines_give_their_clean_records() -> None:
    found, tally = read(shared("data/dirty/jsonl_malformed.jsonl"), ["task_id", "prompt", "test"])
    assert lines(tally) == [3, 4, 5, 8, 9, 11, 12, 13]
    assert len(found) == 7  # 1, 2, 6, 16, 10 (a name that is there), 14 (test is null), 15 (an empty prompt)
    assert [each["test"] is None for each in found].count(True) == 1


def test_real_tabbed_texts_are_read_whole() -> None:
    path = shared("data/classification/langid/train.tsv")
    found, tally = read(path)
    assert (len(found), tally.quarantined) == (5000, [])
    assert len({each["label"] for each in found}) == 20
    split = sum('"' in each["text"] for each in found)
    assert split > 100  # which a reader that minds quotes would take for others


def test_columns_that_are_not_wanted_may_be_bad(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"text,label\none,\xff\n")
    assert read(path, ["text"])[0] == [{"text": "one"}]
    assert lines(read(path)[1]) == [2]


def test_rows_are_numbered_in_every_form(tmp_path: Path) -> None:
    numbers = {
        kind: [number for number, _ in rows(stored(tmp_path / f"a.{kind}"), ["text"], Table())] for kind in NUMBERS
    }
    assert numbers == NUMBERS


NUMBERS = {"csv": [2, 3, 4], "tsv": [2, 3, 4], "jsonl": [1, 3, 5], "json": [1, 2, 3], "parquet": [1, 2, 3]}


def test_without_the_count_a_bad_row_would_be_lost_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.tsv", "text\tlabel\none\ta\nbad\n")
    with pytest.raises(FileError, match="line 3"):
        read(path, allowed=0)
    monkeypatch.setattr(Tally, "quarantine", lambda self, where, reason: None)
    found, tally = read(path, allowed=0)
    assert (len(found), tally.read) == (1, 1)


def test_record_says_where_it_stands(tmp_path: Path) -> None:
    [first, *_] = records([stored(tmp_path / "a.json")], ["text"], Table(), Tally())
    assert first == Record(f"{tmp_path / 'a.json'}, record 1", {"text": "one, two"})
