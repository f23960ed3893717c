"""Columns of words and tags: a line a word, a blank line between sentences, as the CoNLL tasks have them.

Knows lines; does not know tokens, nor what the tags mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dougong.core.config import did_you_mean
from dougong.data.raw import Bad
from dougong.data.reading import Reading, numbered_lines

DOCUMENT = "-DOCSTART-"
_NAMES = "# global.columns ="
_CONLL_U = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_NO_WORD = re.compile(r"\d+[-.]\d+")  # CoNLL-U: several words written as one (1-2), and words that are not there (8.1)
Column = int | str
Line = tuple[int, str | Bad]


@dataclass(frozen=True)
class Sentence:
    """Words with their tags.

    Attributes:
        words: The words, at least one.
        tags: The tag of each.
        where: Where it begins, for messages.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    where: str


@dataclass
class Layout:
    """What the columns of a file are.

    Attributes:
        word: The column of the words: its number, from 0, or its name; None: the first, or FORM.
        tag: The column of the tags; None: the last, or UPOS.
        names: Of the columns, where they are known.
        comment: What a line that is no word begins with, where it stands before the first word of a sentence.
        width: How many columns the first line has, and which line that is, once that is known.
    """

    word: Column | None = None
    tag: Column | None = None
    names: Sequence[str] | None = None
    comment: str | None = "# "
    width: tuple[int, int] | None = field(default=None, init=False)

    def of(self, path: Path) -> Layout:
        """Returns the layout of a file, none of which is read yet."""
        if not path.name.lower().removesuffix(".gz").removesuffix(".zst").endswith(".conllu"):
            return Layout(self.word, self.tag, self.names, self.comment)
        word, tag = ("FORM" if self.word is None else self.word), ("UPOS" if self.tag is None else self.tag)
        return Layout(word, tag, self.names or _CONLL_U, self.comment)

    def cells(self, line: str, number: int) -> list[tuple[str, str]]:
        """Returns the word and the tag of a line; nothing where CoNLL-U has no word.

        Raises:
            Bad: The line has other columns than the first, or an empty one.
        """
        fields = line.split("\t") if "\t" in line else re.split(" +", line)
        count, where = self.width or (len(fields), number)
        self.width = count, where
        if len(fields) != count:
            raise Bad(f"a line must have {count} columns, as line {where} has, but has {len(fields)}")
        if self.names and self.names[0] == "ID" and _NO_WORD.fullmatch(fields[0]):
            return []
        first, last = (self._place(column, count) for column in self._columns())
        if first == last:
            raise Bad(f"a line must have a column of words and another of tags, but both are column {first} of {count}")
        word, tag = fields[first].strip(), fields[last].strip()
        if not word or not tag:
            raise Bad(f"a line must have a word and a tag, but its {'word' if not word else 'tag'} is empty")
        return [(word, tag)]

    def _columns(self) -> tuple[Column, Column]:
        return 0 if self.word is None else self.word, -1 if self.tag is None else self.tag

    def _place(self, column: Column, count: int) -> int:
        if isinstance(column, str):
            column = self._named(column)
        if not -count <= column < count:
            raise Bad(f"a line must have a column {column} (the first is 0), but has {count} columns")
        return column % count

    def _named(self, name: str) -> int:
        if self.names is None:
            raise Bad(f"a column must have a name to be called {name!r}, but none has; give columns, or a number")
        if name not in self.names:
            raise Bad(f"a column must be called {name!r}, but none is.{did_you_mean(name, self.names)}".rstrip("."))
        return list(self.names).index(name)


def sentences(path: Path, layout: Layout, reading: Reading) -> Iterator[tuple[str, Sentence | Bad]]:
    """Yields each sentence of a file with where it stands, or why it is bad; counts nothing.

    Raises:
        UsageError: The file does not exist.
        FileError: It cannot be read.
    """
    own = layout.of(path)
    for block in _blocks(numbered_lines(path, reading), own):
        words: list[tuple[str, str]] = []
        for number, line in block:
            try:
                if isinstance(line, Bad):
                    raise line
                words += own.cells(line, number)
            except Bad as bad:
                yield f"{path}, line {number}", bad
                break
        else:
            where = f"{path}, line {block[0][0]}"
            if words:
                yield where, Sentence(tuple(word for word, _ in words), tuple(tag for _, tag in words), where)


def _blocks(lines: Iterable[Line], layout: Layout) -> Iterator[list[Line]]:
    """Yields the numbered lines of each sentence; takes the names of columns from a comment that has them."""
    block: list[Line] = []
    for number, line in lines:
        if isinstance(line, str) and (not line or line.startswith(DOCUMENT)):
            if block:
                yield block
            block = []
        elif not block and isinstance(line, str) and layout.comment and line.startswith(layout.comment):
            if line.startswith(_NAMES):
                layout.names = line.removeprefix(_NAMES).split()
        else:
            block.append((number, line))
    if block:
        yield block
