"""One file to its documents: compression, encodings, plain text, JSON lines, tables, columns; in bounded memory.

Knows formats and how each can be broken; does not know which files a source has.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.core.errors import FileError, MissingExtra
from dougong.data.document import Document
from dougong.data.source import Tally

PIECE = 1 << 16
"""Characters of one piece of a long document."""
LINE = 1 << 26
"""Bytes of the longest record that is read."""
_CHUNK = 1 << 20
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Reading:
    """How to read a file.

    Attributes:
        field: The field or column of a record that holds the text.
        encoding: The encoding, or None: UTF-8, or what a byte order mark says.
    """

    field: str = "text"
    encoding: str | None = None


class Bad(Exception):
    """A sample is bad; the text says why, as the end of a sentence that begins with where it is."""


def documents(path: Path, reading: Reading, tally: Tally) -> Iterator[Document]:
    """Yields the documents of one file: one for a text, one for each record of `.jsonl`, `.csv`, `.tsv`, `.parquet`.

    Raises:
        FileError: The file, or a sample beyond what the tally allows, is broken.
        UsageError: The file does not exist.
        MissingExtra: The format needs a library that is absent.
    """
    kind = kind_of(path)
    if kind == "parquet":
        yield from records(_parquet(path, reading), path, "row", tally)
    elif kind == "jsonl":
        yield from records(_jsonl(path, reading), path, "line", tally)
    elif kind in ("csv", "tsv"):
        yield from records(_csv(path, reading, "," if kind == "csv" else "\t"), path, "line", tally)
    else:
        yield from _text(path, reading, tally)


def lines(path: Path, reading: Reading, tally: Tally) -> Iterator[Document]:
    """Yields a document for each line of a text file that is not blank; errors are those of `documents`."""
    raw, encoding = _encoded_lines(path, reading)
    numbered = ((number, _line_text(line, encoding)) for number, line in enumerate(raw, start=1))
    yield from records(numbered, path, "line", tally)


def kind_of(path: Path) -> str:
    """Returns `jsonl`, `csv`, `tsv` or `parquet` by the name (but for `.gz` and `.zst`), else `text`."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    suffix = name.rpartition(".")[2]
    return suffix if suffix in ("jsonl", "csv", "tsv", "parquet") else "text"


def looks_binary(path: Path) -> bool:
    """Tells whether a NUL is among the first bytes (git's rule), unless a byte order mark explains it."""
    head = next(raw_chunks(path), b"")[:8192]
    return b"\0" in head and not any(head.startswith(mark) for mark, _ in _MARKS)


def raw_chunks(path: Path) -> Iterator[bytes]:
    """Yields the bytes of a file, uncompressed where its name ends in `.gz` or `.zst`, a chunk at a time.

    Raises:
        FileError: The compressed stream is broken or ends too early.
    """
    unpack = {".gz": _gunzip, ".zst": _unzstd}.get(path.suffix.lower())
    with files.open_binary(path) as file, files.explained(path):
        stored = iter(lambda: file.read(_CHUNK), b"")
        yield from stored if unpack is None else unpack(stored, path)


def _gunzip(stored: Iterable[bytes], path: Path) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)
    begun = False
    try:
        for chunk in stored:
            while chunk:
                if unpacker.eof:
                    chunk = chunk.lstrip(b"\0")  # zeros may pad the end
                    if not chunk:
                        break
                    unpacker = zlib.decompressobj(wbits=31)  # a further member
                begun = True
                yield unpacker.decompress(chunk, _CHUNK)
                chunk = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
        yield unpacker.flush()
    except zlib.error as error:
        raise FileError(f"{path} must be gzip, but is broken: {error}. Fetch it again.") from error
    if begun and not unpacker.eof:
        raise _half_written(path)


def _unzstd(stored: Iterable[bytes], path: Path) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra(f"reading {path.name}", "zstd") from error
    unpacker = None
    try:
        for chunk in stored:
            while chunk:
                if unpacker is None or unpacker.eof:
                    unpacker = zstandard.ZstdDecompressor().decompressobj()
                for start in range(0, len(chunk), 256):  # so few bytes unpack to 8 MB at the worst
                    yield unpacker.decompress(chunk[start : start + 256])
                    if unpacker.eof:
                        break
                chunk = unpacker.unused_data + chunk[start + 256 :]
    except zstandard.ZstdError as error:
        raise FileError(f"{path} must be zstd, but is broken: {error}. Fetch it again.") from error
    if unpacker is not None and not unpacker.eof:
        raise _half_written(path)


