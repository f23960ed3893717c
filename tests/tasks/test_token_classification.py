from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dougong.core.config import find_part, validate
from dougong.core.contracts import Answering, Batch, Detailed, Provable
from dougong.core.errors import UsageError
from dougong.data.examples import LabelledText, TaggedText
from dougong.nn.losses import IGNORED
from dougong.tasks.token_classification.entities import Entity, EntityCounts, entities, mark_entities
from dougong.tasks.token_classification.objective import TokenClassification
from tests.tasks.overfitted import overfitted

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
VOCAB, LENGTH = 40, 16


class Says(nn.Module):
    """Says of each token what stands in its table for the token's number."""

    def __init__(self, classes: int = len(LABELS)):
        super().__init__()
        self.config = SimpleNamespace()
        self.table = nn.Parameter(torch.randn(VOCAB, classes))

    def forward(self, tokens: Tensor, lengths: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        return self.table[tokens]


def task(labels: list[str] | None = LABELS, **options: Any) -> TokenClassification:
    model = SimpleNamespace(max_seq_len=LENGTH, vocab_size=VOCAB, num_classes=len(labels or LABELS))
    config = validate(find_part("tasks", "token_classification").PART, options)
    return config.build(model, None if labels is None else SimpleNamespace(labels=labels))


def example(tags: list[int], number: int = 0, first: int = 1) -> TaggedText:
    """A word of two tokens for each tag; the second token of each is another tag's first."""
    marked = [each for tag in tags for each in (tag, IGNORED)]
    tokens = [first + (place * 7) % (VOCAB - first) for place in range(len(marked))]
    return TaggedText(np.array(tokens, dtype=np.int32), np.array(marked, dtype=np.int32), number)


def saying(tags: list[list[int]], examples: list[TaggedText]) -> tuple[Says, list[TaggedText]]:
    """A model that says certain tags of the words, and the examples with a token of its own for each word."""
    model, found, token = Says(), [], 0
    with torch.no_grad():
        for said, each in zip(tags, examples, strict=True):
            tokens = each.tokens.copy()
            for place, tag in zip(np.flatnonzero(each.tags != IGNORED), said, strict=True):
                tokens[place] = token
                model.table[token] = torch.eye(len(LABELS))[tag] * 9
                token += 1
            tokens[each.tags == IGNORED] = VOCAB - 1
            found.append(TaggedText(tokens, each.tags, each.number, each.spans))
    return model, found


def figures(model: nn.Module, examples: list[TaggedText], size: int = 2, **options: Any) -> dict[str, float]:
    objective = task(**options)
    metrics = objective.metrics()
    for start in range(0, len(examples), size):
        part = examples[start : start + size]
        metrics.update(model, objective.collate(part, range(len(part))))
    return metrics.compute()


# Entities


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("B-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),  # IOB1
        ("I-PER B-PER I-LOC", [("PER", 0, 0), ("PER", 1, 1), ("LOC", 2, 2)]),
        ("O I-PER I-LOC", [("PER", 1, 1), ("LOC", 2, 2)]),
        ("S-PER B-LOC I-LOC E-LOC S-LOC", [("PER", 0, 0), ("LOC", 1, 3), ("LOC", 4, 4)]),  # IOBES
        ("U-PER B-LOC I-LOC L-LOC U-LOC", [("PER", 0, 0), ("LOC", 1, 3), ("LOC", 4, 4)]),  # BILOU
        ("B-PER E-PER I-PER", [("PER", 0, 1), ("PER", 2, 2)]),
        ("B-part-of I-part-of", [("part-of", 0, 1)]),
        ("B I O B", [("", 0, 1), ("", 3, 3)]),
        ("O O", []),
        ("", []),
    ],
)
def test_entities_are_those_that_conlleval_counts(tags: str, found: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == [Entity(*each) for each in found]


def written(length: int, there: list[Entity], scheme: str) -> list[str]:
    """Tags of a scheme for entities that do not overlap."""
    tags = ["O"] * length
    for kind, first, last in there:
        inner, end, alone = {"IOB2": "IIB", "IOBES": "IES", "BILOU": "ILU"}[scheme]
        tags[first : last + 1] = [f"{inner}-{kind}"] * (last + 1 - first)
        tags[last] = f"{end}-{kind}"
        tags[first] = f"{alone if first == last else 'B'}-{kind}"
    return tags


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from("XY")), max_size=6))
def test_entities_written_in_any_scheme_are_read_back(drawn: list[tuple[int, int, str]]) -> None:
    there, place = [], 0
    for gap, size, kind in drawn:
        there.append(Entity(kind, place + gap, place + gap + size - 1))
        place += gap + size
    for scheme in ("IOB2", "IOBES", "BILOU"):
        tags = written(place + 1, there, scheme)
        assert entities(tags) == there
        assert not drawn or mark_entities(tags)


