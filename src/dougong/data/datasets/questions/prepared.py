"""Questions made ready: read, split and tokenized, with random access to each window over a text.

Knows how the parts of `data` fit together; does not know models, tasks or batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dougong.core import files
from dougong.core.errors import FileError
from dougong.core.log import say
from dougong.data.datasets.questions import QuestionsConfig
from dougong.data.datasets.questions.squad import Question, questions
from dougong.data.examples import QuestionWindow
from dougong.data.inspection import write_quarantine
from dougong.data.passages import Passage, passages, require_frame, window, windows
from dougong.data.source import Tally
from dougong.data.tokenizer import Tokenizer

Read = tuple[Sequence[str], tuple[str, ...], Tally]


class QuestionsData:
    """Questions, ready to train on.

    Attributes:
        config: What described them.
        tokenizer: Text to ids and back; learned from the training part alone.
        seq_len: The longest example, in tokens.
        questions: Every question, by its number: those to train on, then those that are kept apart.
        train: The training examples; one source, without a weight.
        validation: The examples that are kept apart; those of one question stand together.
        determines: Fields of the model that the data decides.
        fingerprint: A hash of the tokenizer, every question and how windows are cut.
        licence: Of the text, as the recipe states it.
        source: Where the text comes from.
        counts: Per pass over files: questions read, used, quarantined, and what each part has of them.

    Raises:
        UsageError: A path does not exist, or the tokenizer or the length is not fit for questions.
        FileError: A question is bad, or a part has none.
    """

    def __init__(self, config: QuestionsConfig, seq_len: int, cache: Path | None = None):
        self.config, self.seq_len = config, seq_len
        self.source = ", ".join(dict.fromkeys([*_names(config, False), *_names(config, True)]))
        self.licence = config.licence
        if config.hub is not None and self.licence == "unknown":
            self.licence = config.hub.source(False).licence
        parts, reads = _parts(config)
        self.tokenizer: Tokenizer = config.tokenizer.build(
            lambda: _texts(parts["train"]), lambda: _texts([*parts["train"], *parts["validation"]])
        )
        room = require_frame(self.tokenizer, seq_len, config.max_question_len)
        self.questions = [*parts["train"], *parts["validation"]]
        train = self._windows(parts["train"], 0, room)
        self.validation = self._windows(parts["validation"], len(parts["train"]), room)
        self.train: list[tuple[Windows, float | None]] = [(train, None)]
        self.determines: dict[str, Any] = {"vocab_size": self.tokenizer.vocab_size}
        facts = [self.tokenizer.fingerprint, train.fingerprint, self.validation.fingerprint]
        facts += [repr((question.question, question.answers)) for question in self.questions]
        facts += dict.fromkeys(question.context for question in self.questions)
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        described = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
        folder = (cache or files.cache_folder()) / f"questions-{described[:16]}"
        write_quarantine(folder, self.source, *(tally for _, _, tally in reads))
        self.counts = [
            {
                "source": ", ".join(paths),
                "read": tally.read,
                "used": tally.used,
                "quarantined": len(tally.quarantined),
                **{part: _sizes(parts[part], train if part == "train" else self.validation) for part in given},
            }
            for paths, given, tally in reads
        ]

    def _windows(self, part: Sequence[Question], first: int, room: int) -> Windows:
        """Returns the examples of some questions, the first of which has that number."""
        contexts = list(dict.fromkeys(question.context for question in part))
        found = dict(zip(contexts, passages(self.tokenizer, contexts), strict=True))
        ids = self.tokenizer.encode_batch([question.question for question in part])
        longest, cut = self.config.max_question_len, 0
        asked, where = [], []
        for number, (question, tokens) in enumerate(zip(part, ids, strict=True)):
            cut += len(tokens) > longest
            passage = found[question.context]
            answer = _answer(question, passage)
            asked.append(Asked(np.array(tokens[:longest], dtype=np.int32), passage, answer, first + number))
            # A short question leaves more room: the windows are cut for this one.
            space = room + longest - min(longest, len(tokens))
            where += [(number, each) for each in windows(len(passage.tokens), space, self.config.stride)]
        if cut:
            say(f"{cut:,} of {len(part):,} questions are longer than {longest} tokens: cut off")
        return Windows(self.tokenizer, asked, where, self.licence, self.source)

    def length(self, example: QuestionWindow) -> int:
        """Returns how long an example is, in tokens."""
        return len(example.tokens)

    def save_assets(self, folder: str | Path) -> None:
        """Writes what a model needs beside its weights: the tokenizer's files."""
        self.tokenizer.save(folder)


