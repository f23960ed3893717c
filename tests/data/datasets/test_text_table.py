from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong.core import log
from dougong.core.config import validate
from dougong.core.errors import FileError, RecipeError, UsageError
from dougong.data.datasets.labelled_text import LabelledTextConfig
from dougong.data.datasets.labelled_text.prepared import LabelledTextData
from dougong.data.datasets.text_table import TextTableConfig
from dougong.data.datasets.text_table.prepared import TextTableData
from tests.conftest import shared

ROWS = [
    (("good", "bad")[number % 2], f"this film number {number} is {('fine', 'poor')[number % 2]}")
    for number in range(60)
]
PIECES = {"name": "wordpiece", "vocab_size": 60}


def table(path: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("label", "text")) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in (header, *rows) if row))
    return path


def prepared(path: Path, heard: list[str] | None = None, **options: Any) -> TextTableData:
    values = {"paths": [str(path)], "seq_len": 12, **options}
    with log.listening((heard if heard is not None else []).append):
        return validate(TextTableConfig, values).prepare(path.parent / "cache")


def texts(data: TextTableData | LabelledTextData, part: Any) -> list[str]:
    return [data.tokenizer.decode(part[number].tokens) for number in range(len(part))]


def test_rows_become_examples_of_both_parts(tmp_path: Path) -> None:
    data = prepared(table(tmp_path / "a.tsv", ROWS), validation={"fraction": 0.3})
    train = data.train[0][0]
    assert data.labels == ["bad", "good"]
    assert data.determines == {"vocab_size": data.tokenizer.vocab_size, "num_classes": 2}
    assert len(train) + len(data.validation) == 60
    assert 8 <= len(data.validation) <= 30
    for number in range(len(train)):
        assert ("fine" in texts(data, train)[number]) == (data.labels[train[number].label] == "good")
    [count] = data.counts
    assert (count["read"], count["used"], count["quarantined"]) == (60, 60, 0)
    assert data.length(train[0]) == len(train[0].tokens) == 6
    assert train[0].segments is None


def test_tokenizer_is_learned_from_the_training_part_alone(tmp_path: Path) -> None:
    path, apart = table(tmp_path / "a.tsv", ROWS), table(tmp_path / "v.tsv", [("good", "unheardof words"), ROWS[1]])
    data = prepared(path, validation_paths=[str(apart)])
    assert (len(data.train[0][0]), len(data.validation)) == (60, 2)
    assert texts(data, data.validation)[0] == "[UNK] [UNK]" or "unheardof" not in texts(data, data.validation)[0]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_every_form_gives_the_same_data(tmp_path: Path, ending: str) -> None:
    other = tmp_path / f"a.{ending}"
    rows = [{"text": text, "label": label} for label, text in ROWS]
    if ending == "csv":
        other.write_text("label,text\n" + "".join(f'{each["label"]},"{each["text"]}"\n' for each in rows))
    else:
        other.write_text(json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows)))
    assert prepared(other).fingerprint == prepared(table(tmp_path / "a.tsv", ROWS)).fingerprint


