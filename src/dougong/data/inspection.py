"""Every picture looked at once before training: decoded whole, hashed, measured, or found bad; then decoded on access.

Knows where the bytes of pictures come from and keeps what was found in the cache, so that a second start only asks
whether the files are as they were (by size and time). Does not know labels, nor what pictures are wanted for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import PIL
from typing_extensions import Protocol, runtime_checkable

from dougong.core import files
from dougong.core.errors import FileError, UsageError
from dougong.core.log import say, warn
from dougong.data.image import Limits, Mode, Pixels, decode, read_raw
from dougong.data.reading import Bad
from dougong.data.source import Tally

HELD_BYTES = 256_000_000
"""Pictures that are together no larger than this, decoded, are kept in memory once they were asked for."""
_PICTURE = re.compile(r"(\.(jpe?g|jpe|jfif|png|webp|bmp|dib|tiff?|gif|svg|heic|heif|avif|jxl|jp2|psd|ico))?", re.I)
"""Endings of what is taken for a picture below a folder; those from `gif` on to be refused for what they are."""
_FORMAT = "dougong pictures 1"
_BLOCK = 512
_TABLE = "seen.tsv"


@runtime_checkable
class Stock(Protocol):
    """Where the bytes of pictures come from, by number."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Returns what a message calls it."""

    def stamp(self, number: int) -> str:
        """Returns what differs when it may have changed, without reading it; empty: it is not there."""

    def raw(self, number: int, limits: Limits) -> bytes:
        """Returns the content of its file."""


@dataclass(frozen=True)
class PictureFiles:
    """Pictures in files; a `Stock`."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, number: int) -> str:
        """Returns its path."""
        return str(self.paths[number])

    def stamp(self, number: int) -> str:
        """Returns its size and the time of its last change."""
        try:
            found = os.stat(self.paths[number])
        except (FileNotFoundError, NotADirectoryError):
            return ""
        return f"{found.st_size} {found.st_mtime_ns}"

    def raw(self, number: int, limits: Limits) -> bytes:
        """Returns its content; errors are those of `files.open_binary`."""
        return read_raw(self.paths[number], limits)


@dataclass(frozen=True)
class Seen:
    """What was found of a picture.

    Attributes:
        sha256: Of its file.
        height: Of the picture, the right way up.
        width: Likewise.
        bad: Why it is none; empty: it is sound.
    """

    sha256: str
    height: int
    width: int
    bad: str = ""


Complaint = Callable[[int, Seen], str]


def inspect(
    stock: Stock, limits: Limits, folder: Path, tally: Tally, complaint: Complaint = lambda number, seen: ""
) -> list[Seen]:
    """Looks at every picture, and counts it as used or as bad.

    Args:
        stock: The pictures.
        limits: What is too small or too large.
        folder: Where what is found is kept; see `folder_for`.
        tally: Counts them; says how many may be bad.
        complaint: Returns why a sound picture will not do, by its number and what was found; it is not kept.

    Raises:
        FileError: More are bad than are allowed.
        ResourceError: One may not be read, or the folder cannot be written.
    """
    known = _read_table(folder / _TABLE)
    found: dict[str, tuple[str, Seen]] = {}
    looked, seen = 0, list[Seen]()
    progress = _Progress(len(stock))
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(stock), _BLOCK):
                block = range(start, min(start + _BLOCK, len(stock)))
                for number, result in zip(
                    block, pool.map(lambda n: _look(stock, n, limits, known), block), strict=True
                ):
                    stamp, what, is_new = result
                    looked += is_new
                    found[stock.name(number)] = (stamp, what)
                    seen.append(what if what.bad else replace(what, bad=complaint(number, what)))
                    _count(tally, stock.name(number), seen[-1])
                progress.tell(len(seen), looked)
    finally:
        if looked:
            _write_table(folder / _TABLE, {**known, **found})
    return seen


def folder_for(cache: Path, name: str, limits: Limits) -> Path:
    """Returns the folder in which is kept what was found of the pictures of a dataset."""
    facts = (_FORMAT, PIL.__version__, name, limits.min_side, limits.max_pixels)
    return cache / f"pictures-{hashlib.sha256(repr(facts).encode(errors='surrogateescape')).hexdigest()[:24]}"


def _count(tally: Tally, name: str, seen: Seen) -> None:
    if seen.bad:
        tally.quarantine(name, seen.bad)
    else:
        tally.used += 1


def _look(stock: Stock, number: int, limits: Limits, known: dict[str, tuple[str, Seen]]) -> tuple[str, Seen, bool]:
    """Returns a picture's stamp, what is found of it, and whether it had to be read for that."""
    stamp = stock.stamp(number)
    before = known.get(stock.name(number))
    if before is not None and stamp and before[0] == stamp:
        return stamp, before[1], False
    if not stamp:
        return stamp, Seen("", 0, 0, "a picture must be there, but does not exist"), True
    try:
        raw = stock.raw(number, limits)
        height, width = decode(raw, 3, limits).shape[:2]
    except Bad as bad:
        return stamp, Seen("", 0, 0, str(bad)), True
    except FileError as error:  # a pipe or a folder
        return stamp, Seen("", 0, 0, str(error).rstrip(".")), True
    return stamp, Seen(hashlib.sha256(raw).hexdigest(), height, width), True


