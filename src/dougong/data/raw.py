"""A stored file to its bytes, characters and lines: compression and encodings; in bounded memory.

Knows how each can be broken; does not know what is in the lines.
"""

from __future__ import annotations

import codecs
import itertools
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from dougong.core import files
from dougong.core.errors import FileError, MissingExtra

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


class Bad(Exception):
    """A sample is bad; the text says why, as the end of a sentence that begins with where it is."""


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


def encoding_of(path: Path, wanted: str | None) -> str:
    """Returns the encoding that is wanted, or else the one that a byte order mark says, or UTF-8."""
    head = next(raw_chunks(path), b"")
    marked = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    if wanted is None:
        return marked or "utf-8"
    plain = codecs.lookup(wanted).name == "utf-8"
    return "utf-8-sig" if plain and marked == "utf-8-sig" else wanted


def characters(path: Path, encoding: str) -> Iterator[str]:
    """Yields a text file decoded, a chunk at a time; raises `Bad` where it is no text."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    fed = read = 0
    for chunk in itertools.chain(raw_chunks(path), [None]):
        raw = chunk or b""
        try:
            part = decoder.decode(raw, final=chunk is None)
        except UnicodeDecodeError as error:
            offset = fed + len(raw) - len(error.object) + error.start
            raise Bad(not_decoded(encoding, error, offset)) from error
        if "\0" in part:
            place = read + part.index("\0")
            raise Bad(
                f"text must not hold NUL, but character {place:,} is; it may be binary, or UTF-16 (then set encoding)"
            )
        fed, read = fed + len(raw), read + len(part)
        yield part


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


def encoded_lines(path: Path, wanted: str | None) -> tuple[Iterator[bytes | None], str]:
    """Returns the lines of a file of records, and the encoding that each is in."""
    encoding = encoding_of(path, wanted)
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
        for part in characters(path, encoding):
            yield part.encode()
    except Bad as bad:
        raise FileError(f"{path}: {bad}. Repair it.") from bad


def not_decoded(encoding: str, error: UnicodeDecodeError, offset: int) -> str:
    """Returns why bytes are no text, with the first bad byte and what to do."""
    byte = error.object[error.start]
    return (
        f"text must be {encoding.upper()}, but byte 0x{byte:02X} at offset {offset:,} is not; "
        "if it has another encoding, set encoding (cp1252, latin-1, ...)"
    )
