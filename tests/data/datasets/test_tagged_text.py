from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dougong.core import log
from dougong.core.config import try_validate, validate
from dougong.core.errors import FileError, UsageError
from dougong.data.datasets.tagged_text import TaggedTextConfig
from dougong.data.datasets.tagged_text.prepared import TaggedTextData
from dougong.data.examples import TaggedText
from dougong.data.source import Tally

NAMES = ["Anna", "Ben", "Cleo", "Dora"]
PLACES = ["Paris", "Rome", "Oslo"]
SENTENCES = [
    ([NAMES[n % 4], "saw", "New", PLACES[n % 3], "on", "day", str(n)], ["B-PER", "O", "B-LOC", "I-LOC", "O", "O", "O"])
    for n in range(24)
]
BYTES = {"name": "bytes"}


def conll(sentences: list[tuple[list[str], list[str]]], separator: str = " ") -> str:
    """Columns of word, number and tag."""
    return "\n".join(
        "".join(
            f"{separator.join([word, str(place), tag])}\n" for place, (word, tag) in enumerate(zip(*each, strict=True))
        )
        for each in sentences
    )


def jsonl(sentences: list[tuple[list[str], list[Any]]]) -> str:
    return "".join(
        json.dumps({"id": n, "tokens": words, "tags": tags}) + "\n" for n, (words, tags) in enumerate(sentences)
    )


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def prepared(*paths: str, seq_len: int | None = 64, **options: Any) -> TaggedTextData:
    apart = {} if "validation_paths" in options else {"validation": {"fraction": 0.25}}
    values = {"paths": list(paths), "tokenizer": BYTES, **apart, **options}
    with log.listening(lambda line: None):
        return validate(TaggedTextConfig, values).prepare(Path(paths[0]).parent / "cache", seq_len)


def read_back(data: TaggedTextData, example: TaggedText) -> list[tuple[str, str]]:
    """The words of an example with their tags."""
    starts = [place for place, tag in enumerate(example.tags) if tag >= 0]
    ends = [*starts[1:], len(example.tokens)]
    words = [data.tokenizer.decode(example.tokens[a:b]).strip() for a, b in zip(starts, ends, strict=True)]
    return [(word, data.labels[example.tags[place]]) for word, place in zip(words, starts, strict=True)]


def everything(data: TaggedTextData) -> list[list[tuple[str, str]]]:
    rows = [*(data.train[0][0][i] for i in range(len(data.train[0][0]))), *data.validation.rows]
    return sorted(read_back(data, row) for row in rows)


EXPECTED = sorted([*zip(words, tags, strict=True)] for words, tags in SENTENCES)


def test_every_word_keeps_its_tag_and_no_sentence_is_in_both_parts(tmp_path: Path) -> None:
    data = prepared(write(tmp_path / "a.conll", conll(SENTENCES)))
    assert data.labels == ["B-LOC", "B-PER", "I-LOC", "O"]
    assert data.determines == {"vocab_size": 257, "num_classes": 4}
    assert everything(data) == EXPECTED
    [count] = data.counts
    assert count["read"] == count["used"] == 24 == count["train"]["examples"] + count["validation"]["examples"]
    assert count["validation"]["examples"] > 0
    assert data.length(data.validation[0]) == len(data.validation[0].tokens)


@pytest.mark.parametrize("form", ["tabs", "gzip", "jsonl", "parquet", "json", "names", "numbers", "global", "document"])
def test_every_form_of_the_same_sentences_gives_the_same_examples(tmp_path: Path, form: str) -> None:
    options: dict[str, Any] = {}
    path = tmp_path / "data.conll"
    text = conll(SENTENCES)
    if form == "tabs":
        text = conll(SENTENCES, "\t").replace("\n", "\r\n")
    elif form == "gzip":
        path = tmp_path / "data.conll.gz"
        path.write_bytes(gzip.compress(text.encode()))
    elif form in ("jsonl", "json"):
        path = tmp_path / f"data.{form}"
        lines = jsonl(SENTENCES)
        text = lines if form == "jsonl" else "[" + ",".join(lines.splitlines()) + "]"
    elif form == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "data.parquet"
        table = {"words": [words for words, _ in SENTENCES], "ner": [tags for _, tags in SENTENCES]}
        parquet.write_table(arrow.table(table), path)
        options = {"word": "words", "tag": "ner"}
    elif form == "names":
        options = {"columns": ["form", "place", "ner"], "word": "form", "tag": "ner"}
    elif form == "numbers":
        options = {"word": 0, "tag": 2}
    elif form == "global":
        text, options = "# global.columns = form place ner\n# a remark\n" + text, {"word": "form", "tag": "ner"}
    elif form == "document":
        text = "-DOCSTART- -X- O\n\n" + text.replace("\n\n", "\n\n\n-DOCSTART- -X- O\n\n", 3)
    if form not in ("gzip", "parquet"):
        path.write_bytes(text.encode())
    plain = prepared(write(tmp_path / "plain.conll", conll(SENTENCES)))
    found = prepared(str(path), **options)
    assert found.fingerprint == plain.fingerprint
    assert everything(found) == EXPECTED


