"""The idx form of MNIST: numbers of one type in a few dimensions, big end first (LeCun, Cortes and Burges 1998).

Knows the form, plain or as gzip; does not know what the numbers are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from dougong.core.errors import FileError
from dougong.data.reading import raw_chunks

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Type of the numbers, by the third byte of a file."""
MOST_BYTES = 8_000_000_000
"""The largest content that is read."""
_DIMS = 32
_GZIP = b"\x1f\x8b"


def read_idx(path: str | Path) -> np.ndarray:
    """Returns the numbers of a file, in the dimensions that it states; gzip, if its name ends in `.gz`.

    Raises:
        UsageError: The file does not exist.
        FileError: It is no idx file, or broken gzip, or holds more or fewer numbers than it says.
    """
    path = Path(path)
    chunks = raw_chunks(path)
    begin = b""
    while len(begin) < 4 and (chunk := next(chunks, None)) is not None:
        begin += chunk
    if begin[:2] == _GZIP:
        raise FileError(f"{path} must have a name that ends in .gz, as it is gzip. Rename it.")
    if len(begin) < 4 or begin[:2] != b"\0\0" or begin[2] not in TYPES or not 1 <= begin[3] <= _DIMS:
        shown = begin[:4].hex(" ") or "nothing"
        raise FileError(f"{path} must be an idx file, which begins with 00 00 08 03 or alike, but begins with {shown}.")
    dtype, length = np.dtype(TYPES[begin[2]]), 4 + 4 * begin[3]
    while len(begin) < length and (chunk := next(chunks, None)) is not None:
        begin += chunk
    if len(begin) < length:
        raise FileError(f"{path} must have a whole header, but ends in it. Fetch it again.")
    shape = tuple(int(number) for number in np.frombuffer(begin[4:length], dtype=">u4"))
    body = _content(path, chain([begin[length:]], chunks), dtype.itemsize, shape)
    return np.frombuffer(body, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _content(path: Path, chunks: Iterator[bytes], itemsize: int, shape: tuple[int, ...]) -> bytes:
    """Returns the bytes of all numbers, having read no more than they may be."""
    wanted = math.prod(shape) * itemsize
    if wanted > MOST_BYTES:
        shown = f"{wanted:,}" if wanted < 10**30 else "more than 10^30"
        raise FileError(f"{path} must have at most {MOST_BYTES:,} bytes, but says it has {shown}. Refused.")
    found = bytearray()
    for chunk in chunks:
        found += chunk
        if len(found) > wanted:
            break
    if len(found) == wanted:
        return bytes(found)
    each = math.prod(shape[1:]) * itemsize
    if len(found) > wanted:
        raise FileError(
            f"{path} must hold the {shape[0]:,} items that its header states, but holds more. Fetch it again."
        )
    there = len(found) // each if each else 0
    raise FileError(
        f"{path} must hold the {shape[0]:,} items that its header states, but holds {there:,}. Fetch it again."
    )