def _half_written(path: Path) -> FileError:
    return FileError(f"{path} must be a whole compressed file, but ends in the middle. Fetch or write it again.")


def _encoding(path: Path, reading: Reading) -> str:
    head = next(raw_chunks(path), b"")
    marked = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    if reading.encoding is None:
        return marked or "utf-8"
    plain = codecs.lookup(reading.encoding).name == "utf-8"
    return "utf-8-sig" if plain and marked == "utf-8-sig" else reading.encoding


def _text(path: Path, reading: Reading, tally: Tally) -> Iterator[Document]:
    encoding = _encoding(path, reading)
    try:
        length = sum(map(len, _characters(path, encoding)))  # a pass of its own: a text is used whole or not at all
    except Bad as bad:
        tally.quarantine(str(path), str(bad))
        return
    if length == 0:
        tally.leave_out("empty")
        return
    tally.used += 1
    for number, piece in enumerate(pieces(_characters(path, encoding))):
        yield Document(piece, str(path), number)


def _characters(path: Path, encoding: str) -> Iterator[str]:
    """Yields a text file decoded, a chunk at a time; raises `Bad` where it is no text."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    fed = read = 0
    for chunk in itertools.chain(raw_chunks(path), [None]):
        raw = chunk or b""
        try:
            part = decoder.decode(raw, final=chunk is None)
        except UnicodeDecodeError as error:
            offset = fed + len(raw) - len(error.object) + error.start
            raise Bad(_not_decoded(encoding, error, offset)) from error
        if "\0" in part:
            place = read + part.index("\0")
            raise Bad(
                f"text must not hold NUL, but character {place:,} is; it may be binary, or UTF-16 (then set encoding)"
            )
        fed, read = fed + len(raw), read + len(part)
        yield part


def pieces(parts: Iterable[str]) -> Iterator[str]:
    """Yields the same characters in pieces of at most `PIECE`, cut at a line end or a space where there is one."""
    rest = ""
    for part in parts:
        rest, start = rest + part, 0
        while len(rest) - start > PIECE:
            end = _cut(rest, start)
            yield rest[start:end]
            start = end
        rest = rest[start:]
    if rest:
        yield rest


def _cut(text: str, start: int) -> int:
    low, high = start + PIECE // 2, start + PIECE
    line, space = text.rfind("\n", low, high), text.rfind(" ", low, high)
    return line + 1 if line >= 0 else space if space >= 0 else high


def records(texts: Iterable[tuple[int, str | Bad]], name: str | Path, unit: str, tally: Tally) -> Iterator[Document]:
    """Yields a document for each numbered record, and counts the bad ones; `unit` is `line`, `row` or `record`."""
    for number, text in texts:
        where = f"{name}, {unit} {number}"
        if isinstance(text, Bad):
            tally.quarantine(where, str(text))
        elif not text:
            tally.leave_out("empty")
        else:
            tally.used += 1
            for place, piece in enumerate(pieces([text])):
                yield Document(piece, where, place)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    """Yields lines without their ends; None for one that is longer than `LINE`, which is never held whole."""
    rest, too_long = bytearray(), False
    for chunk in chunks:
        *lines, tail = chunk.split(b"\n")
        for line in lines:
            yield None if too_long else bytes(rest) + line if rest else line
            too_long = False
            rest.clear()
        rest += tail
        if len(rest) > LINE:
            too_long = True
            rest.clear()
    if rest or too_long:
        yield None if too_long else bytes(rest)


def _encoded_lines(path: Path, reading: Reading) -> tuple[Iterator[bytes | None], str]:
    """Returns the lines of a file of records, and the encoding that each is in."""
    encoding = _encoding(path, reading)
    chunks = raw_chunks(path)
    if encoding == "utf-8-sig":
        return _lines(_without_mark(chunks)), "utf-8"
    if "\n{".encode(encoding) != b"\n{":  # UTF-16 and its kin: line ends are no single bytes
        return _lines(_recoded(path, encoding)), "utf-8"
    return _lines(chunks), encoding


def _without_mark(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for number, chunk in enumerate(chunks):
        yield chunk.removeprefix(codecs.BOM_UTF8) if number == 0 else chunk


def _recoded(path: Path, encoding: str) -> Iterator[bytes]:
    try:
        for part in _characters(path, encoding):
            yield part.encode()
    except Bad as bad:
        raise FileError(f"{path}: {bad}. Repair it.") from bad


def _jsonl(path: Path, reading: Reading) -> Iterator[tuple[int, str | Bad]]:
    lines, encoding = _encoded_lines(path, reading)
    for number, line in enumerate(lines, start=1):
        if line is None or line.strip():
            yield number, _json_text(line, encoding, reading.field)


def _line_text(line: bytes | None, encoding: str) -> str | Bad:
    if line is None:
        return Bad(f"a line must have at most {LINE:,} bytes, but this is longer")
    try:
        text = line.decode(encoding).strip()
    except UnicodeDecodeError as error:
        return Bad(_not_decoded(encoding, error, error.start))
    return Bad("a line must not hold NUL, but this does; the file may be binary") if "\0" in text else text


def _json_text(line: bytes | None, encoding: str, field: str) -> str | Bad:
    if line is None:
        return Bad(f"a record must have at most {LINE:,} bytes, but this is longer")
    try:
        record = json.loads(line.decode(encoding), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return Bad(_not_decoded(encoding, error, error.start))
    except RecursionError:
        return Bad("a record must be a JSON object, but this is nested too deep")
    except ValueError as error:
        return Bad(f"a line must be one JSON object, but is broken: {error}")
    if not isinstance(record, dict):
        return Bad(f"a line must be one JSON object, but is of type {type(record).__name__}")
    return text_of(record, field)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def text_of(record: Mapping[str, Any], field: str) -> str | Bad:
    """Returns the text in a field of a record, or why there is none."""
    if field not in record:
        return Bad(f"a record must have the field {field!r}, but has only {_listed(record)}; set field")
    value = record[field]
    if not isinstance(value, str):
        return Bad(f"the field {field!r} must be text, but is {'null' if value is None else type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return Bad(f"the field {field!r} must be Unicode text, but character {error.start:,} is half of a pair")
    return value


def _csv(path: Path, reading: Reading, delimiter: str) -> Iterator[tuple[int, str | Bad]]:
    csv.field_size_limit(max(csv.field_size_limit(), LINE))  # for the process: the module has no other way
    lines, encoding = _encoded_lines(path, reading)
    shown = ("\udcff" if line is None else line.decode(encoding, "surrogateescape") for line in lines)
    rows = csv.reader((line + "\n" for line in shown), delimiter=delimiter, strict=True)
    header = next((row for row in rows if row), None)
    if header is None:
        return
    if reading.field not in header:
        raise FileError(f"{path} must have the column {reading.field!r}, but has {_listed(header)}. Set field.")
    column = header.index(reading.field)
    while True:
        start = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, Bad(f"a row must be valid CSV, but is not: {error}")
            continue
        if row:
            yield start, _cell(row, header, column)


def _cell(row: list[str], header: list[str], column: int) -> str | Bad:
    if len(row) != len(header):
        return Bad(f"a row must have {len(header)} fields, but has {len(row)}")
    if row == header:
        return Bad("a row must be a record, but this repeats the header")
    text = text_of({header[column]: row[column]}, header[column])
    if isinstance(text, Bad):
        return Bad(f"the column {header[column]!r} must be in the file's encoding, but is not; set encoding")
    return text


def _parquet(path: Path, reading: Reading) -> Iterator[tuple[int, str | Bad]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra(f"reading {path.name}", "parquet") from error
    opened = files.open_binary(path)
    try:
        with opened:
            file = parquet.ParquetFile(opened)
            if reading.field not in file.schema_arrow.names:
                names = _listed(file.schema_arrow.names)
                raise FileError(f"{path} must have the column {reading.field!r}, but has {names}. Set field.")
            batches = file.iter_batches(batch_size=256, columns=[reading.field])
            values = (value for batch in batches for value in batch.column(0))
            for number, value in enumerate(values, start=1):
                yield number, _parquet_text(value, reading.field)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FileError(f"{path} must be Parquet, but is broken: {reason}. Fetch it again.") from error


def _parquet_text(value: Any, field: str) -> str | Bad:
    try:
        return text_of({field: value.as_py()}, field)
    except UnicodeDecodeError as error:
        return Bad(_not_decoded("utf-8", error, error.start))


def _not_decoded(encoding: str, error: UnicodeDecodeError, offset: int) -> str:
    byte = error.object[error.start]
    return (
        f"text must be {encoding.upper()}, but byte 0x{byte:02X} at offset {offset:,} is not; "
        "if it has another encoding, set encoding (cp1252, latin-1, ...)"
    )


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "") if shown else "none"