def test_universal_dependencies_give_their_forms_and_parts_of_speech(tmp_path: Path) -> None:
    rows = [
        "# sent_id = 1",
        "1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_",
        "1\tde\tde\tADP\t_\t_\t0\troot\t_\t_",
        "2\tle\tle\tDET\t_\t_\t0\tdet\t_\t_",
        "2.1\tx\tx\tX\t_\t_\t0\tdep\t_\t_",
        "3\t#\t#\tSYM\t_\t_\t0\tdep\t_\t_",
    ]
    path = write(tmp_path / "a.conllu", "\n\n".join("\n".join(rows) for _ in range(3)))
    data = prepared(path, validation_paths=[path])
    assert everything(data)[0] == [("de", "ADP"), ("le", "DET"), ("#", "SYM")]
    assert data.labels == ["ADP", "DET", "SYM"]
    other = prepared(path, validation_paths=[path], tag="DEPREL")
    assert other.labels == ["dep", "det", "root"]


@pytest.mark.parametrize(
    ("text", "options"),
    [("Mila\nlives\n\nhere\n", {}), (conll(SENTENCES), {"word": 2}), (conll(SENTENCES), {"tag": 0})],
)
def test_words_are_never_their_own_tags(tmp_path: Path, text: str, options: dict[str, Any]) -> None:
    path = write(tmp_path / "a.conll", text)
    with pytest.raises(
        FileError, match=r"a\.conll, line 1: a line must have a column of words and another of tags, but"
    ):
        prepared(path, **options)


def test_a_length_without_room_for_a_word_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", conll(SENTENCES))
    with pytest.raises(UsageError, match=r"data\.seq_len must have room for a token in the frame, but is 2"):
        prepared(path, seq_len=2, tokenizer={"name": "wordpiece", "vocab_size": 60})


def test_a_line_that_begins_like_a_comment_is_a_word_where_comments_are_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "# O\nhash O\n\nbye O\n")
    assert len(read_back(*_first(prepared(path, validation_paths=[path])))) == 1
    assert read_back(*_first(prepared(path, validation_paths=[path], comment=None))) == [("#", "O"), ("hash", "O")]


def _first(data: TaggedTextData) -> tuple[TaggedTextData, TaggedText]:
    return data, data.validation[0]