def by_brute_force(tags: list[str]) -> set[tuple[str, int, int]]:
    """Every stretch that is one entity by definition: of one type, B at most at its beginning, as long as can be."""
    count, found = len(tags), set()
    for first in range(count):
        for last in range(first, count):
            kinds = {tag[2:] for tag in tags[first : last + 1]}
            whole = "O" not in tags[first : last + 1] and len(kinds) == 1
            whole = whole and not any(tag[0] == "B" for tag in tags[first + 1 : last + 1])
            goes_on = last + 1 < count and tags[last + 1][0] == "I" and tags[last + 1][2:] in kinds
            begun = tags[first][0] != "B" and first > 0 and tags[first - 1][2:] in kinds and tags[first - 1] != "O"
            if whole and not goes_on and not begun:
                found.add((next(iter(kinds)), first, last))
    return found


TAGS = st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"]), max_size=9)


@settings(max_examples=60)
@given(st.lists(st.tuples(TAGS, st.randoms(use_true_random=False)), max_size=4))
def test_precision_recall_and_f1_are_those_of_sets_of_entities(drawn: list[tuple[list[str], random.Random]]) -> None:
    counts, there, said = EntityCounts(), set(), set()
    for number, (tags, draw) in enumerate(drawn):
        predicted = [tag if draw.random() < 0.7 else draw.choice(["O", "B-X", "I-Y"]) for tag in tags]
        counts.add(tags, predicted)
        there |= {(number, *each) for each in by_brute_force(tags)}
        said |= {(number, *each) for each in by_brute_force(predicted)}
    found = counts.figures()
    if not there | said:
        assert all(math.isnan(value) for value in found.values())
        return
    right = len(there & said)
    assert found["precision"] == (right / len(said) if said else 0.0)
    assert found["recall"] == (right / len(there) if there else 0.0)
    precision, recall = found["precision"], found["recall"]
    assert found["f1"] == pytest.approx(2 * precision * recall / (precision + recall) if right else 0.0)
    table = counts.by_type()
    assert sum(row["entities"] for row in table.values()) == len(there)
    assert sum(row["found"] for row in table.values()) == len(said)


def test_tags_that_mark_no_entities_are_known_by_their_names() -> None:
    assert mark_entities(LABELS)
    assert mark_entities(["B", "I", "O"])
    assert not mark_entities(["NN", "VB", "O"])
    assert not mark_entities(["O"])
    assert not task(["NN", "VB"]).finds_entities
    assert not task(None).finds_entities


# The objective


def test_all_that_a_task_may_add_is_there() -> None:
    assert isinstance(task(), Provable)
    assert isinstance(task(), Answering)
    assert isinstance(task().metrics(), Detailed)
    assert task().chance() == pytest.approx(math.log(5))


