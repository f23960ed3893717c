from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dougong.core import log
from dougong.core.config import validate
from dougong.core.errors import FileError, RecipeError, UsageError
from dougong.data.classes import sorted_labels
from dougong.data.classified import ClassifiedData
from dougong.data.datasets.image_table import ImageTableConfig
from tests.data.pictures import folder

ROWS = [(f"{label}/{number:03}.png", label) for label in ("cat", "dog") for number in range(30)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder(tmp_path / "set", {"cat": 30, "dog": 30})


def prepared(table: Path, **options: Any) -> ClassifiedData:
    with log.listening(lambda line: None):
        return validate(ImageTableConfig, {"path": str(table), **options}).prepare(table.parent / ".cache")


def written(path: Path, rows: list[tuple[str, Any]], header: str = "path,label") -> Path:
    """Writes a table of the kind that its name tells."""
    first, second = header.split(",")
    if ".jsonl" in path.name:
        text = "".join(json.dumps({first: name, second: label, "more": [1]}) + "\n" for name, label in rows)
    else:
        sign = "\t" if ".tsv" in path.name else ","
        text = sign.join((first, second)) + "\n" + "".join(f"{name}{sign}{label}\n" for name, label in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.csv.gz", "t.parquet"])
def test_tables_of_every_kind_list_the_same_pictures(name: str, root: Path) -> None:
    if name == "t.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        columns = {"path": [row[0] for row in ROWS], "label": [row[1] for row in ROWS]}
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), root / name)
    else:
        written(root / name, ROWS)
    data = prepared(root / name)
    train = data.train[0][0]
    assert (data.labels, data.counts[0]["read"], data.counts[0]["used"]) == (["cat", "dog"], 60, 60)
    assert all(data.labels[train[n].label] in train.name(n) for n in range(len(train)))
    other = prepared(written(root / "other.csv", ROWS))
    assert train.fingerprint == other.train[0][0].fingerprint


def test_fields_can_be_named_and_json_labels_be_numbers(root: Path) -> None:
    rows = [(path, 10 if label == "cat" else 9) for path, label in ROWS]
    table = written(root / "t.jsonl", rows, "file_name,class")
    data = prepared(table, picture_field="file_name", label_field="class")
    assert data.labels == ["9", "10"]
    with pytest.raises(FileError, match=r"t\.jsonl, line 1: a record must have the field 'path', but has only 'file_"):
        prepared(table)


def test_labels_are_sorted_as_numbers_or_by_the_alphabet() -> None:
    assert sorted_labels(["10", "9", "9", "01", "1"]) == ["01", "1", "9", "10"]
    assert sorted_labels(["10", "9", "b"]) == ["10", "9", "b"]


def test_table_of_its_own_to_validate_on_and_given_classes(root: Path) -> None:
    table, apart = written(root / "t.csv", ROWS[:50]), written(root / "v.csv", ROWS[50:])
    data = prepared(table, validation_path=str(apart), classes=["dog", "cat"])
    assert (len(data.train[0][0]), len(data.validation), data.labels) == (50, 10, ["dog", "cat"])
    assert data.validation[0].label == 0
    with pytest.raises(
        FileError, match=r"v\.csv, line 2: a class must be known, but 'dog' is not\. Known: cat\. Repair"
    ):
        prepared(written(root / "t.csv", ROWS[:30]), validation_path=str(apart))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_bad_rows_and_pictures_are_counted_with_the_others(kind: str, root: Path) -> None:
    rows: list[tuple[str, Any]] = [*ROWS, ("none.png", "cat"), ("broken.png", "dog"), ("", "dog"), ("cat/001.png", "")]
    (root / "broken.png").write_bytes(b"no picture")
    table = written(root / f"t.{kind}", rows)
    with table.open("ab") as file:
        file.write(b"\n" + (b'"a,b,c\n' if kind == "csv" else b"{broken\n"))
    [count] = prepared(table, max_bad_samples=5).counts
    assert (count["read"], count["used"], count["quarantined"]) == (65, 60, 5)
    with pytest.raises(FileError, match="bad sample 5, and max_bad_samples is 4"):
        prepared(table, max_bad_samples=4)
    [written_down] = (root / ".cache").rglob("quarantine.jsonl")
    quarantined = [json.loads(line) for line in written_down.read_text().splitlines()]
    names = sorted(each["where"].removeprefix(f"{root}/") for each in quarantined)
    first = 2 if kind == "csv" else 1
    rows_named = [f"t.{kind}, line {number + first}" for number in (62, 63, 65)]
    assert names == sorted(["none.png", "broken.png", *rows_named])


def test_what_is_no_table_is_told(root: Path) -> None:
    (root / "t.txt").write_text("a")
    with pytest.raises(UsageError, match=r"t\.txt must be a \.csv, \.tsv, \.jsonl, \.json or \.parquet file by"):
        prepared(root / "t.txt")
    with pytest.raises(UsageError, match="does not exist"):
        prepared(root / "nothing.csv")
    with pytest.raises(FileError, match="must have the column 'path', but has 'a', 'b'"):
        prepared(written(root / "t.csv", ROWS, "a,b"))
    with pytest.raises(RecipeError, match="label_field must be another field than the path's"):
        validate(ImageTableConfig, {"path": "t.csv", "label_field": "path"})