def test_a_set_of_the_hub_names_its_tags_by_its_own_numbers(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = tmp_path / "set"
    root.mkdir()
    labels = ["O", "B-PER", "B-LOC", "I-LOC"]
    names = {"class_label": {"names": {str(number): label for number, label in enumerate(labels)}}}
    features = [{"name": "tokens", "sequence": "string"}, {"name": "tags", "sequence": names}]
    (root / "README.md").write_text(
        f"---\nlicense: cc0-1.0\n{json.dumps({'dataset_info': {'features': features}})[1:-1]}\n---\n"
    )
    for split, part in {"train": SENTENCES[:18], "test": SENTENCES[18:]}.items():
        rows = [{"tokens": words, "tags": [labels.index(tag) for tag in tags]} for words, tags in part]
        (root / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    hub = {"dataset": str(root), "validation_split": "test"}
    data = validate(TaggedTextConfig, {"hub": hub, "tokenizer": BYTES}).prepare(None, 64)
    assert everything(data) == EXPECTED
    assert (len(data.train[0][0]), len(data.validation), data.licence) == (18, 6, "cc0-1.0")
    assert [(count["read"], count["used"]) for count in data.counts] == [(18, 18), (6, 6)]


def test_numbers_of_tags_in_tables_are_places_among_the_labels(tmp_path: Path) -> None:
    labels = ["O", "B-PER", "B-LOC", "I-LOC"]
    numbered = [(words, [labels.index(tag) for tag in tags]) for words, tags in SENTENCES]
    path = write(tmp_path / "a.jsonl", jsonl(numbered))
    assert everything(prepared(path, labels=labels)) == EXPECTED
    assert prepared(path).labels == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("a B\nb\n", "line 2: a line must have 2 columns, as line 1 has, but has 1"),
        ("a O\n\nb c O\n", "line 3: a line must have 2 columns, as line 1 has, but has 3"),
        ("a\tO\n\n\tO\n\nd\tO\n", "line 3: a line must have 2 columns, as line 1 has, but has 1"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(tmp_path: Path, lines: str, said: str) -> None:
    path = write(tmp_path / "a.conll", lines)
    with pytest.raises(FileError) as error:
        prepared(path, validation_paths=[path])
    assert str(error.value) == f"{path}, {said}. Repair it, or set max_bad_samples to leave such aside."


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"tokens": ["a"], "tags": ["O", "O"]}, "must have a tag for each word, but has 1 words and 2 tags"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "the field 'tokens' must hold words, but has one that is empty"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "the field 'tokens' must be a list of one or more, but is of type str"),
        ({"tokens": [], "tags": []}, "the field 'tokens' must be a list of one or more, but is empty"),
        ({"tokens": ["a"], "tags": [None]}, "the field 'tags' must hold tags, but has one that is null"),
        ({"tokens": ["a"], "tags": ["B-PRE"]}, "a tag must be known, but 'B-PRE' is not. Did you mean B-PER"),
        ({"tokens": ["a"], "tags": [9]}, "a tag must be the number of one of the 4 labels, but is 9"),
        ({"tokens": ["a"]}, "a record must have the field 'tags', but has only 'tokens'"),
    ],
)
def test_bad_records_are_named_and_counted_and_change_nothing_else(tmp_path: Path, record: Any, said: str) -> None:
    labels = ["B-LOC", "B-PER", "I-LOC", "O"]
    lines = jsonl(SENTENCES).splitlines()
    lines.insert(5, json.dumps(record))
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    with pytest.raises(FileError) as error:
        prepared(path, labels=labels)
    assert str(error.value).startswith(f"{path}, line 6: ")
    assert said in str(error.value)
    lenient = prepared(path, labels=labels, max_bad_samples=1)
    [count] = lenient.counts
    assert (count["read"], count["used"], count["quarantined"]) == (25, 24, 1)
    [written] = (tmp_path / "cache").glob("tagged_text-*/quarantine.jsonl")
    assert json.loads(written.read_text())["where"] == f"{path}, line 6"
    clean = prepared(write(tmp_path / "b.jsonl", jsonl(SENTENCES)), labels=labels)
    assert lenient.fingerprint == clean.fingerprint


def test_without_the_count_a_bad_sentence_would_be_lost_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tally, "quarantine", lambda self, where, reason: None)
    path = write(tmp_path / "a.conll", "a O\nb\n\n" + conll([([w], [t]) for w, t in zip("cd", "OO", strict=True)]))
    [count] = prepared(write(tmp_path / "b.conll", conll(SENTENCES)), path).counts
    assert count["read"] == count["used"]


def test_text_of_another_encoding_is_refused_or_read_as_told(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_bytes("Müller B-PER\nsah O\n".encode("latin-1"))
    with pytest.raises(FileError, match=r"a.conll, line 1: text must be UTF-8, but byte 0xFC"):
        prepared(str(path), validation_paths=[str(path)])
    data = prepared(str(path), validation_paths=[str(path)], encoding="latin-1")
    assert everything(data)[0] == [("Müller", "B-PER"), ("sah", "O")]


def test_a_tag_that_is_only_in_what_is_kept_apart_is_one_clear_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "a O\n")
    other = write(tmp_path / "b.conll", "a O\n\nb B-X\n")
    with pytest.raises(FileError) as error:
        prepared(path, validation_paths=[other])
    assert str(error.value) == (
        f"{other}, line 3: each tag must be one of the training part, but 'B-X' is not. Set data.labels to all tags, "
        "or validate on other sentences."
    )
    assert prepared(path, validation_paths=[other], labels=["O", "B-X"]).labels == ["O", "B-X"]