@dataclass(frozen=True)
class Asked:
    """A question in tokens.

    Attributes:
        tokens: Of the question.
        passage: The text in tokens.
        answer: The first and the last token of the first answer; None: there is none.
        number: Which question it is.
    """

    tokens: np.ndarray
    passage: Passage
    answer: tuple[int, int] | None
    number: int


@dataclass(frozen=True)
class Windows:
    """Questions with a part of their text each, put together when asked for; a `Dataset`.

    Attributes:
        tokenizer: Gives the frame.
        asked: The questions.
        where: Of each example the place of its question, and which tokens of the text it sees.
        licence: Of the text.
        source: Where it comes from.
    """

    tokenizer: Tokenizer
    asked: Sequence[Asked]
    where: Sequence[tuple[int, slice]]
    licence: str
    source: str

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, index: int) -> QuestionWindow:
        place, part = self.where[index]
        asked = self.asked[place]
        return window(self.tokenizer, asked.tokens, asked.passage, part, asked.answer, asked.number)

    @property
    def longest(self) -> int:
        """The number of an example than which none is longer."""
        sizes = [len(self.asked[place].tokens) + part.stop - part.start for place, part in self.where]
        return max(range(len(sizes)), key=sizes.__getitem__)

    @property
    def fingerprint(self) -> str:
        """A hash of every question, its text and its answer, and of the windows."""
        whole = hashlib.sha256()
        for asked in self.asked:
            whole.update(f"\n{len(asked.tokens)} {asked.answer} {asked.number} ".encode())
            whole.update(asked.tokens.astype("<i4").tobytes() + asked.passage.tokens.astype("<i4").tobytes())
        for place, part in self.where:
            whole.update(f"\n{place} {part.start} {part.stop}".encode())
        return whole.hexdigest()


def _answer(question: Question, passage: Passage) -> tuple[int, int] | None:
    """Returns the tokens of the answer that is trained on, the first one."""
    if not question.answers:
        return None
    start, text = question.answers[0]
    found = passage.tokens_of(start, start + len(text))
    if found is None:
        raise FileError(
            f"{question.where}: the answer must have a token, but the tokenizer leaves nothing of {text!r}. Leave the "
            "question out, or take another tokenizer."
        )
    return found


def _names(config: QuestionsConfig, apart: bool) -> list[str]:
    """Returns the names of what is read."""
    if config.hub is not None:
        return [config.hub.dataset]
    return list((config.validation_paths if apart else config.paths) or ())


def _texts(part: Sequence[Question]) -> list[str]:
    """Returns each text once, and the questions."""
    return [*dict.fromkeys(question.context for question in part), *(question.question for question in part)]


def _sizes(part: Sequence[Question], examples: Windows) -> dict[str, int]:
    unanswerable = sum(not question.answers for question in part)
    return {"questions": len(part), "unanswerable": unanswerable, "examples": len(examples)}


def _parts(config: QuestionsConfig) -> tuple[dict[str, list[Question]], list[Read]]:
    """Returns the questions of both parts, and of each pass which files it read, for which parts, and its counts."""
    tally = Tally(config.max_bad_samples)
    found = list(questions(config, False, tally))
    if config.validates_on is None:
        kept = {question.context: config.validation.keeps(question.context.encode()) for question in found}
        parts = {
            "train": [question for question in found if not kept[question.context]],
            "validation": [question for question in found if kept[question.context]],
        }
        reads: list[Read] = [(_names(config, False), ("train", "validation"), tally)]
    else:
        other = Tally(config.max_bad_samples)
        parts = {"train": found, "validation": list(questions(config, True, other))}
        reads = [(_names(config, False), ("train",), tally), (_names(config, True), ("validation",), other)]
    for paths, given, counted in reads:
        for part in given:
            if not parts[part]:
                advice = "Add texts, or change data.validation.fraction." if counted.used else "Name others."
                raise FileError(
                    f"the {part} part must have questions, but {', '.join(paths)} give it none "
                    f"({counted.summary('questions')}). {advice}"
                )
    return parts, reads
