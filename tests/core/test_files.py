"""Files are whole or absent, and the system's errors are sentences."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dougong.core import files
from dougong.core.errors import FileError, ResourceError, UsageError


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    files.write_whole(tmp_path / "a", "one")
    files.write_whole(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_whole(tmp_path / "a", "one")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left on device") as caught:
        files.write_whole(tmp_path / "a", "two")
    assert caught.value.name == "E-DISK"
    assert (tmp_path / "a").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with files.new_folder(tmp_path / "f") as folder:
        (folder / "a").write_text("one")
        assert not (tmp_path / "f").exists()
    assert (tmp_path / "f" / "a").read_text() == "one"
    with pytest.raises(OSError, match="none"), files.new_folder(tmp_path / "f") as folder:
        (folder / "none" / "a").write_text("two")
    assert (tmp_path / "f" / "a").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_folder_that_exists_is_replaced(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with files.new_folder(tmp_path / "f") as folder:
            (folder / text).write_text(text)
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_what_is_missing_or_no_file_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist. Check the path"):
        files.read_json(tmp_path / "none.json")
    with pytest.raises(FileError, match="cannot be read"):
        files.read_json(tmp_path)


def test_broken_json_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1,\n "b": }')
    with pytest.raises(FileError, match="must be JSON, but is not: .*line 2"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[" * 100_000)
    with pytest.raises(FileError, match="must be JSON"):
        files.read_json(tmp_path / "b.json")


def test_json_is_written_so_that_it_reads_back(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert files.read_json(tmp_path / "a.json") == {"ä": [1, None]}
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(tmp_path / "a.json", float("nan"))


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "", "a\0b", "link/secret"])
def test_a_name_that_leads_outside_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "link").symlink_to(tmp_path)
    with pytest.raises(FileError, match="leads outside"):
        files.inside(tmp_path / "inner", name)


def test_a_name_inside_is_taken(tmp_path: Path) -> None:
    assert files.inside(tmp_path, "a/b") == tmp_path / "a" / "b"


def test_free_bytes_are_those_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert files.free_bytes(tmp_path / "not" / "there") > 0


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")
