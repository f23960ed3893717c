from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dougong.core.errors import FileError, MissingExtra, UsageError
from dougong.data import raw, reading
from dougong.data.source import Tally
from tests.conftest import shared


def read(
    path: Path, field: str = "text", encoding: str | None = None, allowed: int | None = None
) -> tuple[list[str], Tally]:
    tally = Tally(allowed)
    return [d.text for d in reading.documents(path, reading.Reading(field, encoding), tally)], tally


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zst(content: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(content)


LINES = b'{"text": "one"}\n{"text": "zwei \\u00e4"}\n\n{"text": "\xe4\xb8\x89"}'


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_records_are_read_from_plain_and_compressed_lines(tmp_path: Path, ending: str) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zst}[ending]
    texts, tally = read(written(tmp_path / f"a.jsonl{ending}", pack(LINES)))
    assert texts == ["one", "zwei ä", "三"]
    assert (tally.read, tally.used) == (3, 3)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_members_one_after_the_other_are_one_file(tmp_path: Path, ending: str) -> None:
    pack = {".gz": gzip.compress, ".zst": zst}[ending]
    assert read(written(tmp_path / f"a.txt{ending}", pack(b"ab") + pack(b"cd")))[0] == ["abcd"]
    padded = written(tmp_path / "b.txt.gz", gzip.compress(b"ab") + bytes(512))
    assert read(padded)[0] == ["ab"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_half_written_file_is_refused(tmp_path: Path, ending: str, share: float) -> None:
    text = " ".join(str(number * number) for number in range(9000)).encode()
    packed = {".gz": gzip.compress, ".zst": zst}[ending](text)
    assert read(written(tmp_path / f"whole.txt{ending}", packed))[1].used == 1
    broken = written(tmp_path / f"half.txt{ending}", packed[: int(len(packed) * share)])
    with pytest.raises(FileError, match=rf"half\.txt{ending} must be a whole compressed file, but ends in the middle"):
        read(broken)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_damaged_compressed_file_is_refused(tmp_path: Path, ending: str) -> None:
    with pytest.raises(FileError, match="but is broken"):
        read(written(tmp_path / f"a.txt{ending}", b"this is no compressed file"))
    packed = bytearray(gzip.compress(b"some text"))
    packed[-6] ^= 1  # in the checksum
    with pytest.raises(FileError, match="incorrect data check"):
        read(written(tmp_path / "b.txt.gz", bytes(packed)))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("aé中".encode("utf-8-sig"), "aé中"),
        ("aé中".encode("utf-16"), "aé中"),
        (b"\xfe\xff" + "aé中".encode("utf-16-be"), "aé中"),
        ("aé中".encode("utf-32"), "aé中"),
        ("aé中".encode(), "aé中"),
    ],
)
def test_byte_order_mark_says_the_encoding(tmp_path: Path, raw: bytes, text: str) -> None:
    assert read(written(tmp_path / "a.txt", raw))[0] == [text]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_records_are_read_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    content = '{"text": "né"}\r\n{"text": "b"}\r\n'.encode(encoding)
    assert read(written(tmp_path / "a.jsonl", content), encoding=encoding)[0] == ["né", "b"]
    table = 'id,text\r\n1,"né ""x"", y"\r\n2,b\r\n'.encode(encoding)
    assert read(written(tmp_path / "a.csv", table), encoding=encoding)[0] == ['né "x", y', "b"]


def test_offset_of_the_first_bad_byte_is_named_across_chunks(tmp_path: Path) -> None:
    good = "é".encode() * 600_000  # the bad byte lies in the second chunk, after a character cut in two
    path = written(tmp_path / "a.txt", b"x" + good + b"\xff" + good)
    with pytest.raises(FileError, match=r"byte 0xFF at offset 1,200,001 is not; .* set encoding"):
        read(path, allowed=0)


def test_real_utf16_file_is_read_by_its_mark() -> None:
    texts, _ = read(shared("data/dirty/text_utf16le_bom_crlf.txt"))
    assert texts[0].startswith("CHAPTER") or "\r\n" in texts[0]
    assert "\0" not in texts[0]


