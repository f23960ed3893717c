"""Text tokenized once, into memory-mapped files that are whole or absent and verified when opened.

Knows a divided source and a tokenizer; does not know contexts, rows or batches. A folder of shards holds, for `train`
and `validation`, `tokens-00000.bin` and on (the stream `eot doc eot doc ...`), `starts.bin` (where each document's
eot is) and `bytes.bin` (its bytes of UTF-8), and once `validation.txt`, `quarantine.jsonl` and `manifest.json`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from dougong.core import files
from dougong.core.config import Config, validate
from dougong.core.errors import FileError, RecipeError
from dougong.core.log import say, warn
from dougong.data.document import Document
from dougong.data.source import Tally
from dougong.data.split import Divided
from dougong.data.tokenizer import Tokenizer

SHARD = 1 << 30
"""Tokens of one file."""
_GROUP = 1 << 20
"""Characters that are encoded at a time: some 100 MB at the worst."""
_FORMAT: Literal["dougong shards 1"] = "dougong shards 1"


class PartManifest(Config):
    """What one part, training or validation, holds."""

    tokens: int
    """Tokens, with one eot for each document."""
    documents: int
    """Documents."""
    bytes: int
    """Bytes of UTF-8 of all documents."""
    shards: list[int]
    """Tokens of each file."""


class Manifest(Config):
    """What a folder of shards holds, and a hash of each of its files."""

    format: Literal["dougong shards 1"]
    """Version of this layout."""
    dtype: Literal["uint16", "uint32"]
    """Type of a token, little endian."""
    source: str
    """Where the text comes from."""
    licence: str
    """Its licence."""
    read: int
    """Samples read; these are the used and the quarantined."""
    used: int
    """Samples used."""
    quarantined: int
    """Bad samples left aside, listed in `quarantine.jsonl`."""
    left_out: dict[str, int]
    """What is no sample, counted by reason."""
    train: PartManifest
    """The training part."""
    validation: PartManifest
    """The validation part."""
    sha256: dict[str, str]
    """Hash of each file by its name."""


class TokenStream:
    """The tokens of one part, end to end, with random access; nothing is held in memory.

    Args:
        folder: The part's folder.
        manifest: What it holds.
        dtype: Type of a token in the files.
        fingerprint: A hash of all of it.

    Attributes:
        starts: For each document, the place of the eot that opens it.
    """

    def __init__(self, folder: Path, manifest: PartManifest, dtype: str, fingerprint: str):
        self.num_documents, self.num_bytes, self.fingerprint = manifest.documents, manifest.bytes, fingerprint
        names = [folder / f"tokens-{number:05}.bin" for number in range(len(manifest.shards))]
        self._shards = [_mapped(name, dtype) for name in names]
        self._ends = list(itertools.accumulate(manifest.shards))
        self.starts = _mapped(folder / "starts.bin", "int64")
        if [len(shard) for shard in self._shards] != manifest.shards or len(self.starts) != manifest.documents:
            raise FileError(f"{folder} must hold what its manifest says, but its files differ in length. Delete it.")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def tokens(self, start: int, stop: int) -> Int[np.ndarray, " length"]:
        """Returns the tokens from `start` up to `stop`, as a copy."""
        found = np.empty(stop - start, dtype=np.int64)
        number, place = bisect_right(self._ends, start), start
        while place < stop:
            begin, end = self._ends[number] - len(self._shards[number]), min(stop, self._ends[number])
            found[place - start : end - start] = self._shards[number][place - begin : end - begin]
            number, place = number + 1, end
        return found

    def documents(self, start: int, stop: int) -> Int[np.ndarray, " length"]:
        """Returns, for the same tokens, the number of the document that each belongs to."""
        first, last = np.searchsorted(self.starts, [start, stop - 1], side="right") - 1
        numbers = np.zeros(stop - start, dtype=np.int64)
        numbers[np.asarray(self.starts[first + 1 : last + 1]) - start] = 1
        return np.cumsum(numbers) + int(first)


class Shards:
    """An opened folder of shards: `train` and `validation` streams, and the manifest.

    Raises:
        FileError: A file is missing, or differs from what was written by as much as a bit.
    """

    def __init__(self, folder: Path):
        self.folder, self.manifest = folder, _read_manifest(folder)
        _verify(folder, self.manifest)
        self.train, self.validation = (self._stream(part) for part in ("train", "validation"))

    def _stream(self, part: Literal["train", "validation"]) -> TokenStream:
        hashes = sorted(item for item in self.manifest.sha256.items() if item[0].startswith(part + "/"))
        fingerprint = hashlib.sha256(repr(hashes).encode()).hexdigest()
        return TokenStream(self.folder / part, getattr(self.manifest, part), self.manifest.dtype, fingerprint)

    def raw_validation_bytes(self) -> Iterator[bytes]:
        """Yields the validation text as UTF-8, a megabyte at a time."""
        with files.open_binary(self.folder / "validation.txt") as file, files.explained(self.folder):
            yield from iter(lambda: file.read(1 << 20), b"")


def prepare(divided: Divided, tokenizer: Tokenizer, cache: Path, shard: int = SHARD) -> Shards:
    """Returns the shards of a source, from the cache or made now.

    The folder's name is a hash of the source's content, the tokenizer and the split. Of two processes that want the
    same, one makes it and the other waits.

    Args:
        divided: The source, and how it is split.
        tokenizer: What cuts it into tokens.
        cache: The folder that holds the folders of shards.
        shard: Tokens of one file.

    Raises:
        FileError: The source has a bad sample, or the cached shards were changed.
        ResourceError: The cache cannot be written.
    """
    facts = (_FORMAT, divided.source.fingerprint, tokenizer.fingerprint, divided.config.model_dump(), shard)
    folder = cache / f"shards-{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}"
    with once(folder) as absent:
        if absent:
            with files.new_folder(folder) as partial:
                _tokenize(divided, tokenizer, partial, shard)
    return Shards(folder)


@contextlib.contextmanager
def once(folder: Path) -> Iterator[bool]:
    """Gives whether `folder` is absent and this process is the one to make it; others wait until it has.

    The lock is the system's, so one whose holder was killed is free; what that holder left half made is removed. What
    is there needs no lock (it came by one rename, and stays), so a finished cache may be read-only.
    """
    if folder.exists():
        yield False
        return
    import fcntl

    with files.explained(folder.parent, "written"):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with files.open_binary(folder.parent / f"{folder.name}.lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that prepares the same text ({folder.name})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for partial in folder.parent.glob(f".{folder.name}.partial-*"):
            shutil.rmtree(partial, ignore_errors=True)
        yield not folder.exists()


def _tokenize(divided: Divided, tokenizer: Tokenizer, folder: Path, shard: int) -> None:
    """Writes the shards of a source into an empty folder."""
    dtype: Literal["uint16", "uint32"] = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    tally, progress = Tally(), _Progress(divided.source.source)
    with files.explained(folder, "written"), contextlib.ExitStack() as stack:
        train, validation = (
            stack.enter_context(_Part(folder / name, tokenizer.eot_id, dtype, shard))
            for name in ("train", "validation")
        )
        text = stack.enter_context(files.open_binary(folder / "validation.txt", "wb"))
        for group in _groups(divided.documents(tally)):
            ids = tokenizer.encode_batch([document.text for _, document in group])
            for (apart, document), tokens in zip(group, ids, strict=True):
                raw = document.text.encode()
                (validation if apart else train).add(document.piece == 0, tokens, len(raw))
                if apart:
                    text.write(raw)
            progress.tell(train, validation)
    _write_quarantine(folder, tally)
    progress.end(train, validation, tally)
    manifest = Manifest(
        format=_FORMAT,
        dtype=dtype,
        source=divided.source.source,
        licence=divided.source.licence,
        read=tally.read,
        used=tally.used,
        quarantined=len(tally.quarantined),
        left_out=tally.left_out,
        train=train.manifest(),
        validation=validation.manifest(),
        sha256=_hashes(folder, [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]),
    )
    files.write_json(folder / "manifest.json", manifest.model_dump())


def _groups(documents: Iterator[tuple[bool, Document]]) -> Iterator[list[tuple[bool, Document]]]:
    """Yields documents in groups of about `_GROUP` characters: the unit of parallel work and of memory."""
    group, size = [], 0
    for item in documents:
        group.append(item)
        size += len(item[1].text)
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


class _Part:
    """The files of one part in the making."""

    def __init__(self, folder: Path, eot: int, dtype: str, shard: int):
        folder.mkdir()
        self.folder, self.eot, self.dtype, self.shard = folder, eot, dtype, shard
        self.shards: list[int] = []
        self.documents = self.bytes = self.document_bytes = 0
        self._files = contextlib.ExitStack()
        self._last = self._files.enter_context(contextlib.ExitStack())
        self._starts = self._files.enter_context(files.open_binary(folder / "starts.bin", "wb"))
        self._bytes = self._files.enter_context(files.open_binary(folder / "bytes.bin", "wb"))

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_document()
        self._files.close()

    @property
    def tokens(self) -> int:
        """Tokens written so far."""
        return sum(self.shards)

    def add(self, begins: bool, tokens: list[int], num_bytes: int) -> None:
        """Writes a document, or a further piece of the one before."""
        if begins:
            self._end_document()
            self._starts.write(np.int64(self.tokens).tobytes())
            self.documents += 1
            self.document_bytes = 0
            tokens = [self.eot, *tokens]
        self._write(np.array(tokens, dtype=self.dtype))
        self.bytes += num_bytes
        self.document_bytes += num_bytes

    def manifest(self) -> PartManifest:
        """Returns what was written."""
        return PartManifest(tokens=self.tokens, documents=self.documents, bytes=self.bytes, shards=self.shards)

    def _end_document(self) -> None:
        if self.documents:
            self._bytes.write(np.int64(self.document_bytes).tobytes())

    def _write(self, tokens: np.ndarray) -> None:
        while len(tokens):
            if not self.shards or self.shards[-1] == self.shard:
                path = self.folder / f"tokens-{len(self.shards):05}.bin"
                self._last.close()
                self._tokens = self._last.enter_context(files.open_binary(path, "wb"))
                self.shards.append(0)
            now = tokens[: self.shard - self.shards[-1]]
            self._tokens.write(now.tobytes())
            self.shards[-1] += len(now)
            tokens = tokens[len(now) :]


class _Progress:
    """Says every few seconds how far tokenizing is."""

    def __init__(self, source: str):
        self.source, self.begin = source, time.monotonic()
        self.said = self.begin

    def tell(self, *parts: _Part) -> None:
        """Says it, if it was not said for a while."""
        if time.monotonic() - self.said > 2:
            self.said = time.monotonic()
            say(f"tokenizing {self.source}: {self._figures(parts)}")

    def end(self, train: _Part, validation: _Part, tally: Tally) -> None:
        """Says what came of it."""
        say(f"tokenized {self.source}: {self._figures((train, validation))}; {tally.summary()}")
        if tally.quarantined:
            warn(f"{self.source}: {len(tally.quarantined):,} bad samples are left aside, named in quarantine.jsonl")

    def _figures(self, parts: tuple[_Part, ...]) -> str:
        size, seconds = sum(part.bytes for part in parts) / 1e6, time.monotonic() - self.begin
        tokens = sum(part.tokens for part in parts)
        return f"{size:,.1f} MB, {tokens:,} tokens, {size / max(seconds, 1e-9):.1f} MB/s"


def _write_quarantine(folder: Path, tally: Tally) -> None:
    lines = (json.dumps({"where": where, "reason": reason}) + "\n" for where, reason in tally.quarantined)
    files.write_whole(folder / "quarantine.jsonl", "".join(lines))


def _hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """Hashes files side by side: hashing leaves other threads running, at some 1 to 2 GB/s on each core."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: files.sha256(folder / name), sorted(names))
        return dict(zip(sorted(names), found, strict=True))


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    try:
        return validate(Manifest, files.read_json(path))
    except RecipeError as error:
        raise FileError(f"{path} must describe shards, but does not: {error.complaints[0]} Delete {folder}.") from error


def _verify(folder: Path, manifest: Manifest) -> None:
    for name in manifest.sha256:
        if not files.inside(folder, name).is_file():
            raise FileError(f"{folder / name} must be there, but is missing. Delete {folder} to make it again.")
    found = _hashes(folder, list(manifest.sha256))
    for name, expected in manifest.sha256.items():
        if found[name] != expected:
            raise FileError(
                f"{folder / name} must have the sha256 {expected[:16]}..., but has {found[name][:16]}...: it was "
                f"changed after it was written. Delete {folder} to make it again."
            )


def _mapped(path: Path, dtype: str) -> np.ndarray:
    return files.map_array(path, np.dtype(dtype).newbyteorder("<").str)
