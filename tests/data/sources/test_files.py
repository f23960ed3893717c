from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dougong.core.config import try_validate, validate
from dougong.core.errors import FileError, UsageError
from dougong.data.source import Tally
from dougong.data.sources.files import FilesConfig
from tests.conftest import shared


def config(*paths: Path | str, **options: Any) -> FilesConfig:
    return validate(FilesConfig, {"paths": [str(path) for path in paths], **options})


def read(*paths: Path | str, **options: Any) -> tuple[list[str], Tally]:
    tally = Tally()
    return [document.text for document in config(*paths, **options).build().documents(tally)], tally


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as users have them: nested, with hidden, binary and empty files."""
    root = tmp_path / "corpus"
    contents = {
        "b.txt": b"b text",
        "a.md": b"# a",
        "code/main.py": b"print()",
        "code/empty/__init__.py": b"",
        "code/deep/er/x.rs": b"fn main() {}",
        "records.jsonl": b'{"text": "r1"}\n{"text": "r2"}\n',
        ".git/config": b"hidden",
        ".hidden.txt": b"hidden",
        "picture.png": b"\x89PNG\r\n\0\0\0\r",
        "utf16.txt": "wide".encode("utf-16"),
    }
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_folder_gives_every_text_below_it_in_order_and_counts_the_rest(folder: Path) -> None:
    texts, tally = read(folder)
    assert texts == ["# a", "b text", "fn main() {}", "print()", "r1", "r2", "wide"]
    assert tally.left_out == {"hidden": 2, "binary": 1, "empty": 1}
    assert tally.read == tally.used == 7


def test_folder_leaves_out_links_to_folders_and_devices(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    texts, tally = read(folder)
    assert len(texts) == 7
    assert tally.left_out["no regular file"] == 2


def test_glob_matches_files_at_any_depth(folder: Path) -> None:
    assert read(folder / "**" / "*.py", folder / "*.txt")[0] == ["print()", "b text", "wide"]


def test_file_named_twice_is_read_once(folder: Path) -> None:
    assert read(folder / "b.txt", folder / "*.txt", folder / "code" / ".." / "b.txt")[0] == ["b text", "wide"]


def test_path_that_does_not_exist_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.txt does not exist\. Check the path\.") as error:
        read(folder / "nothing.txt")
    assert error.value.exit_code == 2
    with pytest.raises(UsageError, match=r"\*\.xyz must match files, but matches none") as error:
        read(folder / "*.xyz")
    assert error.value.exit_code == 2


def test_named_file_that_is_empty_is_refused(folder: Path) -> None:
    with pytest.raises(FileError, match=r"__init__\.py must hold text, but is empty") as error:
        read(folder / "b.txt", folder / "code" / "empty" / "__init__.py")
    assert error.value.exit_code == 3
    (folder / "none.jsonl").write_text("\n\n")
    with pytest.raises(FileError, match=r"none\.jsonl must hold text, but has no record"):
        read(folder / "none.jsonl")
    with pytest.raises(FileError, match=r"img_empty\.jpg must hold text, but is empty"):
        read(shared("data/dirty/img_empty.jpg"))


def test_named_binary_file_is_refused_and_said_to_be_binary(folder: Path) -> None:
    with pytest.raises(FileError, match=r"picture\.png: text must be UTF-8, but byte 0x89 at offset 0"):
        read(folder / "picture.png")
    os.mkfifo(folder / "pipe")
    with pytest.raises(FileError, match="must be a file or a folder, but is neither"):
        read(folder / "pipe")


def test_folder_without_text_is_refused(folder: Path) -> None:
    with pytest.raises(FileError, match=r"no document is left \(0 documents used .* left out: 1 empty\)"):
        read(folder / "code" / "empty")


def test_folder_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(Exception, match="cannot be read: permission denied") as error:
        read(folder)
    assert error.value.exit_code == 4  # type: ignore[attr-defined]


def test_same_content_elsewhere_has_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    before = config(folder).build().fingerprint
    folder.rename(tmp_path / "moved")
    assert config(tmp_path / "moved").build().fingerprint == before


@pytest.mark.parametrize("name", ["b.txt", "records.jsonl", "code/deep/er/x.rs"])
def test_any_edit_changes_the_fingerprint_even_with_size_and_time_kept(folder: Path, name: str) -> None:
    before, path = config(folder).build().fingerprint, folder / name
    times, raw = path.stat(), bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert config(folder).build().fingerprint != before


def test_whatever_shapes_the_documents_changes_the_fingerprint(folder: Path) -> None:
    found = {
        config(folder, **options).build().fingerprint
        for options in ({}, {"field": "body"}, {"encoding": "latin-1"}, {"max_bad_samples": 1})
    }
    assert len(found) == 4
    (folder / "new.txt").write_text("x")
    assert config(folder).build().fingerprint not in found


def test_weight_and_licence_do_not_change_the_fingerprint(folder: Path) -> None:
    assert config(folder, weight=2, licence="MIT").build().fingerprint == config(folder).build().fingerprint
    assert config(folder, licence="MIT").build().licence == "MIT"


@pytest.mark.parametrize("encoding", ["utf9", "rot13", "hex", ""])
def test_encoding_that_is_none_is_a_fault_of_the_recipe(encoding: str) -> None:
    _, complaints = try_validate(FilesConfig, {"paths": ["a"], "encoding": encoding})
    assert [complaint.text for complaint in complaints] == [
        f"encoding must be a text encoding, but is {encoding!r}. Try utf-8, cp1252 or latin-1."
    ]


def test_home_folder_is_understood(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert read("~/b.txt")[0] == ["b text"]
    assert read("~/*.md")[0] == ["# a"]
