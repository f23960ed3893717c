from __future__ import annotations

from pathlib import Path

import pytest

from dougong.core.errors import FileError
from dougong.data.source import Tally
from dougong.data.sources.python_library import PythonLibrary, PythonLibraryConfig


def test_library_of_this_python_is_read_in_order_and_without_tests() -> None:
    tally = Tally()
    documents = list(PythonLibraryConfig().build().documents(tally))
    names = [document.name for document in documents if document.piece == 0]
    assert {"argparse.py", "json/decoder.py"} <= set(names)
    assert len(names) == len(set(names)) == tally.used > 400
    apart = {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert not [name for name in names if apart & set(Path(name).parts)]
    assert sum(len(document.text) for document in documents) > 5_000_000
    assert tally.read == tally.used + len(tally.quarantined)
    again = [document.name for document in PythonLibraryConfig().build().documents(Tally()) if document.piece == 0]
    assert again == names


def test_nothing_of_this_machine_is_read(tmp_path: Path) -> None:
    for name in (
        "b.py",
        "a/z.py",
        "a/y.txt",
        "config-3-x/Makefile.py",
        "_sysconfigdata__linux.py",
        "a/test/t.py",
        "c.so",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}")
    (tmp_path / "latin.py").write_bytes(b"# \xe9")
    tally = Tally()
    names = [document.name for document in PythonLibrary(tmp_path).documents(tally)]
    assert names == ["b.py", "a/y.txt", "a/z.py"]
    assert [Path(where).name for where, _ in tally.quarantined] == ["latin.py"]


def test_library_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="must hold Python's standard library, but does not"):
        list(PythonLibrary(tmp_path / "zip").documents(Tally()))


def test_any_edit_changes_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    before = PythonLibrary(tmp_path).fingerprint
    assert PythonLibrary(tmp_path).fingerprint == before
    (tmp_path / "a.py").write_text("x = 2")
    assert PythonLibrary(tmp_path).fingerprint != before
