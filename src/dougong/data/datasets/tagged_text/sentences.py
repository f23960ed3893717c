"""Which sentences files have: those of columns, and those of tables with a list of words and one of tags in each row.

Knows files and their kinds; does not know tokens, nor what the tags mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dougong.core.errors import UsageError
from dougong.data.columns import Table, located
from dougong.data.datasets.tagged_text import TaggedTextConfig, is_table
from dougong.data.datasets.tagged_text.conll import Layout, Sentence
from dougong.data.datasets.tagged_text.conll import sentences as in_columns
from dougong.data.raw import Bad
from dougong.data.reading import Reading
from dougong.data.source import Tally
from dougong.data.sources.files import listed


def sentences(config: TaggedTextConfig, apart: bool, tally: Tally) -> Iterator[tuple[str, Sentence | Bad]]:
    """Yields each sentence with where it stands, or why it is bad; counts what is left out, and broken records alone.

    Args:
        config: Names the files, or the data set.
        apart: Whether what is named to validate on is read.
        tally: What counts.

    Raises:
        UsageError: A path does not exist, or a table is to have a column without a name.
        FileError: A file cannot be read.
    """
    if config.hub is not None:
        wanted = _wanted(config, config.hub.dataset)
        for record in config.hub.source(apart).rows(wanted, tally):
            tally.used -= 1  # it may yet be bad
            yield record.where, _sentence(record.where, record.values, wanted, config.labels)
        return
    layout = Layout(config.word, config.tag, config.columns, config.comment)
    for path in listed((config.validation_paths if apart else config.paths) or (), tally):
        if is_table(path):
            wanted = _wanted(config, path)
            for where, values in located(path, wanted, Table(encoding=config.encoding)):
                yield where, _sentence(where, values, wanted, config.labels)
        else:
            yield from in_columns(path, layout, Reading(encoding=config.encoding))


def _wanted(config: TaggedTextConfig, of: str | Path) -> tuple[str, str]:
    return _named(config.word, "word", "tokens", of), _named(config.tag, "tag", "tags", of)


def _named(column: str | int | None, option: str, default: str, of: str | Path) -> str:
    if isinstance(column, int):
        raise UsageError(f"data.{option} must be a name for tables such as {of}, but is {column}. Name the column.")
    return default if column is None else column


def _sentence(
    where: str, values: dict[str, Any] | Bad, wanted: tuple[str, str], labels: Sequence[str] | None
) -> Sentence | Bad:
    try:
        if isinstance(values, Bad):
            raise values
        words, tags = (values[name] for name in wanted)
        for name, value in zip(wanted, (words, tags), strict=True):
            if not isinstance(value, list) or not value:
                raise Bad(f"the field {name!r} must be a list of one or more, but is {_kind(value)}")
        if len(words) != len(tags):
            raise Bad(f"a sentence must have a tag for each word, but has {len(words)} words and {len(tags)} tags")
        if not all(isinstance(word, str) and word.strip() for word in words):
            raise Bad(f"the field {wanted[0]!r} must hold words, but has one that is empty or no text")
        return Sentence(tuple(words), tuple(_tag(tag, labels, wanted[1]) for tag in tags), where)
    except Bad as bad:
        return bad


def _tag(tag: Any, labels: Sequence[str] | None, field: str) -> str:
    """Returns the name of a tag; a whole number is its place among the labels, if these are given."""
    if isinstance(tag, int) and not isinstance(tag, bool):
        if labels is None:
            return str(tag)
        if 0 <= tag < len(labels):
            return labels[tag]
        raise Bad(f"a tag must be the number of one of the {len(labels)} labels, but is {tag}")
    if not isinstance(tag, str) or not tag.strip():
        raise Bad(f"the field {field!r} must hold tags, but has one that is {_kind(tag)}")
    return tag


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return "empty" if value in ("", []) else f"of type {type(value).__name__}"
