from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dougong.core.config import find_part, validate
from dougong.core.contracts import Answering, Batch, Detailed, Provable
from dougong.core.errors import UsageError
from dougong.data.examples import LabelledText, QuestionWindow
from dougong.tasks.question_answering.figures import AnswerFigures, exact, f1, normalised
from dougong.tasks.question_answering.objective import Candidate, QuestionAnswering
from tests.tasks.overfitted import overfitted

VOCAB, LENGTH, ASKED = 40, 24, 4


class Says(nn.Module):
    """Says of each token what stands in its table for the token's number; sees no segments."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace()
        self.table = nn.Parameter(torch.randn(VOCAB, 2))

    def forward(self, tokens: Tensor, lengths: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        return self.table[tokens]


def task(questions: Any = None, **options: Any) -> QuestionAnswering:
    model = SimpleNamespace(max_seq_len=LENGTH, vocab_size=VOCAB)
    data = None if questions is None else SimpleNamespace(questions=questions)
    return validate(find_part("tasks", "question_answering").PART, options).build(model, data)


def example(tokens: list[int], answer: tuple[int, int] | None, question: int = 0, offset: int = 0) -> QuestionWindow:
    """A text of such tokens after `[CLS] 7 7 [SEP]`; token `i` stands for characters `2 i` to `2 i + 1`."""
    whole = np.array([2, 7, 7, 3, *tokens, 3], dtype=np.int32)
    spans = np.full((len(whole), 2), -1, dtype=np.int32)
    places = np.arange(len(tokens)) + offset
    spans[ASKED : ASKED + len(tokens)] = np.stack([2 * places, 2 * places + 1], axis=1)
    start, end = (0, 0) if answer is None else (ASKED + answer[0], ASKED + answer[1])
    segments = (np.arange(len(whole)) >= ASKED).astype(np.int32)
    return QuestionWindow(whole, segments, start, end, spans, question)


def saying(start: int | None, end: int | None = None, none: float = 0.0) -> Says:
    """A model that holds one token for the beginning and one for the end, and tells how sure it is of `[CLS]`."""
    model = Says()
    with torch.no_grad():
        model.table.zero_()
        model.table[2] = none / 2
        model.table[[3, 7]] = 50.0  # never to be chosen: no tokens of the text
        if start is not None:
            model.table[start, 0] = model.table[end, 1] = 8.0
    return model


def figures(objective: QuestionAnswering, model: nn.Module, examples: list[QuestionWindow], size: int = 2) -> Any:
    metrics = objective.metrics()
    for begin in range(0, len(examples), size):
        part = examples[begin : begin + size]
        metrics.update(model, objective.collate(part, range(len(part))))
    return metrics


# SQuAD's figures


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),
        ("a man, an apple and the theatre", "man apple and theatre"),
        ("U.S.A.", "usa"),
        (" \u00c9t\u00e9\n", "\u00e9t\u00e9"),
        ("the", ""),
        ("\u201cquoted\u201d", "\u201cquoted\u201d"),  # only ASCII marks are left out
    ],
)
def test_answers_are_normalised_as_squad_does(answer: str, plain: str) -> None:
    assert normalised(answer) == plain


@pytest.mark.parametrize(
    ("answer", "right", "same", "share"),
    [
        ("the Eiffel Tower", "Eiffel tower.", 1.0, 1.0),
        ("Eiffel Tower in Paris", "the Eiffel Tower", 0.0, 2 * 2 / (4 + 2)),
        ("dog dog cat", "dog cat cat", 0.0, 4 / 6),
        ("Rome", "Paris", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("the", "", 1.0, 1.0),
        ("", "Paris", 0.0, 0.0),
    ],
)
def test_exact_match_and_f1_of_hand_counted_answers(answer: str, right: str, same: float, share: float) -> None:
    assert exact(answer, right) == same
    assert f1(answer, right) == pytest.approx(share)
    assert f1(right, answer) == pytest.approx(share)


def test_the_nearest_of_several_right_answers_counts() -> None:
    found = AnswerFigures()
    found.add("in Paris", ["Paris", "in Paris, France"])
    found.add("", [])
    found.add("Rome", [])
    found.add("Rome", ["the"])  # as SQuAD 2.0 has it: an answer of which nothing is left is none
    assert found.figures() == {"exact_match": 1 / 4, "f1": pytest.approx((4 / 5 + 1) / 4)}
    assert found.by_kind() == {
        "answerable": {"questions": 1, "exact_match": 0.0, "f1": pytest.approx(4 / 5)},
        "unanswerable": {"questions": 3, "exact_match": 1 / 3, "f1": 1 / 3},
    }


# The objective


def test_all_that_a_task_may_add_is_there() -> None:
    assert isinstance(task(), Provable)
    assert isinstance(task(), Answering)
    assert isinstance(task().metrics(), Detailed)


def test_the_loss_is_the_mean_of_both_ends_over_the_text_and_the_first_token() -> None:
    model, examples = Says(), [example([10, 11, 12, 13], (1, 2)), example([14, 15], None)]
    batch = task().collate(examples, range(2))
    assert batch["tokens"].shape == (2, 16)
    expected = torch.tensor(0.0)
    for each in examples:
        allowed = [0, *range(ASKED, len(each.tokens) - 1)]
        logits = model.table[torch.from_numpy(each.tokens[allowed].astype(np.int64))]
        for side, place in ((0, each.start), (1, each.end)):
            expected = expected + nn.functional.cross_entropy(logits[:, side], torch.tensor(allowed.index(place))) / 2
    loss = task().loss(model, batch)
    torch.testing.assert_close(loss.sum, expected)
    assert loss.weight == 2
    # Nothing that stands outside counts, and what stands in the text does.
    for place, same in ((1, True), (3, True), (15, True), (5, False)):
        tokens = batch["tokens"].clone()
        tokens[0, place] = 30
        changed = task().loss(model, Batch({**batch.fields, "tokens": tokens}, batch.samples)).sum
        assert bool(torch.isclose(changed, loss.sum)) is same, place


def test_the_best_answer_is_looked_for_in_all_windows_of_a_question() -> None:
    context = "a b c d e f g h "
    questions = [SimpleNamespace(context=context, answers=((8, "e f"),)), SimpleNamespace(context=context, answers=())]
    windows = [
        example([10, 11, 12, 13], None, 0),
        example([12, 13, 14, 15], (2, 3), 0, offset=2),
        example([16, 17], None, 0, offset=6),
        example([18, 19], None, 1),
    ]
    model = saying(14, 15, none=4.0)
    for size in (1, 2, 4):
        metrics = figures(task(questions), model, windows, size)
        assert metrics.compute()["exact_match"] == 1.0
        assert {kind: row["questions"] for kind, row in metrics.details().items()} == {
            "answerable": 1,
            "unanswerable": 1,
        }
    # The control: had each window its own question, the windows without the answer would not be right.
    apart = [SimpleNamespace(context=context, answers=((8, "e f"),))] * 4
    alone = [QuestionWindow(w.tokens, w.segments, w.start, w.end, w.spans, n) for n, w in enumerate(windows)]
    assert figures(task(apart), model, alone).compute()["exact_match"] == 1 / 4


def test_no_answer_is_said_where_it_is_likelier_by_the_threshold_in_every_window() -> None:
    one, other = Candidate(-2.0, -0.5, 3, 5), Candidate(-9.0, -0.01, 0, 1)
    both = other.or_better(one)
    assert both == one.or_better(other) == Candidate(-2.0, -0.5, 3, 5)
    assert other.or_better(None) == other
    assert task().says_none(both)
    assert task(no_answer_threshold=1.4).says_none(both)
    assert not task(no_answer_threshold=1.6).says_none(both)
    assert not task(no_answer_threshold=None).says_none(both)
    assert task(no_answer_threshold=None).says_none(Candidate(-math.inf, 0.0, -1, -1))
    assert not task().says_none(Candidate(-0.2, -2.0, 3, 5))


def test_an_answer_is_no_longer_than_is_allowed() -> None:
    model = saying(10, 13, none=-9.0)
    batch = task().collate([example([10, 11, 12, 13], None)], [0])
    with torch.inference_mode():
        [long], [short] = task().answers(model, batch), task(max_answer_len=3).answers(model, batch)
    assert (long["start"], long["end"]) == (0, 7)
    assert short["end"] - short["start"] <= 5
    assert short["score"] < long["score"] <= 1.0


def test_answers_of_windows_are_joined_to_one_with_its_text() -> None:
    text = "a b c d e f "
    model, objective = saying(14, 15, none=3.0), task()
    windows = [example([10, 11, 12], None), example([13, 14, 15], None, offset=3)]
    with torch.inference_mode():
        parts = objective.answers(model, objective.collate(windows, range(2)))
    whole = objective.joined(parts, "?", text)
    assert (whole["text"], whole["start"], whole["end"]) == ("e f", 8, 11)
    assert whole["score"] == parts[1]["score"] > parts[1]["no_answer"] == whole["no_answer"]
    nothing = objective.joined(parts[:1], "?", text)
    assert (nothing["text"], nothing["start"], nothing["end"]) == ("", None, None)
    assert nothing["score"] == parts[0]["no_answer"]
    assert task(no_answer_threshold=None).joined(parts[:1], "?", text)["text"] != ""
    assert json.loads(json.dumps([whole, nothing])) == [whole, nothing]


def test_windows_that_do_not_count_are_left_out() -> None:
    model, batch = Says(), task().collate([example([10 + n, 11, 12], (n % 3, 2)) for n in range(4)], range(4))
    uneven = task().uneven(batch)
    assert uneven["starts"].tolist()[0] == uneven["ends"].tolist()[0] == -1
    loss = task().loss(model, uneven)
    assert loss.weight == 3
    torch.testing.assert_close(loss.sum, task().loss(model, batch).sum - task().loss(model, batch.split(1)[0]).sum)


def test_a_model_without_ends_and_data_without_questions_are_refused() -> None:
    class Pooled(Says):
        def forward(self, tokens: Tensor, lengths: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
            return self.table[tokens].mean(1)

    with pytest.raises(UsageError, match=r"must give each of 2 x 24 tokens two numbers.* gives 2 x 2 .* head spans\."):
        task().loss(Pooled(), task().example_batch(2, "cpu"))
    data = SimpleNamespace(validation=[LabelledText(np.array([1]), 0)], source="there", labels=["a"], determines={})
    model = SimpleNamespace(max_seq_len=LENGTH, vocab_size=VOCAB)
    with pytest.raises(UsageError, match="needs questions about texts, but there has texts with a class"):
        validate(find_part("tasks", "question_answering").PART, {}).build(model, data)


# From a file to the answer


ANIMALS, CITIES = ["bird", "fish", "cat"], ["Paris", "Rome", "Oslo", "Bern"]


def squad() -> dict[str, Any]:
    """Texts about who lives where, and questions about both, and one whose answer is not there."""
    paragraphs = []
    for number in range(12):
        animal, city = ANIMALS[number % 3], CITIES[number * 3 % 4]
        context = f"Yes, the {animal} lives in {city}." if number % 2 else f"In {city} lives a {animal}."
        places = [("Who is there?", animal), ("Where is it?", city)]
        found: list[dict[str, Any]] = [
            {"question": question, "answers": [{"text": text, "answer_start": context.index(text)}]}
            for question, text in places
        ]
        found.append({"question": "When was it?", "answers": [], "is_impossible": True})
        paragraphs.append({"context": context, "qas": found})
    return {"data": [{"paragraphs": paragraphs}]}


def shuffled(content: dict[str, Any]) -> dict[str, Any]:
    """The same with the answers of each text dealt anew among its questions."""
    draw = random.Random(2)
    for paragraph in content["data"][0]["paragraphs"]:
        dealt = draw.sample([(q["answers"], q.get("is_impossible", False)) for q in paragraph["qas"]], 3)
        for question, (answers, impossible) in zip(paragraph["qas"], dealt, strict=True):
            question.update(answers=answers, is_impossible=impossible)
    return content


def trained(folder: Path, content: dict[str, Any]) -> tuple[Any, Any, Any]:
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "test.json").write_text(json.dumps(squad()))
    paths = {"paths": [str(folder / "train.json")], "validation_paths": [str(folder / "test.json")]}
    data = {"name": "questions", **paths, "tokenizer": {"name": "wordpiece", "vocab_size": 90}, "max_question_len": 12}
    return overfitted("spans", "question_answering", data, steps=70, lr=0.003)


def test_a_tiny_bert_learns_to_answer_from_a_file_and_says_where(tmp_path: Path) -> None:
    parts, model, metrics = trained(tmp_path, squad())
    found = metrics.compute()
    assert found["exact_match"] == found["f1"] == 1.0
    assert {kind: row["exact_match"] for kind, row in metrics.details().items()} == {"answerable": 1, "unanswerable": 1}
    paragraph = squad()["data"][0]["paragraphs"][4]
    objective, text = parts.task, paragraph["context"]
    for question in paragraph["qas"]:
        examples = objective.examples(parts.data.tokenizer, question["question"], text)
        with torch.inference_mode():
            answers = objective.answers(model, objective.collate(examples, range(len(examples))))
        whole = objective.joined(answers, question["question"], text)
        right = question["answers"][0] if question["answers"] else {"text": "", "answer_start": None}
        assert (whole["text"], whole["start"]) == (right["text"], right["answer_start"])


def test_with_shuffled_answers_it_does_not(tmp_path: Path) -> None:
    assert trained(tmp_path, shuffled(squad()))[2].compute()["exact_match"] < 0.7