def test_long_sentences_are_split_cut_or_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", conll(SENTENCES[:1]))
    options: dict[str, Any] = {"validation_paths": [path], "seq_len": 12}
    split = prepared(path, **options)
    rows = split.validation.rows
    assert len(rows) == 3
    assert {row.number for row in rows} == {0}
    assert [pair for row in rows for pair in read_back(split, row)] == [*zip(*SENTENCES[0], strict=True)]
    cut = prepared(path, too_long="cut", **options)
    assert [row.tokens.tolist() for row in cut.validation.rows] == [rows[0].tokens.tolist()]
    with pytest.raises(FileError, match=r"line 1: a sentence must have at most 12 tokens with its frame, but has more"):
        prepared(path, too_long="refuse", **options)
    assert all(len(row.tokens) <= 12 for row in rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"validation_paths": ["b"], "validation": {"fraction": 0.3}},
            "validation has no effect where validation_paths",
        ),
        ({"labels": ["O", "O"]}, "labels[1] must be a tag of its own, but 'O' is given twice."),
        ({"columns": ["a", "b"], "tag": "c"}, "tag must be one of columns, which are a, b, but is c."),
        ({"paths": ["a.jsonl"], "comment": None}, "comment has no effect, as all paths are tables"),
        ({"paths": ["a.jsonl"], "columns": ["a"]}, "columns has no effect, as all paths are tables"),
        ({"paths": None}, "paths is required, unless hub is given. Give one of the two."),
        ({"hub": {"dataset": "a"}}, "paths has no effect beside hub. Give one of the two."),
        ({"paths": None, "hub": {"dataset": "a"}, "encoding": "cp1252"}, "encoding has no effect, as it is for files"),
        (
            {"paths": None, "hub": {"dataset": "a", "validation_split": "b"}, "validation": {"fraction": 0.3}},
            "validation has no effect where hub.validation_split is given",
        ),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], said: str) -> None:
    [complaint] = try_validate(TaggedTextConfig, {"paths": ["a"], **options})[1]
    assert complaint.text.startswith(said)


def test_what_cannot_be_prepared_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", conll(SENTENCES))
    for options, said in (
        ({"seq_len": None}, "the longest example must be known"),
        ({"word": 7}, r"line 1: a line must have a column 7 \(the first is 0\), but has 3 columns"),
        ({"word": "form"}, "line 1: a column must have a name to be called 'form', but none has; give columns"),
        ({"columns": ["a", "b", "form"], "word": "a", "tag": -9}, "a column -9"),
        ({"validation": {"fraction": 1e-9}}, "the validation part must have sentences, but .* give it none"),
    ):
        with pytest.raises((UsageError, FileError), match=said):
            prepared(path, **options)
    table = write(tmp_path / "a.jsonl", jsonl(SENTENCES))
    with pytest.raises(UsageError, match=r"data.word must be a name for tables such as .*, but is 0. Name the column"):
        prepared(table, word=0)
    with pytest.raises(FileError, match="must have the field 'ner', but has only 'id', 'tokens', 'tags'"):
        prepared(table, tag="ner")


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": {"name": "words"}},
        {"validation": {"fraction": 0.5}},
        {"validation": {"fold": 1}},
        {"labels": ["O", "I-LOC", "B-PER", "B-LOC"]},
        {"tag": 1},
        {"seq_len": 12},
    ],
)
def test_every_option_changes_the_fingerprint(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write(tmp_path / "a.conll", conll(SENTENCES))
    assert prepared(path, **change).fingerprint != prepared(path).fingerprint
    assert prepared(path).fingerprint == prepared(path).fingerprint


def test_the_longest_example_is_known(tmp_path: Path) -> None:
    words = [*SENTENCES, (["a", "very", "much", "longer", "sentence", "than", "all", "others"], ["O"] * 8)]
    path = write(tmp_path / "a.conll", conll(words))
    train = prepared(path, validation_paths=[path]).train[0][0]
    assert train.longest == 24 == max(range(25), key=lambda index: len(train[index].tokens))


def test_assets_are_the_tokenizer_and_the_tags(tmp_path: Path) -> None:
    data = prepared(write(tmp_path / "a.conll", conll(SENTENCES)))
    folder = tmp_path / "model"
    folder.mkdir()
    data.save_assets(folder)
    assert json.loads((folder / "labels.json").read_text()) == data.labels
    assert {path.name for path in folder.iterdir()} == {"labels.json", "tokenizer.json", "tokenizer_config.json"}


def test_words_of_pieces_are_those_that_transformers_cuts_word_by_word(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = write(tmp_path / "a.conll", conll(SENTENCES))
    data = prepared(path, tokenizer={"name": "wordpiece", "vocab_size": 60})
    folder = tmp_path / "model"
    folder.mkdir()
    data.save_assets(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for row in data.validation.rows:
        words = next(
            words
            for words, _ in SENTENCES
            if theirs(words, is_split_into_words=True)["input_ids"] == row.tokens.tolist()
        )
        found = theirs(words, is_split_into_words=True)
        ids = found.word_ids()
        firsts = [place for place, word in enumerate(ids) if word is not None and word != ids[place - 1]]
        assert [place for place, tag in enumerate(row.tags) if tag >= 0] == firsts
