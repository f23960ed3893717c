"""One file to its documents: plain text, or a column of records; in bounded memory.

Knows texts and lines; how files are stored is in `raw.py`, the formats of records in `columns.py`. Does not know which
files a source has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dougong.data.columns import Table, rows
from dougong.data.columns import text_of as text_of
from dougong.data.document import Document
from dougong.data.raw import LINE, characters, encoded_lines, encoding_of, not_decoded
from dougong.data.raw import Bad as Bad
from dougong.data.raw import kind_of as kind_of
from dougong.data.raw import looks_binary as looks_binary
from dougong.data.raw import raw_chunks as raw_chunks
from dougong.data.source import Tally

PIECE = 1 << 16
"""Characters of one piece of a long document."""


@dataclass(frozen=True)
class Reading:
    """How to read a file.

    Attributes:
        field: The field or column of a record that holds the text.
        encoding: The encoding, or None: UTF-8, or what a byte order mark says.
    """

    field: str = "text"
    encoding: str | None = None


def documents(path: Path, reading: Reading, tally: Tally) -> Iterator[Document]:
    """Yields the documents of one file: one for a text, one for each record of `.jsonl`, `.csv`, `.tsv`, `.parquet`.

    Raises:
        FileError: The file, or a sample beyond what the tally allows, is broken.
        UsageError: The file does not exist.
        MissingExtra: The format needs a library that is absent.
    """
    kind, field = kind_of(path), reading.field
    if kind == "text":
        yield from _text(path, reading, tally)
        return
    numbered = rows(path, [field], Table(encoding=reading.encoding))
    texts = ((number, found if isinstance(found, Bad) else text_of(found, field)) for number, found in numbered)
    yield from records(texts, path, "row" if kind == "parquet" else "line", tally)


def lines(path: Path, reading: Reading, tally: Tally) -> Iterator[Document]:
    """Yields a document for each line of a text file that is not blank; errors are those of `documents`."""
    yield from records(numbered_lines(path, reading), path, "line", tally)


def numbered_lines(path: Path, reading: Reading) -> Iterator[tuple[int, str | Bad]]:
    """Yields each line of a text file with its number, without blanks around it: blank ones too, and bad ones as such.

    Raises:
        UsageError: The file does not exist.
        FileError: It cannot be read, or is compressed and broken.
    """
    raw, encoding = encoded_lines(path, reading.encoding)
    yield from ((number, line_text(line, encoding)) for number, line in enumerate(raw, start=1))


def _text(path: Path, reading: Reading, tally: Tally) -> Iterator[Document]:
    encoding = encoding_of(path, reading.encoding)
    try:
        length = sum(map(len, characters(path, encoding)))  # a pass of its own: a text is used whole or not at all
    except Bad as bad:
        tally.quarantine(str(path), str(bad))
        return
    if length == 0:
        tally.leave_out("empty")
        return
    tally.used += 1
    for number, piece in enumerate(pieces(characters(path, encoding))):
        yield Document(piece, str(path), number)


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


def line_text(line: bytes | None, encoding: str) -> str | Bad:
    """Returns the text of a line without blanks around it, or why it is bad; None is a line that is too long."""
    if line is None:
        return Bad(f"a line must have at most {LINE:,} bytes, but this is longer")
    try:
        text = line.decode(encoding).strip()
    except UnicodeDecodeError as error:
        return Bad(not_decoded(encoding, error, error.start))
    return Bad("a line must not hold NUL, but this does; the file may be binary") if "\0" in text else text
