from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dougong.core.config import validate
from dougong.core.errors import FileError, MissingExtra, UsageError
from dougong.data.source import Tally
from dougong.data.sources.hub import HubConfig

pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set as it lies on the hub: a card, and two splits of which one has two files."""
    root = tmp_path / "set"
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A set\n")
    for name, numbers in {"train-0": range(5), "train-1": range(5, 9), "test-0": range(9, 11)}.items():
        lines = (json.dumps({"text": f"text {number} 中", "id": number}) for number in numbers)
        (root / "data" / f"{name}.jsonl").write_text("\n".join(lines))
    return root


def read(folder: Path, **options: Any) -> tuple[list[str], Tally]:
    tally = Tally()
    source = validate(HubConfig, {"dataset": str(folder), **options}).build()
    return [document.text for document in source.documents(tally)], tally


def test_local_folder_is_streamed_by_split(folder: Path) -> None:
    texts, tally = read(folder)
    assert texts == [f"text {number} 中" for number in range(9)]
    assert tally.read == tally.used == 9
    assert read(folder, split="test")[0] == ["text 9 中", "text 10 中"]
    assert len(read(folder, limit=6)[0]) == 6


def test_licence_is_that_of_the_card(folder: Path) -> None:
    assert HubConfig(dataset=str(folder)).build().licence == "cc-by-4.0"
    (folder / "README.md").unlink()
    assert HubConfig(dataset=str(folder)).build().licence == "unknown"


def test_what_is_read_and_any_edit_change_the_fingerprint(folder: Path) -> None:
    def fingerprint(**options: Any) -> str:
        return HubConfig(dataset=str(folder), **options).build().fingerprint

    found = {fingerprint(), fingerprint(split="test"), fingerprint(limit=3), fingerprint(field="id")}
    assert len(found) == 4
    assert fingerprint() in found
    (folder / "data" / "test-0.jsonl").write_text('{"text": "new"}')
    assert fingerprint() not in found


def test_wrong_names_are_usage_errors(folder: Path) -> None:
    with pytest.raises(UsageError, match="must be readable, but is not: Bad split: dev. Available splits"):
        read(folder, split="dev")
    with pytest.raises(UsageError, match="BuilderConfig 'german' not found"):
        read(folder, config="german")
    with pytest.raises(FileError, match="record 1: a record must have the field 'body', but has only 'text', 'id'"):
        read(folder, field="body")
    with pytest.raises(FileError, match="record 1: the field 'id' must be text, but is int"):
        read(folder, field="id")


def test_records_without_text_are_counted(folder: Path) -> None:
    (folder / "data" / "train-1.jsonl").write_text('{"text": null, "id": 3}\n{"text": "", "id": 4}')
    texts, tally = read(folder, max_bad_samples=1)
    assert len(texts) == tally.used == 5
    assert tally.quarantined == [(f"{folder}, record 6", "the field 'text' must be text, but is null")]
    assert tally.left_out == {"empty": 1}


def test_broken_file_is_refused(folder: Path) -> None:
    (folder / "data" / "train-1.jsonl").write_text('{"text": "a"}\n{broken')
    with pytest.raises(FileError, match="must be readable, but is not: JSON parse error"):
        read(folder)


def test_missing_library_is_named_with_what_to_type(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'dougong\[hub\]'"):
        HubConfig(dataset=str(folder)).build()


def test_commit_needs_no_look_at_the_hub() -> None:
    source = HubConfig(dataset="owner/name", revision="0123456789abcdef0123456789abcdef01234567").build()
    other = HubConfig(dataset="owner/name", revision="1123456789abcdef0123456789abcdef01234567").build()
    assert source.fingerprint != other.fingerprint
