from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dougong.core import log
from dougong.core.config import try_validate, validate
from dougong.core.errors import FileError, UsageError
from dougong.data import loader
from dougong.data.datasets.questions import QuestionsConfig
from dougong.data.datasets.questions.prepared import QuestionsData
from dougong.data.examples import QuestionWindow
from dougong.data.source import Tally

CITIES = ["Paris", "Rome", "Oslo", "Bern", "Cairo", "Lima", "Delhi", "Quito"]
PIECES = {"name": "wordpiece", "vocab_size": 120}


def text_of(number: int) -> str:
    filling = "This bird is not known to be a fish. " * 2
    return f"Text {number}: the bird lives in {CITIES[number % 8]}. Nobody has seen fish number {number} yet. {filling}"


def asked(number: int, context: str) -> list[dict[str, Any]]:
    """A question with an answer, twice given in two words, and one without."""
    city = CITIES[number % 8]
    places = [{"text": city, "answer_start": context.index(city)}]
    places.append({"text": f"in {city}", "answer_start": context.index(f"in {city}")})
    return [
        {"id": f"{number}a", "question": "Where does the bird live?", "answers": places},
        {"id": f"{number}b", "question": "Where does the fish live?", "answers": [], "is_impossible": True},
    ]


CONTEXTS = [text_of(number) for number in range(16)]


def squad() -> dict[str, Any]:
    paragraphs = [{"context": context, "qas": asked(n, context)} for n, context in enumerate(CONTEXTS)]
    return {"version": "v2.0", "data": [{"title": "A", "paragraphs": paragraphs[:9]}, {"paragraphs": paragraphs[9:]}]}


def rows(lists: bool = True) -> list[dict[str, Any]]:
    """The same questions, one a row; `lists`: their answers as an object of lists, as the hub has them."""
    found = []
    for number, context in enumerate(CONTEXTS):
        for each in asked(number, context):
            answers: Any = each["answers"]
            if lists:
                answers = {key: [answer[key] for answer in answers] for key in ("text", "answer_start")}
            found.append({"id": each["id"], "context": context, "question": each["question"], "answers": answers})
    return found


def write(path: Path, value: Any) -> str:
    text = "\n".join(map(json.dumps, value)) if path.suffix == ".jsonl" else json.dumps(value)
    path.write_text(text, encoding="utf-8")
    return str(path)


def prepared(*paths: str, seq_len: int | None = 96, **options: Any) -> QuestionsData:
    apart = {} if "validation_paths" in options else {"validation": {"fraction": 0.25}}
    values = {"paths": list(paths), "tokenizer": PIECES, **apart, **options}
    with log.listening(lambda line: None):
        return validate(QuestionsConfig, values).prepare(Path(paths[0]).parent / "cache", seq_len)


def said(data: QuestionsData, example: QuestionWindow) -> str:
    """What a window says the answer is."""
    if example.start == 0:
        return ""
    return data.questions[example.question].context[example.spans[example.start, 0] : example.spans[example.end, 1]]


def test_every_question_keeps_its_text_and_its_answer_and_texts_are_in_one_part(tmp_path: Path) -> None:
    data = prepared(write(tmp_path / "a.json", squad()))
    train = data.train[0][0]
    examples = [*(train[i] for i in range(len(train))), *(data.validation[i] for i in range(len(data.validation)))]
    assert sorted(each.question for each in examples) == list(range(32)) == list(range(len(data.questions)))
    for each in examples:
        question = data.questions[each.question]
        assert said(data, each) == (question.answers[0][1] if question.answers else "")
        seen = "".join(question.context[a:b] for a, b in each.spans.tolist() if a >= 0)
        assert seen == question.context.replace(" ", "")
    texts = [{data.questions[part[i].question].context for i in range(len(part))} for part in (train, data.validation)]
    assert not texts[0] & texts[1]
    assert len(texts[0] | texts[1]) == 16
    [count] = data.counts
    assert count["read"] == count["used"] == 32 == count["train"]["questions"] + count["validation"]["questions"]
    assert count["train"]["unanswerable"] * 2 == count["train"]["questions"]
    assert data.determines == {"vocab_size": data.tokenizer.vocab_size}


