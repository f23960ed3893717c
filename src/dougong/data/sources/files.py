"""Documents from files, folders and globs. Knows which files there are; how each is read is in `reading.py`."""

from __future__ import annotations

import codecs
import functools
import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, NonNegativeInt

from dougong.core import files
from dougong.core.config import Fault
from dougong.core.errors import FileError, UsageError
from dougong.data import reading
from dougong.data.document import Document
from dougong.data.source import SourceConfig, Tally


class FilesConfig(SourceConfig):
    """Text files, source code, `.jsonl`, `.csv`, `.tsv` (each also `.gz` or `.zst`) and `.parquet`.

    Of a folder, everything below it is taken but hidden files, binary files and empty ones.
    """

    name: Literal["files"] = "files"
    """Which source."""
    paths: Annotated[list[str], Field(min_length=1)]
    """Files, folders and globs (`books/**/*.txt`), relative to the working folder."""
    field: str = "text"
    """The field of a record, or the column of a table, that holds the text."""
    encoding: str | None = None
    """Encoding of the text; absent: UTF-8, or UTF-16 or -32 where a byte order mark says so."""
    max_bad_samples: NonNegativeInt = 0
    """Bad samples (broken records, text that cannot be decoded) to leave aside before reading stops."""
    licence: str = "unknown"
    """Licence of the text, for the model card."""

    def faults(self) -> Iterator[Fault]:
        """Yields the fault of an encoding that does not exist."""
        if self.encoding is not None and not _is_text_encoding(self.encoding):
            yield Fault("encoding", f"must be a text encoding, but is {self.encoding!r}. Try utf-8, cp1252 or latin-1.")

    def build(self) -> Files:
        """Makes the source; reads nothing yet."""
        return Files(self)


PART = FilesConfig


class _File(NamedTuple):
    """A file, and whether the recipe names it itself (then it must be there and be readable)."""

    path: Path
    named: bool


class Files:
    """The documents of files, in the order of the paths and, within a folder or glob, of the names."""

    def __init__(self, config: FilesConfig):
        self.config = config
        self.licence = config.licence
        self.source = ", ".join(config.paths)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of every byte of every file and of how they are read; takes a second for each gigabyte or so."""
        config = self.config
        whole = hashlib.sha256(repr((config.field, config.encoding, config.max_bad_samples)).encode())
        for path, _ in self._files(Tally()):
            whole.update(f"\n{reading.kind_of(path)}{path.suffix} {files.sha256(path)}".encode())
        return whole.hexdigest()

    def documents(self, tally: Tally) -> Iterator[Document]:
        """Yields the documents; see `dougong.data.source.Source`."""
        tally.allowed = self.config.max_bad_samples
        how = reading.Reading(self.config.field, self.config.encoding)
        for path, named in self._files(tally):
            empty = tally.left_out.get("empty", 0)
            read = tally.read
            yield from reading.documents(path, how, tally)
            if named and tally.read == read:
                lack = "is empty" if tally.left_out.get("empty", 0) == empty + 1 else "has no record"
                raise FileError(f"{path} must hold text, but {lack}. Leave it out, or fill it.")
        if tally.used == 0:
            raise FileError(f"{self.source} must hold text, but no document is left ({tally.summary()}).")

    def _files(self, tally: Tally) -> Iterator[_File]:
        return _all_files(self.config.paths, tally)


def listed(paths: Sequence[str], tally: Tally) -> Iterator[Path]:
    """Yields every file that paths, folders and globs name, once; what is no text below a folder is left out.

    Raises:
        UsageError: One does not exist, or matches nothing.
        FileError: One is neither a file nor a folder.
    """
    return (file.path for file in _all_files(paths, tally))


def _all_files(paths: Sequence[str], tally: Tally) -> Iterator[_File]:
    """Yields every file once."""
    seen: set[Path] = set()
    for pattern in paths:
        for file in _matches(pattern, tally):
            if file.path.resolve() not in seen:
                seen.add(file.path.resolve())
                yield file


def _matches(pattern: str, tally: Tally) -> Iterator[_File]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        yield from _below(path, tally)
    elif path.exists() or not glob.has_magic(pattern):
        with files.explained(path):
            path.stat()
        if not path.is_file():
            raise FileError(f"{path} must be a file or a folder, but is neither. Name another.")
        yield _File(path, True)
    else:
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            raise UsageError(f"{pattern} must match files, but matches none. Check the pattern.", name="E-PATH")
        for name in found:
            if os.path.isfile(name):
                yield from _usable(Path(name), tally)


def _below(folder: Path, tally: Tally) -> Iterator[_File]:
    with files.explained(folder):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            tally.leave_out("hidden")
        elif entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path), tally)
        elif entry.is_file():
            yield from _usable(Path(entry.path), tally)
        else:
            tally.leave_out("no regular file")


def _usable(path: Path, tally: Tally) -> Iterator[_File]:
    if reading.kind_of(path) != "parquet" and reading.looks_binary(path):
        tally.leave_out("binary")
    else:
        yield _File(path, False)


def _is_text_encoding(name: str) -> bool:
    try:
        return bool(codecs.lookup(name)._is_text_encoding) and bool("a".encode(name))
    except (LookupError, UnicodeError, ValueError):
        return False
