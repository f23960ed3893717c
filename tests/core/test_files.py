"""Files are whole or absent, and the system's errors are sentences."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dougong.core import files
from dougong.core.errors import FileError, ResourceError, UntrustedError, UsageError


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


# Reading: regular files only, in bounded memory, strictly

READERS = [files.read_bytes, files.read_text, files.open_binary, files.read_json, files.sha256, files.read_tensors]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_what_is_no_regular_file_is_refused_unopened(read: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path / "socket", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(FileError, match="must be a regular file, but is a pipe, a socket or a device"):
            read(path)
    with pytest.raises(FileError, match="Is a directory"):
        read(tmp_path)
    server.close()


def test_a_pipe_that_is_no_longer_a_file_when_opened_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    innocent = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda path: innocent)
    with pytest.raises(FileError, match="must be a regular file"):
        files.read_bytes(tmp_path / "pipe")


@pytest.mark.parametrize("mode", ["wb", "ab", "a+b"])
def test_a_pipe_is_not_written(mode: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="must be a regular file"):
        files.open_binary(tmp_path / "pipe", mode)


@pytest.mark.parametrize("mode", ["wb", "ab", "a+b"])
def test_what_is_written_does_not_follow_a_link_to_another_file(mode: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "log").symlink_to("precious")
    (tmp_path / "new").symlink_to("made")
    (tmp_path / "nothing").symlink_to("/dev/null")
    for name in ("log", "new"):
        with pytest.raises(FileError, match="must be a file to write, but is a link"):
            files.open_binary(tmp_path / name, mode)
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "made").exists()
    files.open_binary(tmp_path / "nothing", mode).close()


def test_settings_are_an_object_that_asks_for_no_code(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [{"b": 1}], "__note__": "__class__"}')
    assert files.read_settings(tmp_path / "a.json")["a"] == [{"b": 1}]
    (tmp_path / "a.json").write_text('{"a": [{"b": {"_target_": "os.system"}}]}')
    with pytest.raises(UntrustedError, match="must be data, but its key '_target_' asks for code"):
        files.read_settings(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(FileError, match="must be a JSON object, but is a list"):
        files.read_settings(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is given twice"),
        ("[NaN]", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ("[1e999]", "the number 1e999 is too large"),
        ("[" * 300 + "]" * 300, "nested deeper than 200"),
        ("[" * 100_000, "nested deeper than 200"),
        ("9" * 10_000, "Exceeds the limit"),
        ("[" + "[]," * 4_000_000 + "[]]", "has more than 4,000,000 values"),
        (b'"\xff"', "can't decode byte"),
        ('{"a": ["\\ud83d"]}', "its text holds half a surrogate pair"),
        ('{"\\uDE00": 1}', "its text holds half a surrogate pair"),
        ("", "Expecting value"),
    ],
    ids=["twice", "nan", "infinity", "large", "deep", "deeper", "digits", "many", "bytes", "half", "half key", "empty"],
)
def test_json_is_read_strictly(text: str | bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileError, match=f"a.json must be JSON, but is not: .*{reason}"):
        files.read_json(tmp_path / "a.json")


def test_sound_json_is_what_it_was(tmp_path: Path) -> None:
    value = {"a": [1, -2.5, 1e300, None, True, "\u2028ä😀", {"a": {}}], "b": 10**30}
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(value), encoding="utf-8")
    assert files.read_json(tmp_path / "a.json") == value


def test_json_that_is_too_large_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text('"' + "x" * 100 + '"')
    assert len(files.read_json(tmp_path / "a.json")) == 100
    monkeypatch.setattr(files, "JSON_BYTES", 50)
    with pytest.raises(FileError, match="must have at most 50 bytes"):
        files.read_json(tmp_path / "a.json")


def test_tensors_are_read_as_they_were_written(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0, dtype=torch.bfloat16), "c": torch.tensor(True)}
    save_file(tensors, tmp_path / "a.safetensors")
    found = files.read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert found.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes of the file's 0"),
        (struct.pack("<Q", 2**63) + b"{}", "its header would have 9,223,372,036,854,775,808 bytes"),
        (struct.pack("<Q", 3) + b"{}", "its header would have 3 bytes"),
        (struct.pack("<Q", 2) + b"[]", "its header is no JSON object"),
        (struct.pack("<Q", 2) + b"{]", "its header is no JSON"),
    ],
)
def test_tensors_behind_a_lying_header_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(FileError, match=f"must be a whole safetensors file, but is corrupt: .*{reason}"):
        files.read_tensors(tmp_path / "a.safetensors")


def test_a_tensor_named_twice_is_refused(tmp_path: Path) -> None:
    one = '"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}'
    for header, passes in ((f"{{{one}}}", True), (f"{{{one}, {one}}}", False)):
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + b"1234")
        if passes:
            assert files.read_tensors(tmp_path / "a.safetensors")["a"].tolist() == list(b"1234")
        else:
            with pytest.raises(FileError, match="the key 'a' is given twice"):
                files.read_tensors(tmp_path / "a.safetensors")


def test_numbers_are_mapped_and_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    np.arange(5, dtype="<u2").tofile(tmp_path / "a.bin")
    assert files.map_array(tmp_path / "a.bin", "<u2").tolist() == [0, 1, 2, 3, 4]
    assert not files.map_array(tmp_path / "a.bin", "<u2").flags.writeable
    (tmp_path / "a.bin").write_bytes(b"123")
    with pytest.raises(FileError, match="has 3 bytes. It was cut off"):
        files.map_array(tmp_path / "a.bin", "<u2")
    (tmp_path / "a.bin").write_bytes(b"")
    assert len(files.map_array(tmp_path / "a.bin", "<u2")) == 0


def test_texts_of_the_package_are_read() -> None:
    assert "model:" in files.read_own("recipes/gpt-stdlib.yaml")


def test_names_that_can_be_no_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for name in ("x" * 300, "\ud800", "circle"):
        with pytest.raises(FileError, match="leads outside"):
            files.inside(tmp_path, name)
    with pytest.raises(FileError, match="cannot be read: File name too long"):
        files.read_bytes(tmp_path / ("x" * 300))


def test_a_member_of_a_folder_is_a_regular_file_in_it_or_absent(tmp_path: Path) -> None:
    folder = tmp_path / "models--a--b" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blob").touch()
    (tmp_path / "secret").touch()
    (folder / "good").symlink_to("../../blob")
    (folder / "bad").symlink_to(tmp_path / "secret")
    assert files.member(folder, "good").is_file()
    assert not files.member(folder, "absent").exists()
    with pytest.raises(FileError, match="leads outside"):
        files.member(folder, "bad")
    os.mkfifo(folder / "pipe")
    with pytest.raises(FileError, match="must be a regular file"):
        files.member(folder, "pipe")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "link").symlink_to("../secret")
    with pytest.raises(FileError, match="leads outside"):
        files.member(plain, "link")
