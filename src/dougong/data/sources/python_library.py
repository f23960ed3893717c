"""Documents from the running Python's own standard library: text that every machine has, so a demo needs no download.

Knows where Python keeps its library. What it holds differs a little from one Python version to the next.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dougong.core import files
from dougong.core.errors import FileError
from dougong.data import reading
from dougong.data.document import Document
from dougong.data.source import SourceConfig, Tally

_TEXT = {".py", ".txt", ".rst", ".md"}
_APART = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload", "__pycache__"}
_OF_THIS_MACHINE = ("config-", "_sysconfigdata")


class PythonLibraryConfig(SourceConfig):
    """The source code and documentation texts of Python's standard library, about 12 MB; its tests are left out."""

    name: Literal["python_library"] = "python_library"
    """Which source."""

    def build(self) -> PythonLibrary:
        """Makes the source; reads nothing yet."""
        return PythonLibrary(Path(sysconfig.get_path("stdlib")))


PART = PythonLibraryConfig


class PythonLibrary:
    """The texts of a folder of Python's, folder by folder in the order of their names."""

    licence = "PSF-2.0"

    def __init__(self, root: Path):
        self.root = root
        self.source = f"standard library of Python {sys.version_info.major}.{sys.version_info.minor}"

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of every byte of every file."""
        whole = hashlib.sha256(b"python_library")
        for path in self._files(Tally()):
            whole.update(files.sha256(path).encode())
        return whole.hexdigest()

    def documents(self, tally: Tally) -> Iterator[Document]:
        """Yields the documents; see `dougong.data.source.Source`."""
        tally.allowed = None  # a few of Python's own files may be in other encodings
        for path in self._files(tally):
            for document in reading.documents(path, reading.Reading(), tally):
                yield Document(document.text, str(path.relative_to(self.root)), document.piece)
        if tally.used == 0:
            raise FileError(f"{self.root} must hold Python's standard library, but does not. Use other sources.")

    def _files(self, tally: Tally) -> Iterator[Path]:
        for folder, folders, names in os.walk(self.root):
            for name in sorted(names):
                if Path(name).suffix in _TEXT and not name.startswith(_OF_THIS_MACHINE):
                    yield Path(folder, name)
            apart = {name for name in folders if name in _APART or name.startswith(_OF_THIS_MACHINE)}
            for _ in apart:
                tally.leave_out("folders of tests, packages and machine code")
            folders[:] = sorted(set(folders) - apart)