def test_real_broken_texts_are_named_with_their_offset() -> None:
    with pytest.raises(FileError, match=r"text_invalid_utf8\.txt: .* byte 0xFF at offset 5,000 "):
        read(shared("data/dirty/text_invalid_utf8.txt"), allowed=0)
    with pytest.raises(FileError, match=r"text_latin1\.txt: .* offset 47 is not; .* set encoding \(cp1252"):
        read(shared("data/dirty/text_latin1.txt"), allowed=0)
    assert "\N{REPLACEMENT CHARACTER}" not in read(shared("data/dirty/text_latin1.txt"), encoding="cp1252")[0][0]
    with pytest.raises(FileError, match="must not hold NUL, but character 977 is"):
        read(shared("data/dirty/text_nul_and_long_line.txt"), allowed=0)


def test_long_line_comes_in_pieces_of_one_document(tmp_path: Path) -> None:
    line = shared("data/dirty/text_nul_and_long_line.txt").read_bytes().replace(b"\0", b"")
    found = list(reading.documents(written(tmp_path / "a.txt", line), reading.Reading(), Tally()))
    assert "".join(document.text for document in found) == line.decode()
    assert [document.piece for document in found] == list(range(len(found)))
    assert max(len(document.text) for document in found) <= reading.PIECE
    assert len(found) >= 4


def test_pieces_hold_the_same_characters_and_end_at_lines_or_words() -> None:
    lines = "".join(f"line {number} with words\n" for number in range(20_000))
    cut = list(reading.pieces([lines[:100_000], lines[100_000:]]))
    assert "".join(cut) == lines
    assert all(piece.endswith("\n") for piece in cut)
    words = "word " * 50_000
    cut = list(reading.pieces([words]))
    assert "".join(cut) == words
    assert all(piece.startswith(" ") for piece in cut[1:])
    assert [len(piece) for piece in reading.pieces(["x" * 200_000])] == [65536, 65536, 65536, 3392]


def test_real_malformed_lines_are_named_by_number() -> None:
    texts, tally = read(shared("data/dirty/jsonl_malformed.jsonl"), field="prompt")
    lines = [int(where.rsplit(" ", 1)[1]) for where, _ in tally.quarantined]
    assert lines == [3, 4, 5, 8, 9, 11, 12, 13]
    assert len(texts) == tally.used == 6  # 1, 2, 6, 16 are good, 10 repeats an id, 14 lacks another field
    assert tally.left_out == {"empty": 1}  # 15
    assert tally.read == tally.used + len(tally.quarantined)


def test_real_malformed_table_gives_its_clean_rows_and_names_the_others() -> None:
    texts, tally = read(shared("data/dirty/table_malformed.csv"), field="status")
    lines = [int(where.rsplit(" ", 1)[1]) for where, _ in tally.quarantined]
    assert lines == [12, 13, 18, 30]
    assert len(texts) == 23  # 20 clean ones, and 3 whose fault is in another column