def test_the_loss_is_the_cross_entropy_of_words_and_not_of_other_tokens() -> None:
    model, examples = Says(), [example([1, 2, 0]), example([3, 4])]
    batch = task().collate(examples, range(2))
    assert batch["tokens"].shape == (2, 8)
    words = batch["tags"] != IGNORED
    expected = nn.functional.cross_entropy(model.table[batch["tokens"]][words], batch["tags"][words], reduction="sum")
    loss = task().loss(model, batch)
    torch.testing.assert_close(loss.sum, expected)
    assert loss.weight == 5
    other = batch["tokens"].clone()
    other[~words] = 0
    changed = Batch({**batch.fields, "tokens": other}, batch.samples)
    torch.testing.assert_close(task().loss(model, changed).sum, loss.sum)
    other[words] = 0  # the control: at a word's first token it counts
    assert task().loss(model, Batch({**batch.fields, "tokens": other}, batch.samples)).sum != loss.sum


def test_smoothing_is_told_apart_and_does_not_touch_the_figures() -> None:
    model, examples = Says(), [example([1, 2, 0]), example([3, 4])]
    batch = task().collate(examples, range(2))
    smooth, plain = task(label_smoothing=0.2).loss(model, batch), task().loss(model, batch)
    torch.testing.assert_close(smooth.parts["nll"], plain.sum.detach())
    assert smooth.sum != plain.sum
    assert figures(model, examples, label_smoothing=0.2) == figures(model, examples)


