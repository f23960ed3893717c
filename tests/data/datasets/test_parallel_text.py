from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dougong.core.config import validate
from dougong.core.errors import FileError, RecipeError, UsageError
from dougong.data.datasets.parallel_text import ParallelTextConfig
from tests.conftest import shared

BYTES = {"name": "bytes"}


def prepared(seq_len: int = 64, **values: Any) -> Any:
    return validate(ParallelTextConfig, {"tokenizer": BYTES, **values}).prepare(seq_len=seq_len)


def table(folder: Path, rows: list[str], name: str = "pairs.tsv", header: str | None = "source\ttarget") -> str:
    path = folder / name
    path.write_text("\n".join(([header] if header else []) + rows) + "\n", encoding="utf-8")
    return str(path)


def many(count: int) -> list[str]:
    return [f"word {number}\tWort {number}" for number in range(count)]


def texts(part: Any) -> list[tuple[str, str]]:
    return list(part.texts)


def test_a_table_gives_pairs_with_the_tokens_that_end_them(tmp_path: Path):
    data = prepared(paths=[table(tmp_path, many(60))])
    train = data.train[0][0]
    assert len(train) + len(data.validation) == 60
    assert {*texts(train), *texts(data.validation)} == {(f"word {n}", f"Wort {n}") for n in range(60)}
    pair = train[0]
    assert bytes(pair.source[:-1].tolist()).decode() == texts(train)[0][0]
    assert pair.source[-1] == pair.target[-1] == data.tokenizer.eot_id == 256
    assert data.determines == {"vocab_size": 257, "source_vocab_size": None, "start_id": 256}
    assert data.length(pair) == len(pair.source) + len(pair.target)
    for part in (train, data.validation):
        assert [data.texts(part[n].number) for n in range(len(part))] == texts(part)


def test_equal_texts_stay_on_one_side(tmp_path: Path):
    rows = [f"word {number}\tWort {number} {form}" for number in range(40) for form in "ab"]
    data = prepared(paths=[table(tmp_path, rows)])
    sides = [{source for source, _ in texts(part)} for part in (data.train[0][0], data.validation)]
    assert not sides[0] & sides[1]


def test_columns_have_the_names_that_are_given(tmp_path: Path):
    rows = ["x\tone\teins", "y\ttwo\tzwei"]
    path, apart = table(tmp_path, rows, header=None), table(tmp_path, rows, "v.tsv", header=None)
    data = prepared(paths=[path], validation_paths=[apart], columns=["id", "en", "de"], source="en", target="de")
    assert texts(data.validation) == [("one", "eins"), ("two", "zwei")]
    with pytest.raises(FileError, match=r"must have the column 'sauce', but has 'source', 'target'. Did you mean"):
        prepared(paths=[table(tmp_path, many(3))], source="sauce")


def test_two_files_belong_together_line_by_line(tmp_path: Path):
    for name, word in (("a.en", "word"), ("a.de", "Wort"), ("v.en", "other"), ("v.de", "anders")):
        (tmp_path / name).write_text("".join(f"{word} {n}\n" if n != 3 else "\n" for n in range(6)))
    files = {side: [str(tmp_path / f"a.{end}")] for side, end in (("source_paths", "en"), ("target_paths", "de"))}
    apart = {f"validation_{side}": [path[0].replace("/a.", "/v.")] for side, path in files.items()}
    data = prepared(**files, **apart)
    assert texts(data.train[0][0]) == [(f"word {n}", f"Wort {n}") for n in (0, 1, 2, 4, 5)]
    assert texts(data.validation)[0] == ("other 0", "anders 0")
    assert data.counts[0]["left_out"] == {"without one side": 2}
    assert data.counts[0]["read"] == data.counts[0]["used"] == 10