BAD_LINES = {
    "nested too deep": b"[" * 100_000 + b"]" * 100_000,
    "nested too deep ": b'{"text": "a", "b": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "NaN is not JSON": b'{"text": "a", "b": NaN}',
    "is of type list": b'["text"]',
    "is of type str": b'"text"',
    "has only 'body'": b'{"body": "a"}',
    "but is null": b'{"text": null}',
    "but is int": b'{"text": 3}',
    "half of a pair": rb'{"text": "\ud800"}',
    "but is broken": b'{"text": "a"',
    "Extra data": b'{"text": "a"} {"text": "b"}',
    "0xFF at offset 10": b'{"text": "\xff"}',
    "exceeds the limit|Exceeds the limit": b'{"text": "a", "n": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("reason", BAD_LINES)
def test_bad_line_is_left_aside_with_its_reason_and_the_next_is_read(tmp_path: Path, reason: str) -> None:
    path = written(tmp_path / "a.jsonl", b'{"text": "first"}\n' + BAD_LINES[reason] + b'\n{"text": "last"}\n')
    texts, tally = read(path, allowed=1)
    assert texts == ["first", "last"]
    [(where, said)] = tally.quarantined
    assert where == f"{path}, line 2"
    assert any(part.strip() in said for part in reason.split("|"))
    with pytest.raises(FileError, match="line 2: .* set max_bad_samples"):
        read(path, allowed=0)


def test_line_longer_than_the_limit_is_bad_and_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "LINE", 3_000_000)
    long = json.dumps({"text": "x" * 9_000_000}).encode()
    path = written(tmp_path / "a.jsonl", b'{"text": "a"}\n' + long + b'\n{"text": "b"}\n')
    texts, tally = read(path)
    assert texts == ["a", "b"]
    assert [where.rsplit(" ", 1)[1] for where, _ in tally.quarantined] == ["2"]
    monkeypatch.setattr(raw, "LINE", 10_000_000)
    assert [len(text) for text in read(path)[0]][0::139] == [1, 1]


def test_unclosed_quote_does_not_swallow_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.csv", 'id,text\n1,good\n2,"never closed\n' + "3,rest\n" * 1000)
    texts, tally = read(path)
    assert texts == ["good"]
    assert tally.quarantined[0][0] == f"{path}, line 3"


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_table_without_the_column_is_refused(tmp_path: Path, name: str, separator: str) -> None:
    path = written(tmp_path / name, f"id{separator}body\n1{separator}a\n")
    assert read(path, field="body")[0] == ["a"]
    with pytest.raises(FileError, match="must have the column 'text', but has 'id', 'body'. Name one of these."):
        read(path)


def test_table_text_may_be_long(tmp_path: Path) -> None:
    assert sum(map(len, read(written(tmp_path / "a.csv", "text\n" + "x" * 500_000 + "\n"))[0])) == 500_000


def test_columns_are_read_from_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", None, "", "三"], "id": [1, 2, 3, 4]}), path, row_group_size=2)
    texts, tally = read(path)
    assert texts == ["one", "三"]
    assert [where for where, _ in tally.quarantined] == [f"{path}, row 2"]
    assert tally.left_out == {"empty": 1}
    with pytest.raises(FileError, match="must have the column 'body', but has 'text', 'id'"):
        read(path, field="body")
    with pytest.raises(FileError, match="row 1: the field 'id' must be text, but is int"):
        read(path, field="id", allowed=0)
    with pytest.raises(FileError, match="must be Parquet, but is broken"):
        read(written(tmp_path / "b.parquet", path.read_bytes()[:-9]))
    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("a.parquet", "pyarrow", "parquet"), ("a.txt.zst", "zstandard", "zstd")]
)
def test_missing_library_is_named_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'dougong\[{extra}\]'"):
        read(written(tmp_path / name, b"x"))


BOMB = r"""
import re, sys
from pathlib import Path
from dougong.data import reading
from dougong.data.source import Tally
def most():
    return 1024 * int(re.search("VmHWM: *\t *([0-9]+)", Path("/proc/self/status").read_text())[1])
before = most()
held = []
for document in reading.documents(Path(sys.argv[1]), reading.Reading(), Tally(None)):
    if len(sys.argv) > 2:
        held.append(document)
print(most() - before)
"""


def growth(*arguments: str) -> int:
    """Returns by how many bytes a process grows at most that reads a file."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the most memory a process had is known on Linux only")
    done = subprocess.run([sys.executable, "-c", BOMB, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.txt.zst", "a.csv.zst"])
def test_compressed_bomb_is_read_in_bounded_memory(tmp_path: Path, name: str) -> None:
    bomb = b"text\n" + b"a" * 150_000_000
    path = written(tmp_path / name, gzip.compress(bomb, 1) if name.endswith("gz") else zst(bomb))
    assert path.stat().st_size < 2_000_000
    assert growth(str(path)) < 130_000_000
    if name == "a.txt.gz":
        assert growth(str(path), "hold") > 140_000_000
