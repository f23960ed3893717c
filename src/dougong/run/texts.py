"""The verb `predict` about texts: sentences, lines of files, and standard input as it comes.

Knows where texts come from, and what is done about bad ones; how an answer comes about, `infer` knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from dougong.core import log
from dougong.core.errors import FileError, UsageError
from dougong.data.columns import Table, records, refuse, table_kind, text_of
from dougong.data.raw import LINE, Bad
from dougong.data.reading import Reading, line_text, lines
from dougong.data.source import Tally
from dougong.infer.texts import Input, TextPredictor

STANDARD_INPUT = "-"
_CHUNK = 1 << 16
_SUFFIXES = (".txt", ".tsv", ".csv", ".jsonl", ".json", ".md", ".gz", ".zst", ".parquet")
_ONE = "a line must have two texts with a tab between, but has one"
Asked = str | tuple[str, str] | Path


def named(argument: str) -> Asked:
    """Returns what an argument of the command line stands for: a file, if there is such, or a text.

    Raises:
        UsageError: It looks like a file, and there is none.
    """
    if argument == STANDARD_INPUT:
        return Path(argument)
    if not argument:
        return argument  # as a path it would be the folder here
    path = Path(argument).expanduser()
    try:
        if path.is_file():
            return path
        folder = path.is_dir()
    except OSError:  # too long for a name
        return argument
    alone = not any(letter.isspace() for letter in argument)
    if folder or (alone and (argument.lower().endswith(_SUFFIXES) or (path.parent.is_dir() and os.sep in argument))):
        what = "is a folder" if folder else "does not exist"
        raise UsageError(f"{argument} must be a text or a file of them, but {what}. Check the path.", name="E-PATH")
    return argument


def answers(
    predictor: TextPredictor,
    asked: Sequence[Asked],
    tally: Tally,
    batch_size: int = 16,
    encoding: str | None = None,
    columns: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Yields the answer about each text as it comes, with the `text` itself first; bad lines are counted and left out.

    A text is itself; of a file each line that is not blank is a text, and so it is of standard input, `Path("-")`,
    which is answered as it comes. A tab stands between two texts that belong together.

    Args:
        predictor: The model.
        asked: Texts, tuples of two, and paths.
        tally: Counts what is used, and the bad lines.
        batch_size: How many go through the model at once.
        encoding: Of the files; None: UTF-8, or what a byte order mark says.
        columns: Of files that are tables: the column of the text, and that of a second. The rest of a row is unread.

    Raises:
        UsageError: A file does not exist, is a table with no column named, or the task takes another number of texts.
        FileError: More lines are bad than are put up with.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, but is {batch_size}.")
    least, most = predictor.task.takes
    if columns and not least <= len(columns) <= most:
        wanted = f"{least}" if least == most else f"{least} or {most}"
        raise UsageError(f"columns must name {wanted}, as many as the task takes texts, but names {len(columns)}.")
    parted = 0
    for group in _groups(asked, tally, batch_size, Table(encoding=encoding), columns, least == 2):
        pieces = [_split(predictor, text) for text in group]
        parted += sum(
            isinstance(text, str) and isinstance(piece, tuple) for text, piece in zip(group, pieces, strict=True)
        )
        for piece, answer in zip(pieces, predictor.answered(pieces, batch_size), strict=True):
            yield {**_told(predictor, piece), **answer}
    if parted and least == 1:
        log.say(f"{parted:,} with a tab, read as two texts that belong together")
    if predictor.cut:
        what = "text is" if predictor.cut == 1 else "texts are"
        log.warn(f"{predictor.cut:,} {what} longer than the {predictor.task.seq_len} tokens that are read: cut off")


def _told(predictor: TextPredictor, piece: Input) -> dict[str, Any]:
    """Returns the text, or both by their names."""
    if isinstance(piece, str):
        return {"input": piece}
    names = ("question", "context") if predictor.task.takes == (2, 2) else ("input", "second")
    return dict(zip(names, piece, strict=True))


def _split(predictor: TextPredictor, text: Input) -> Input:
    if not isinstance(text, str) or predictor.task.takes[1] < 2 or "\t" not in text:
        return text
    first, second = text.split("\t", 1)
    return (first.strip(), second.strip())


def _groups(
    asked: Sequence[Asked], tally: Tally, size: int, table: Table, columns: Sequence[str] = (), paired: bool = False
) -> Iterator[list[Input]]:
    """Yields texts in groups that are answered at once: as many as go together, or as have come."""
    waiting: list[Input] = []
    for each in asked:
        if not isinstance(each, Path):
            tally.used += 1
            waiting.append(each)
        elif str(each) == STANDARD_INPUT:
            if waiting:
                yield waiting
                waiting = []
            for come in _standard_input(tally, paired):
                yield from _chunked(come, size)
        else:
            texts = _rows(each, columns, table, tally) if columns else _lines(each, table, tally, paired)
            for text in texts:
                waiting.append(text)
                if len(waiting) >= size:
                    yield from _chunked(waiting, size)
                    waiting = []
    yield from _chunked(waiting, size)


def _lines(path: Path, table: Table, tally: Tally, paired: bool) -> Iterator[Input]:
    """Yields the lines of a file; of a table they are no texts."""
    kind = table_kind(path)
    if kind not in ("text", "tsv"):
        raise UsageError(
            f"{path} must be read by its columns, as it is .{kind}, but none is named. Set columns (--columns text)."
        )
    for document in lines(path, Reading(encoding=table.encoding), tally):
        if paired and "\t" not in document.text:
            tally.used -= 1
            tally.quarantine(document.name, _ONE)
        else:
            yield document.text


def _rows(path: Path, columns: Sequence[str], table: Table, tally: Tally) -> Iterator[Input]:
    """Yields what stands in one column of a table, or in two."""
    for record in records([path], columns, table, tally):
        texts = [text_of(record.values, column) for column in columns]
        bad = next((text for text in texts if isinstance(text, Bad)), None)
        if bad is not None:
            refuse(record, str(bad), tally)
        elif not all(text.strip() for text in texts if isinstance(text, str)):
            tally.used -= 1
            tally.leave_out("empty")
        else:
            first, *second = map(str, texts)
            yield (first, second[0]) if second else first.replace("\t", " ")  # a tab would part it


def _chunked(texts: Iterable[Input], size: int) -> Iterator[list[Input]]:
    rest = iter(texts)
    while group := list(islice(rest, size)):
        yield group


def _standard_input(tally: Tally, paired: bool) -> Iterator[list[Input]]:
    """Yields the lines that have come, without waiting for more than one."""
    rest, number = b"", 0
    while True:
        chunk = os.read(0, _CHUNK)
        *whole, rest = (rest + chunk).split(b"\n") if chunk else (rest, b"")
        if len(rest) > LINE:
            raise FileError(f"standard input, line {number + len(whole) + 1}: a line must have at most {LINE:,} bytes.")
        texts: list[Input] = []
        for line in whole:
            number += 1
            text = line_text(line, "utf-8")
            if not isinstance(text, Bad) and text and paired and "\t" not in text:
                text = Bad(_ONE)
            if isinstance(text, Bad):
                tally.quarantine(f"standard input, line {number}", str(text))
            elif text:
                tally.used += 1
                texts.append(text)
        yield texts
        if not chunk:
            return