def test_columns_are_chosen_by_name_or_named_where_there_is_no_header(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", ROWS, ("stars", "review"))
    bare = table(tmp_path / "b.tsv", ROWS, ())
    names = {"text": "review", "label": "stars"}
    named = prepared(bare, columns=["stars", "review"], **names)
    assert named.fingerprint == prepared(path, **names).fingerprint
    with pytest.raises(FileError, match=r"a\.tsv must have the column 'text', but has 'stars', 'review'"):
        prepared(path)


def test_classes_are_sorted_or_in_the_order_given(tmp_path: Path) -> None:
    rows = [(str(number % 11), f"text {number}") for number in range(200)]
    data = prepared(table(tmp_path / "a.tsv", rows))
    assert data.labels == [str(number) for number in range(11)]
    given = prepared(table(tmp_path / "b.tsv", ROWS), labels=["good", "bad"])
    first = given.train[0][0]
    assert (texts(given, first)[0].endswith("fine")) == (first[0].label == 0)
    heard: list[str] = []
    prepared(table(tmp_path / "b.tsv", ROWS), heard, labels=["good", "bad", "so so"])
    assert any("every class should have rows to train on, but these have none: so so." in line for line in heard)


def test_class_that_is_only_kept_apart_is_told_in_one_sentence(tmp_path: Path) -> None:
    path, apart = table(tmp_path / "a.tsv", ROWS), table(tmp_path / "v.tsv", [*ROWS[:4], ("odd", "x"), ("odd", "y")])
    with pytest.raises(FileError) as error:
        prepared(path, validation_paths=[str(apart)], max_bad_samples=5)
    assert str(error.value) == (
        f"{apart}, line 6: the classes to validate on must be among those to train on, but 'odd' (2 rows) have no row "
        "there. Add some, or name all classes in labels."
    )
    assert error.value.exit_code == 3
    with pytest.raises(FileError, match=r"line 6: a class must be known, but 'odd' is not\. Known: bad, good\."):
        prepared(path, validation_paths=[str(apart)], labels=["good", "bad"])
    [count] = prepared(path, validation_paths=[str(apart)], labels=["good", "bad"], max_bad_samples=2).counts
    assert (count["read"], count["used"], count["quarantined"]) == (66, 64, 2)


def test_rows_without_text_or_class_are_counted(tmp_path: Path) -> None:
    rows = [*ROWS, ("good", " "), ("", "no class"), ("good",), ("good", "a", "b")]
    path = table(tmp_path / "a.tsv", rows)
    with pytest.raises(FileError, match=r"a\.tsv, line 63: the field 'label' must be given, but is empty\. Repair it"):
        prepared(path)
    data = prepared(path, max_bad_samples=3)
    [count] = data.counts
    assert (count["read"], count["used"], count["quarantined"], count["left_out"]) == (63, 60, 3, {"empty": 1})
    assert data.fingerprint == prepared(table(tmp_path / "b.tsv", ROWS)).fingerprint
    [written] = (tmp_path / "cache").glob("text_table-*/quarantine.jsonl")
    where = [json.loads(line)["where"] for line in written.read_text().splitlines()]
    assert sorted(where) == [f"{path}, line {number}" for number in (63, 64, 65)]


def test_text_is_framed_where_the_vocabulary_has_a_frame(tmp_path: Path) -> None:
    data = prepared(table(tmp_path / "a.tsv", ROWS), tokenizer=PIECES, seq_len=10)
    cls, sep = data.tokenizer.id_of("[CLS]"), data.tokenizer.id_of("[SEP]")
    for example in (data.train[0][0][number] for number in range(10)):
        assert (example.tokens[0], example.tokens[-1]) == (cls, sep)
        assert len(example.tokens) <= 10
        assert not np.isin(example.tokens[1:-1], [cls, sep]).any()
    bare = prepared(table(tmp_path / "a.tsv", ROWS), tokenizer={"name": "bytes"})
    assert (bare.train[0][0][0].tokens < 256).all()


def test_pair_is_read_together_with_segments_and_the_longer_is_cut(tmp_path: Path) -> None:
    rows = [(label, "one " * (number % 7 + 1), "two " * 8) for number, (label, _) in enumerate(ROWS)]
    path = table(tmp_path / "a.tsv", rows, ("label", "text", "other"))
    data = prepared(path, pair="other", tokenizer=PIECES, validation={"fraction": 0.3})
    sep = data.tokenizer.id_of("[SEP]")
    for example in (*(data.train[0][0][n] for n in range(len(data.train[0][0]))), data.validation[0]):
        assert example.segments is not None
        first = int(np.flatnonzero(example.tokens == sep)[0]) + 1
        assert list(example.segments) == [0] * first + [1] * (len(example.tokens) - first)
        assert len(example.tokens) == 12 or first < 6
        assert first - 2 >= min(4, len(data.tokenizer.encode("one")))
    assert data.counts[0]["train"]["too_long"] > 0
    alone = prepared(path, tokenizer=PIECES, validation={"fraction": 0.3})
    assert alone.train[0][0][0].segments is None
    assert alone.fingerprint != data.fingerprint


@pytest.mark.parametrize("too_long", ["cut", "split", "refuse"])
def test_long_texts_are_cut_split_or_refused(tmp_path: Path, too_long: str) -> None:
    path = table(tmp_path / "a.tsv", [*ROWS, ("good", "a b c d e f g h i j k l m n o")])
    options: dict[str, Any] = {
        "too_long": too_long,
        "seq_len": 7,
        "validation_paths": [str(table(tmp_path / "v.tsv", ROWS))],
    }
    heard: list[str] = []
    if too_long == "refuse":
        with pytest.raises(FileError, match=r"a\.tsv, line 62: a text must have at most 7 tokens, but has 15"):
            prepared(path, **options)
        return
    data = prepared(path, heard, **options)
    train = data.train[0][0]
    assert (data.counts[0]["train"]["too_long"], data.counts[0]["validation"]["too_long"]) == (1, 0)
    assert len(train) == {"cut": 61, "split": 63}[too_long]
    assert "".join(texts(data, train)[60:]).replace(" ", "") == {"cut": "abcdefg", "split": "abcdefghijklmno"}[too_long]
    assert {train[number].label for number in range(60, len(train))} == {data.labels.index("good")}
    said = {
        "cut": "1 of 121 examples are longer than 7 tokens: cut off",
        "split": "1 texts are longer than 7 tokens: split",
    }
    assert any(said[too_long] in line for line in heard)


def test_lines_of_a_class_are_framed_and_cut_alike(tmp_path: Path) -> None:
    for label in ("good", "bad"):
        (tmp_path / f"{label}.txt").write_text("".join(f"{text}\n" for name, text in ROWS if name == label))
    classes = [{"label": label, "paths": [str(tmp_path / f"{label}.txt")]} for label in ("bad", "good")]
    values = {"classes": classes, "tokenizer": PIECES, "seq_len": 6, "validation": {"fraction": 0.3}}

    def made(**options: Any) -> LabelledTextData:
        with log.listening(lambda line: None):
            return validate(LabelledTextConfig, {**values, **options}).prepare(tmp_path / "cache")

    data = made()
    example = data.train[0][0][0]
    assert (example.tokens[0], example.tokens[-1], len(example.tokens)) == (2, 3, 6)
    assert data.length(example) == 6
    assert len(made(too_long="split").train[0][0]) > len(data.train[0][0])
    with (tmp_path / "bad.txt").open("a") as file:
        file.write("\n  \n")
    assert [count["left_out"] for count in made().counts] == [{"empty": 2}, {}]
    with pytest.raises(FileError, match=r"(good|bad)\.txt, line 1: a text must have at most 4 tokens"):
        made(too_long="refuse")


def test_frame_must_leave_room(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must leave room for text beside the 2 tokens around it, but has 2 tokens"):
        prepared(table(tmp_path / "a.tsv", ROWS), tokenizer=PIECES, seq_len=2)
    with pytest.raises(UsageError, match=r"neither data\.seq_len nor model\.max_seq_len gives it"):
        prepared(table(tmp_path / "a.tsv", ROWS), seq_len=None)


def test_part_without_rows_and_single_class_are_told(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", ROWS)
    with pytest.raises(
        FileError, match=r"there must be rows to validate on, but .*a\.tsv gives none \(60 rows used of"
    ):
        prepared(path, validation_paths=[str(table(tmp_path / "v.tsv", []))])
    with pytest.raises(FileError, match="must be two classes or more, but all rows are of 'good'"):
        prepared(table(tmp_path / "b.tsv", [row for row in ROWS if row[0] == "good"]))


FAULTS: dict[str, dict[str, Any]] = {
    "paths is required, unless hub is given": {"paths": None},
    "paths has no effect beside hub": {"hub": {"dataset": "owner/name"}},
    "columns has no effect, as it is for files": {"paths": None, "hub": {"dataset": "a"}, "columns": ["text", "label"]},
    "encoding has no effect, as it is for files": {"paths": None, "hub": {"dataset": "a"}, "encoding": "cp1252"},
    "validation has no effect where validation_paths is": {"validation_paths": ["b"], "validation": {"fraction": 0.5}},
    "validation has no effect where hub.validation_split is": {
        "paths": None,
        "hub": {"dataset": "a", "validation_split": "test"},
        "validation": {"fraction": 0.5},
    },
    "too_long must be cut or refuse where there is a pair": {"pair": "b", "too_long": "split"},
    "label must be a column of its own": {"label": "text"},
    "pair must be a column of its own": {"pair": "text"},
    "text must be one of columns, but 'text' is not. Did you mean texts?": {"columns": ["texts", "label"]},
    "columns[2] must be a name of its own": {"columns": ["text", "label", "label"]},
    "labels[2] must be a class of its own": {"labels": ["a", "b", "a"]},
    "hub.validation_split must be another split": {"paths": None, "hub": {"dataset": "a", "validation_split": "train"}},
}


@pytest.mark.parametrize("said", FAULTS)
def test_settings_that_do_not_go_together_are_refused(said: str) -> None:
    with pytest.raises(RecipeError) as error:
        validate(TextTableConfig, {"paths": ["a.tsv"], **FAULTS[said]})
    assert any(said in complaint for complaint in error.value.complaints)
    assert validate(TextTableConfig, {"paths": ["a.tsv"]}).foreseen() == {}
    known = validate(TextTableConfig, {"paths": ["a"], "labels": ["a", "b"], "tokenizer": PIECES}).foreseen()
    assert known == {"num_classes": 2, "vocab_size": 60}


def test_set_of_the_hub_names_its_classes_by_its_own_numbers(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = tmp_path / "set"
    root.mkdir()
    card = {
        "dataset_info": {
            "features": [
                {"name": "text", "dtype": "string"},
                {"name": "label", "dtype": {"class_label": {"names": {"0": "good", "1": "bad"}}}},
            ]
        }
    }
    (root / "README.md").write_text(f"---\nlicense: cc-by-4.0\n{json.dumps(card)[1:-1]}\n---\n")
    for split, rows in {"train": ROWS[:40], "test": ROWS[40:]}.items():
        lines = (json.dumps({"text": text, "label": ["good", "bad"].index(label)}) for label, text in rows)
        (root / f"{split}.jsonl").write_text("\n".join(lines))
    hub = {"dataset": str(root), "validation_split": "test"}
    data = prepared(tmp_path / "a.tsv", paths=None, hub=hub)
    assert (len(data.train[0][0]), len(data.validation), data.licence) == (40, 20, "cc-by-4.0")
    assert data.labels == ["bad", "good"]
    assert [data.train[0][0][number].label for number in range(4)] == [1, 0, 1, 0]
    with pytest.raises(FileError, match=r"set, train must have the column 'body', but has 'text', 'label'"):
        prepared(tmp_path / "a.tsv", paths=None, hub=hub, text="body")


def test_real_languages_are_read_whole(tmp_path: Path) -> None:
    path = shared("data/classification/langid/test.tsv")
    data = prepared(tmp_path / "a", paths=[str(path)], tokenizer={"name": "bytes"}, seq_len=64)
    assert (len(data.train[0][0]) + len(data.validation), len(data.labels)) == (1000, 20)
    assert data.labels[0] == "arb"