@pytest.mark.parametrize("form", ["gzip", "lists", "objects", "parquet"])
def test_every_form_of_the_same_questions_gives_the_same_examples(tmp_path: Path, form: str) -> None:
    path = tmp_path / {"gzip": "b.json.gz", "parquet": "b.parquet"}.get(form, "b.jsonl")
    if form == "gzip":
        path.write_bytes(gzip.compress(json.dumps(squad()).encode()))
    elif form == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows()), path)
    else:
        write(path, rows(form == "lists"))
    plain = prepared(write(tmp_path / "a.json", squad()))
    assert prepared(str(path)).fingerprint == plain.fingerprint


def test_a_set_of_the_hub_gives_the_same_questions(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = tmp_path / "set"
    root.mkdir()
    for split, part in {"train": rows()[:20], "validation": rows()[20:]}.items():
        write(root / f"{split}.jsonl", part)
    hub = {"dataset": str(root), "validation_split": "validation"}
    data = validate(QuestionsConfig, {"hub": hub, "tokenizer": PIECES}).prepare(None, 96)
    paths = [str(root / "train.jsonl")], [str(root / "validation.jsonl")]
    assert data.fingerprint == prepared(*paths[0], validation_paths=paths[1]).fingerprint
    assert [(count["read"], count["used"]) for count in data.counts] == [(20, 20), (12, 12)]


def test_files_to_validate_on_are_read_apart(tmp_path: Path) -> None:
    path, other = write(tmp_path / "a.json", squad()), write(tmp_path / "b.jsonl", rows()[:4])
    data = prepared(path, validation_paths=[other])
    assert (len(data.train[0][0]), len(data.validation)) == (32, 4)
    assert [data.validation[i].question for i in range(4)] == [32, 33, 34, 35]
    assert [count["used"] for count in data.counts] == [32, 4]


def test_long_texts_become_windows_of_one_question_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows()[:8])
    whole = prepared(path, validation_paths=[path], max_question_len=20)
    data = prepared(path, validation_paths=[path], max_question_len=20, seq_len=28, stride=4)
    numbers = [data.validation[i].question for i in range(len(data.validation))]
    assert numbers == sorted(numbers)
    assert len(numbers) > 2 * len(whole.validation)
    assert all(len(data.validation[i].tokens) <= 28 for i in range(len(numbers)))
    answers = {number: set() for number in numbers}
    for i, number in enumerate(numbers):
        answers[number].add(said(data, data.validation[i]))
    for number, found in answers.items():
        [right] = [said(whole, whole.validation[i]) for i in range(8) if whole.validation[i].question == number]
        assert right in found
        assert found <= {right, ""}
    side_by_side = prepared(path, validation_paths=[path], max_question_len=20, seq_len=28, stride=1000)
    assert len(whole.validation) < len(side_by_side.validation) < len(data.validation)


def test_batches_of_alike_lengths_know_how_long_an_example_is(tmp_path: Path) -> None:
    data = prepared(write(tmp_path / "a.json", squad()))
    example = loader.order(data.train, 0)[5]
    assert data.length(example) == len(example.tokens)
    train = data.train[0][0]
    assert len(train[train.longest].tokens) == max(len(train[index].tokens) for index in range(len(train)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": [{"text": "Paris", "answer_start": 3}]}, "there the text has 't 0: ', not 'Paris'; it stands at"),
        ({"answers": [{"text": "Sofia", "answer_start": 3}]}, "not 'Sofia'; it is nowhere in the text"),
        ({"answers": [{"text": "Paris"}]}, "answer_start must be the number of a character, but is None"),
        ({"answers": [{"text": "Paris", "answer_start": -1}]}, "must be the number of a character, but is -1"),
        ({"answers": [{"text": "", "answer_start": 0}]}, "the field 'text' must be text, but is empty"),
        ({"answers": {"text": ["a"], "answer_start": []}}, "must have as many texts as starts"),
        ({"answers": "Paris"}, "answers must be a list of {text, answer_start}, or"),
        ({"question": ""}, "the field 'question' must be text, but is empty"),
        ({"context": None}, "the field 'context' must be text, but is null"),
    ],
)
def test_bad_questions_are_named_and_counted_and_change_nothing_else(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    clean = prepared(write(tmp_path / "a.jsonl", rows(lists=False)))
    lines = rows(lists=False)
    lines.insert(3, {**lines[0], **change})
    path = write(tmp_path / "b.jsonl", lines)
    with pytest.raises(FileError) as error:
        prepared(path)
    assert str(error.value).startswith(f"{path}, line 4: ")
    assert reason in str(error.value)
    lenient = prepared(path, max_bad_samples=1)
    [count] = lenient.counts
    assert (count["read"], count["used"], count["quarantined"]) == (33, 32, 1)
    [written] = (tmp_path / "cache").glob("questions-*/quarantine.jsonl")
    assert json.loads(written.read_text())["where"] == f"{path}, line 4"
    assert lenient.fingerprint == clean.fingerprint


def test_without_the_count_a_bad_question_would_be_lost_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tally, "quarantine", lambda self, where, reason: None)
    lines = rows()
    lines[3]["question"] = ""
    [count] = prepared(write(tmp_path / "b.jsonl", lines)).counts
    assert count["read"] == 31


