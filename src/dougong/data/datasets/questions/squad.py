"""Questions from files: SQuAD's JSON (Rajpurkar et al. 2016, 2018), and tables with a question in each row.

Knows these forms and how each can be broken; does not know tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.core.errors import FileError
from dougong.core.strict import parse_json
from dougong.data.columns import Table, located
from dougong.data.datasets.questions import QuestionsConfig
from dougong.data.raw import Bad, raw_chunks
from dougong.data.source import Tally
from dougong.data.sources.files import listed

_FORM = '{"data": [{"paragraphs": [{"context": ..., "qas": [...]}]}]}'
_COLUMNS = ("context", "question", "answers")
Found = Iterator[tuple[str, Mapping[str, Any] | Bad]]


@dataclass(frozen=True)
class Question:
    """A question about a text.

    Attributes:
        question: The question.
        context: The text.
        answers: Each answer that is held for right: its first character, and what it says; none: the text has none.
        where: Where it stands, for messages.
    """

    question: str
    context: str
    answers: tuple[tuple[int, str], ...]
    where: str


def questions(config: QuestionsConfig, apart: bool, tally: Tally) -> Iterator[Question]:
    """Yields the questions of files, or of a data set, in their order, and counts them; equal texts are one object.

    Args:
        config: Names the files, or the data set.
        apart: Whether what is named to validate on is read.
        tally: What counts.

    Raises:
        UsageError: A path does not exist, or is no such file by its name.
        FileError: A file, or a question beyond what the tally allows, is broken.
    """
    texts: dict[str, str] = {}
    for where, entry in _all_entries(config, apart, tally):
        try:
            found = _question(where, entry)
        except Bad as bad:
            tally.quarantine(where, str(bad))
            continue
        tally.used += 1
        yield Question(found.question, texts.setdefault(found.context, found.context), found.answers, where)


def _all_entries(config: QuestionsConfig, apart: bool, tally: Tally) -> Found:
    """Yields each question as it is written, with where it stands."""
    if config.hub is not None:
        for record in config.hub.source(apart).rows(_COLUMNS, tally):
            tally.used -= 1  # it may yet be bad
            yield record.where, record.values
        return
    for path in listed((config.validation_paths if apart else config.paths) or (), tally):
        yield from _entries(path)


def _entries(path: Path) -> Found:
    plain = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    if plain.endswith(".json"):
        yield from _squad(path)
    else:
        yield from located(path, _COLUMNS, Table())


def _squad(path: Path) -> Found:
    """Yields each question of a JSON file, with its context, and where it stands in the file."""
    found = _json(path)
    data = found.get("data") if isinstance(found, dict) else None
    if not isinstance(data, list):
        raise FileError(f"{path} must be of SQuAD's form, {_FORM}, but has no list 'data'. Take another file.")
    for number, article in enumerate(data):
        place = f"{path}, data[{number}]"
        for at, paragraph in _listed(article, "paragraphs", place):
            for inner, asked in _listed(paragraph, "qas", at):
                if isinstance(asked, dict):
                    name = f" (id {asked['id']})" if isinstance(asked.get("id"), str) else ""
                    yield inner + name, {"context": paragraph.get("context"), **asked}
                else:
                    yield inner, Bad(f"a question must be a JSON object, but is of type {type(asked).__name__}")


def _json(path: Path) -> Any:
    whole = bytearray()
    for chunk in raw_chunks(path):
        whole += chunk
        if len(whole) > files.JSON_BYTES:
            raise FileError(f"{path} must have at most {files.JSON_BYTES:,} bytes, but has more. Make it JSON lines.")
    try:
        return parse_json(bytes(whole))
    except ValueError as error:
        raise FileError(f"{path} must be JSON, but is not: {error}. Repair it.") from error


def _listed(section: Any, key: str, place: str) -> Iterator[tuple[str, Any]]:
    """Yields what a list of a section holds, each with its place."""
    items = section.get(key) if isinstance(section, dict) else None
    if not isinstance(items, list):
        raise FileError(f"{place} must have a list {key!r}, as SQuAD's form is {_FORM}, but has none. Repair it.")
    yield from ((f"{place}.{key}[{number}]", item) for number, item in enumerate(items))


def _question(where: str, entry: Mapping[str, Any] | Bad) -> Question:
    if isinstance(entry, Bad):
        raise entry
    question, context = (_text(entry.get(key), key) for key in ("question", "context"))
    answers = tuple(_answers(entry.get("answers"), context))
    impossible = entry.get("is_impossible")
    if impossible is True and answers:
        raise Bad("a question that is impossible must have no answer, but has one")
    if impossible is False and not answers:
        raise Bad("a question must have an answer, or is_impossible must be true, but neither is so")
    return Question(question, context, answers, where)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip():
        kind = "empty" if isinstance(value, str) else "null" if value is None else f"of type {type(value).__name__}"
        raise Bad(f"the field {field!r} must be text, but is {kind}")
    return value


def _answers(found: Any, context: str) -> Iterator[tuple[int, str]]:
    """Yields the answers, of SQuAD's list of objects or an object of lists, each once; all must stand in the text."""
    if found is None:
        return
    pairs: Any = found
    if isinstance(found, dict):
        texts, starts = (found.get(key) for key in ("text", "answer_start"))
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise Bad("answers must have as many texts as starts, in the lists 'text' and 'answer_start', but has not")
        pairs = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        raise Bad("answers must be a list of {text, answer_start}, or {text: [...], answer_start: [...]}, but is not")
    seen = set()
    for pair in pairs:
        answer = _start(pair.get("answer_start")), _text(pair.get("text"), "text")
        _check_place(*answer, context)
        if answer not in seen:
            seen.add(answer)
            yield answer


def _start(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Bad(f"answer_start must be the number of a character, but is {value!r:.40}")
    return value


def _check_place(start: int, text: str, context: str) -> None:
    there = context[start : start + len(text)]
    if there != text:
        other = context.find(text)
        hint = "it is nowhere in the text" if other < 0 else f"it stands at character {other}"
        raise Bad(
            f"the answer must stand at answer_start, but there the text has {_shown(there)}, not {_shown(text)}; {hint}"
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