def _read_table(path: Path) -> dict[str, tuple[str, Seen]]:
    """Returns what was found before, by name; nothing, if there is no table or it is not as it was written."""
    if not path.exists():
        return {}
    head, _, body = files.read_bytes(path).partition(b"\n")
    if head.decode("latin-1") != f"{_FORMAT} {hashlib.sha256(body).hexdigest()}":
        return {}
    return dict(_parsed(line) for line in body.decode("ascii").splitlines())


def _parsed(line: str) -> tuple[str, tuple[str, Seen]]:
    stamp, sha256, height, width, bad, name = line.split("\t")
    return json.loads(name), (stamp, Seen(sha256, int(height), int(width), json.loads(bad)))


def _write_table(path: Path, found: dict[str, tuple[str, Seen]]) -> None:
    with files.explained(path.parent, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        f"{stamp}\t{seen.sha256}\t{seen.height}\t{seen.width}\t{json.dumps(seen.bad)}\t{json.dumps(name)}\n"
        for name, (stamp, seen) in found.items()
    )
    body = "".join(lines).encode("ascii")
    files.write_whole(path, f"{_FORMAT} {hashlib.sha256(body).hexdigest()}\n".encode() + body)


def write_quarantine(folder: Path, source: str, *tallies: Tally) -> None:
    """Writes down which samples were left aside, and tells the person."""
    bad = [each for tally in tallies for each in tally.quarantined]
    path = folder / "quarantine.jsonl"
    if not bad and not path.exists():
        return
    with files.explained(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, "".join(json.dumps({"where": where, "reason": why}) + "\n" for where, why in bad))
    if bad:
        warn(f"{source}: {len(bad):,} bad samples are left aside, named in {path}")


class _Progress:
    """Says every few seconds how many pictures were looked at."""

    def __init__(self, number: int):
        self.number, self.said = number, time.monotonic()

    def tell(self, done: int, looked: int) -> None:
        """Says it, if it was not said for a while."""
        if looked and time.monotonic() - self.said > 2:
            self.said = time.monotonic()
            say(f"looking at the pictures: {done:,} of {self.number:,}")


class Decoded:
    """Pictures by number, decoded when asked for; small sets are kept in memory from then on.

    Args:
        stock: Where their bytes come from.
        seen: What was found of each.
        channels: How many a pixel has.
        limits: What is too large, and whether a smaller decoding will do.
    """

    def __init__(self, stock: Stock, seen: Sequence[Seen], channels: Mode, limits: Limits):
        self.stock, self.seen, self.channels, self.limits = stock, seen, channels, limits
        self.keeps = sum(each.height * each.width * channels for each in seen) <= HELD_BYTES
        self._kept: dict[int, Pixels] = {}

    def __call__(self, number: int) -> Pixels:
        """Returns the pixels of a picture.

        Raises:
            FileError: Its file is gone, or is not as it was when it was looked at.
        """
        kept = self._kept.get(number)
        if kept is not None:
            return kept
        pixels = self._read(number)
        if self.keeps:
            self._kept[number] = pixels
        return pixels

    def _read(self, number: int) -> Pixels:
        name, expected = self.stock.name(number), self.seen[number].sha256
        try:
            raw = self.stock.raw(number, self.limits)
        except UsageError as error:
            raise FileError(
                f"{name} must be there, as it was when the data was prepared, but is gone. Put it back, or start again."
            ) from error
        if hashlib.sha256(raw).hexdigest() != expected:
            raise FileError(
                f"{name} must be as it was when the data was prepared (sha256 {expected[:16]}...), but has changed. "
                "Put it back, or start again."
            )
        try:
            return decode(raw, self.channels, self.limits)
        except Bad as bad:
            raise FileError(f"{name}: {bad}.") from bad


def pictures_below(folder: Path, tally: Tally) -> Iterator[Path]:
    """Yields the files below a folder that may be pictures, in the order of their names; others are left out.

    Raises:
        UsageError: The folder does not exist.
        FileError: It is none.
    """
    with files.explained(folder):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            tally.leave_out("hidden")
        elif entry.is_dir():
            yield from pictures_below(Path(entry.path), tally)
        elif _PICTURE.fullmatch(Path(entry.name).suffix):
            yield Path(entry.path)
        else:
            tally.leave_out("no picture by its name")