def test_a_bad_question_of_squad_is_named_by_its_place_and_id(tmp_path: Path) -> None:
    content = squad()
    content["data"][1]["paragraphs"][2]["qas"][0]["answers"][0]["answer_start"] += 1
    path = write(tmp_path / "a.json", content)
    with pytest.raises(FileError) as error:
        prepared(path)
    where = f"{path}, data[1].paragraphs[2].qas[0] (id 11a): the answer must stand at answer_start, but there the text"
    assert str(error.value).startswith(where)
    for impossible, answers, reason in ((True, None, "must have no answer, but has one"), (False, [], "neither is so")):
        content = squad()
        question = content["data"][0]["paragraphs"][0]["qas"][0]
        question["is_impossible"] = impossible
        question["answers"] = question["answers"] if answers is None else answers
        with pytest.raises(FileError, match=reason):
            prepared(write(tmp_path / "b.json", content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "must be JSON, but is not"),
        ("[]", "must be of SQuAD's form"),
        ('{"data": 3}', "must be of SQuAD's form"),
        ('{"data": [{"title": "x"}]}', r"data\[0\] must have a list 'paragraphs', as SQuAD's form is"),
        ('{"data": [{"paragraphs": [7]}]}', r"data\[0\].paragraphs\[0\] must have a list 'qas'"),
        ('{"data": []}', "the train part must have questions, but .* give it none"),
    ],
)
def test_a_file_of_another_form_is_one_sentence(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(FileError, match=reason):
        prepared(str(path))


def test_tokenizers_without_a_frame_and_lengths_without_room_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", squad())
    with pytest.raises(UsageError, match=r"must have the tokens \[CLS\] and \[SEP\]"):
        prepared(path, tokenizer={"name": "bytes"})
    with pytest.raises(UsageError, match="must have room for a text beside a question of 64 tokens"):
        prepared(path, seq_len=60)
    with pytest.raises(UsageError, match="the longest example must be known"):
        prepared(path, seq_len=None)
    for options, told in (
        ({"validation_paths": ["b"], "validation": {"fraction": 0.3}}, "validation has no effect where"),
        ({"seq_len": 60}, "max_question_len must leave room for text within seq_len, but 64 > 60 - 4. Lower it."),
    ):
        [complaint] = try_validate(QuestionsConfig, {"paths": ["a"], **options})[1]
        assert complaint.text.startswith(told)


@pytest.mark.parametrize(
    "change",
    [
        {"validation": {"fraction": 0.5}},
        {"max_question_len": 3},
        {"seq_len": 36, "max_question_len": 20, "stride": 2},
        {"tokenizer": {**PIECES, "lowercase": False}},
    ],
)
def test_every_option_changes_the_fingerprint(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write(tmp_path / "a.json", squad())
    assert prepared(path, **change).fingerprint != prepared(path).fingerprint


def test_another_right_answer_changes_the_fingerprint(tmp_path: Path) -> None:
    before = prepared(write(tmp_path / "a.json", squad())).fingerprint
    content = squad()
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"].pop()
    assert prepared(write(tmp_path / "a.json", content)).fingerprint != before