def test_a_data_set_of_the_hub_with_languages_inside_a_column(tmp_path: Path):
    """A folder laid out like one; nothing is fetched."""
    for split in ("train", "test"):
        rows = [{"translation": {"en": f"{split} {n}", "de": f"{split}-{n}"}} for n in range(4)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hub = {"dataset": str(tmp_path), "validation_split": "test"}
    data = prepared(hub=hub, source="translation.en", target="translation.de")
    assert texts(data.train[0][0]) == [(f"train {n}", f"train-{n}") for n in range(4)]
    assert texts(data.validation)[3] == ("test 3", "test-3")
    with pytest.raises(FileError, match="must have the field 'fr', but has only 'en', 'de'"):
        prepared(hub=hub, source="translation.en", target="translation.fr")
    with pytest.raises(RecipeError, match="columns has no effect, as it is for files, and hub is given"):
        prepared(hub=hub, columns=["source", "target"])


def test_unlike_numbers_of_lines_are_refused(tmp_path: Path):
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_text("eins\nzwei\ndrei\n")
    with pytest.raises(FileError, match=r"must have the same number of lines.* but have 2 and 3. Find the line"):
        prepared(source_paths=[str(tmp_path / "a")], target_paths=[str(tmp_path / "b")])
    with pytest.raises(UsageError, match=r"must name as many files, .* but name 2 and 1"):
        prepared(source_paths=[str(tmp_path / "a"), str(tmp_path / "b")], target_paths=[str(tmp_path / "b")])


def test_bad_lines_are_counted_and_the_pair_left_aside(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"one\ntw\xe9\nthree\nfour\n")
    (tmp_path / "b").write_text("eins\nzwei\ndrei\nvier\n")
    files = {"source_paths": [str(tmp_path / "a")], "target_paths": [str(tmp_path / "b")]}
    apart = {f"validation_{side}": [str(tmp_path / "b")] for side in files}
    with pytest.raises(FileError, match=r"a, line 2: text must be UTF-8, but byte 0xE9 at offset 2 is not"):
        prepared(**files, **apart)
    data = prepared(**files, **apart, max_bad_samples=1)
    assert texts(data.train[0][0]) == [("one", "eins"), ("three", "drei"), ("four", "vier")]
    counts = data.counts[0]
    assert (counts["read"], counts["used"], counts["quarantined"]) == (8, 7, 1)


@pytest.mark.parametrize(("policy", "kept"), [("drop", 2), ("cut", 3)])
def test_long_pairs_are_counted_and_dropped_or_cut(
    tmp_path: Path, policy: str, kept: int, capsys: pytest.CaptureFixture[str]
):
    rows = ["a\tb", f"{'x' * 30}\tc", "d\te"]
    path = table(tmp_path, rows)
    data = prepared(16, paths=[path], validation_paths=[table(tmp_path, rows[:1], "v.tsv")], too_long=policy)
    train = data.train[0][0]
    assert len(train) == kept
    assert max(len(pair.source) for pair in (train[n] for n in range(kept))) == (16 if policy == "cut" else 2)
    assert data.counts[0]["train"] == {"pairs": kept, "too_long": 1}
    done = "left out" if policy == "drop" else "cut off"
    assert f"1 of 3 pairs to train on have a side longer than 16 tokens: {done}" in capsys.readouterr().err


def test_long_pairs_are_refused_where_that_is_asked_for(tmp_path: Path):
    path = table(tmp_path, ["a\tb", f"{'x' * 30}\tc"])
    with pytest.raises(FileError, match=r"must have at most 16 tokens with the one that ends it, but one has 31: 'xxx"):
        prepared(16, paths=[path], validation_paths=[path], too_long="refuse")
    with pytest.raises(FileError, match=r"there must be pairs to train on, but there are none \(1 read, 1 too long\)"):
        prepared(4, paths=[table(tmp_path, ["abcdef\tb"])], validation_paths=[path])


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_one_column_may_hold_several_languages(tmp_path: Path, ending: str):
    path, rows = tmp_path / f"a.{ending}", [{"translation": {"en": f"word {n}", "de": f"Wort {n}"}} for n in range(60)]
    if ending == "parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows)))
    columns = {"source": "translation.en", "target": "translation.de"}
    found, plain = prepared(paths=[str(path)], **columns), prepared(paths=[table(tmp_path, many(60))])
    assert found.fingerprint == plain.fingerprint
    with pytest.raises(FileError, match=r", (line|record|row) 1: a record must have the field 'es', but has only"):
        prepared(paths=[str(path)], **{**columns, "target": "translation.es"})


def test_rows_left_aside_are_named_and_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = table(tmp_path, ["alone", *many(60), "a\tb\tc"])
    config = validate(ParallelTextConfig, {"tokenizer": BYTES, "paths": [path], "max_bad_samples": 2})
    [count] = config.prepare(tmp_path / "cache", 64).counts
    assert (count["read"], count["used"], count["quarantined"]) == (62, 60, 2)
    [written] = (tmp_path / "cache").glob("parallel_text-*/quarantine.jsonl")
    assert [json.loads(line)["where"] for line in written.read_text().splitlines()] == [
        f"{path}, line 2",
        f"{path}, line 63",
    ]
    assert f"2 bad samples are left aside, named in {written}" in capsys.readouterr().err


def test_two_vocabularies_where_each_side_has_its_own(tmp_path: Path):
    path = table(tmp_path, many(20))
    data = prepared(paths=[path], validation_paths=[path], tokenizer={"name": "chars"}, target_tokenizer=BYTES)
    assert data.determines["source_vocab_size"] == data.tokenizer.vocab_size < 30
    assert data.determines["vocab_size"] == 257
    data.save_assets(tmp_path)
    assert (tmp_path / "source_tokenizer" / "tokenizer.json").exists()
    other = prepared(paths=[path], validation_paths=[path], tokenizer=BYTES)
    assert data.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "data.paths is required: name tables in paths, or plain texts in source_paths and target_paths."),
        ({"source_paths": ["a"]}, "target_paths is required: name tables in paths, or plain texts"),
        ({"paths": ["a"], "source_paths": ["b"]}, "source_paths has no effect beside paths. Remove one of the two."),
        (
            {"paths": ["a"], "validation_source_paths": ["b"]},
            "validation_source_paths has no effect, as it is for plain",
        ),
        ({"source_paths": ["a"], "target_paths": ["b"], "source": "x"}, "source has no effect, as it is for tables"),
        ({"paths": ["a"], "columns": ["x", "y"]}, "source must be one of columns, which are x, y, but is source."),
        (
            {"paths": ["a"], "target": "source"},
            "target must be another column than that of source, but both are 'source'.",
        ),
        (
            {"paths": ["a"], "validation_paths": ["b"], "validation": {"fraction": 0.5}},
            "validation has no effect where it is named what to validate on",
        ),
        (
            {"source_paths": ["a"], "target_paths": ["b"], "validation_source_paths": ["c"]},
            "validation_source_paths must be given together with validation_target_paths",
        ),
    ],
)
def test_what_has_no_effect_or_lacks_is_refused(values: dict[str, Any], complaint: str):
    with pytest.raises(RecipeError) as caught:
        validate(ParallelTextConfig, values)
    assert complaint.removeprefix("data.") in str(caught.value)


def test_misaligned_files_of_real_text_are_refused():
    dirty = shared("data/dirty")
    with pytest.raises(
        FileError, match=r"mt_misaligned.eng.txt and .* but have 50 and 49. Find the line that one lacks"
    ):
        prepared(
            source_paths=[str(dirty / "mt_misaligned.eng.txt")], target_paths=[str(dirty / "mt_misaligned.deu.txt")]
        )