def test_figures_of_hand_counted_sentences() -> None:
    true = [[1, 2, 0, 3], [3, 4, 0, 1]]
    said = [[1, 2, 0, 0], [3, 0, 0, 1]]  # right: the first PER and the last; LOC missed, LOC with a wrong end
    model, examples = saying(said, [example(tags, n) for n, tags in enumerate(true)])
    found = figures(model, examples)
    assert found["accuracy"] == 6 / 8
    assert (found["precision"], found["recall"], found["f1"]) == (2 / 3, 2 / 4, 4 / 7)
    metrics = task().metrics()
    metrics.update(model, task().collate(examples, range(2)))
    details = metrics.details()
    assert details["types"]["LOC"] == {"entities": 2, "found": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert details["types"]["PER"]["f1"] == 1.0
    assert details["tags"]["I-LOC"]["recall"] == 0.0
    assert {"is": "B-LOC", "taken for": "O", "words": 1} in details["confusions"]


def test_a_sentence_of_several_examples_is_judged_whole_however_it_is_batched() -> None:
    parts = [[1, 2], [2, 0], [3]]
    model, examples = saying(parts, [example(tags) for tags in parts])
    for size in (1, 2, 3):
        found = figures(model, examples, size)
        assert found["f1"] == 1.0
    # The control: were each example a sentence, there would be three entities for two.
    metrics = task().metrics()
    apart = [TaggedText(each.tokens, each.tags, n) for n, each in enumerate(examples)]
    metrics.update(model, task().collate(apart, range(3)))
    assert metrics.details()["types"]["PER"]["entities"] == 2
    metrics = task().metrics()
    metrics.update(model, task().collate(examples, range(3)))
    assert metrics.details()["types"]["PER"]["entities"] == 1


def test_parts_of_speech_have_accuracy_alone() -> None:
    model, examples = saying([[1, 2]], [example([1, 1])])
    assert figures(model, examples, labels=["A", "B", "C", "D", "E"]) == {
        "loss": pytest.approx(figures(model, examples)["loss"]),
        "accuracy": 0.5,
    }


def test_a_model_that_says_nothing_of_each_token_is_refused() -> None:
    class Pooled(Says):
        def forward(self, tokens: Tensor, lengths: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
            return self.table[tokens].mean(1)

    batch = task().example_batch(2, "cpu")
    said = (
        r"must give each of 2 x 16 tokens a number for each of 5 tags, but gives 2 x 5 numbers. Choose the head tag\."
    )
    with pytest.raises(UsageError, match=said):
        task().loss(Pooled(), batch)


def test_data_without_tags_is_refused() -> None:
    data = SimpleNamespace(validation=[LabelledText(np.array([1]), 0)], source="there", labels=["a"], determines={})
    model = SimpleNamespace(max_seq_len=LENGTH, vocab_size=VOCAB, num_classes=2)
    with pytest.raises(UsageError, match="needs sentences with a tag for each word, but there has texts with a class"):
        validate(find_part("tasks", "token_classification").PART, {}).build(model, data)


def test_uneven_rows_weigh_unlike_and_hold_nothing_new() -> None:
    batch = task().collate([example([1, 2, 0]), example([3, 4]), example([1, 1])], range(3))
    uneven = task().uneven(batch)
    assert [int((row != IGNORED).sum()) for row in uneven["tags"]] == [1, 2, 2]
    assert (batch["tags"][uneven["tags"] != IGNORED] == uneven["tags"][uneven["tags"] != IGNORED]).all()


# From a file to the answer


NAMES, PLACES = ["anna", "ben", "cleo", "dora"], ["paris", "rome", "oslo"]
SENTENCES = [
    (
        f"{NAMES[n % 4]} saw new {PLACES[n % 3]} and {NAMES[n * 7 % 4]} today".split(),
        ["B-PER", "O", "B-LOC", "I-LOC", "O", "B-PER", "O"],
    )
    for n in range(24)
]


def conll(sentences: list[tuple[list[str], list[str]]]) -> str:
    return "\n".join("".join(f"{word} {tag}\n" for word, tag in zip(*each, strict=True)) for each in sentences)


def trained(folder: Path, sentences: list[tuple[list[str], list[str]]]) -> tuple[Any, Any, Any]:
    (folder / "train.conll").write_text(conll(sentences))
    (folder / "test.conll").write_text(conll(SENTENCES))
    paths = {"paths": [str(folder / "train.conll")], "validation_paths": [str(folder / "test.conll")]}
    data = {"name": "tagged_text", **paths, "tokenizer": {"name": "wordpiece", "vocab_size": 57}}
    return overfitted("tag", "token_classification", data)


def test_a_tiny_bert_learns_to_tag_a_file_and_says_where_entities_stand(tmp_path: Path) -> None:
    parts, model, metrics = trained(tmp_path, SENTENCES)
    found = metrics.compute()
    assert found["accuracy"] == found["f1"] == 1.0
    assert metrics.details()["types"]["PER"] == {
        "entities": 48,
        "found": 48,
        "precision": 1.0,
        "recall": 1.0,
        "f1": 1.0,
    }
    text = "Ben saw  new Rome and Anna today"
    objective = parts.task
    examples = objective.examples(parts.data.tokenizer, text)
    with torch.inference_mode():
        answers = objective.answers(model, objective.collate(examples, range(len(examples))))
    whole = objective.joined(answers, text)
    assert [(each["type"], each["text"], each["start"]) for each in whole["entities"]] == [
        ("PER", "Ben", 0),
        ("LOC", "new Rome", 9),
        ("PER", "Anna", 22),
    ]
    assert [word["tag"] for word in whole["words"]] == SENTENCES[0][1]
    assert all(0.5 < each["probability"] <= 1.0 for each in whole["entities"])
    # Cut into several examples, the text is answered the same.
    short = find_part("tasks", "token_classification").PART().build(parts.model.replace(max_seq_len=8), parts.data)
    pieces = short.examples(parts.data.tokenizer, text)
    assert len(pieces) > 1
    with torch.inference_mode():
        several = short.joined(short.answers(model, short.collate(pieces, range(len(pieces)))), text)
    assert [word["text"] for word in several["words"]] == [word["text"] for word in whole["words"]]


def test_with_shuffled_tags_it_does_not(tmp_path: Path) -> None:
    draw = random.Random(0)
    found = trained(tmp_path, [(words, draw.sample(tags, len(tags))) for words, tags in SENTENCES])[2].compute()
    assert found["f1"] < 0.5
    assert found["accuracy"] < 0.8
