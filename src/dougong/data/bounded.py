"""A file read whole, if it is not too long. Knows sizes; does not know what is in it."""

from __future__ import annotations

import os
from pathlib import Path

from dougong.core import files


def read_at_most(path: str | Path, most: int) -> bytes:
    """Returns a file's content; or one byte more than `most` of it, if it is longer.

    No more is asked for than the file has: to read asks for all of the memory that it is told to fill.
    Errors are those of `files.open_binary`.
    """
    with files.open_binary(path) as file, files.explained(path):
        return file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
