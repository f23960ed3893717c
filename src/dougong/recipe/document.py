"""YAML text as plain values, each with the line it stands on; hostile text is refused before it can cost anything.

Knows YAML and its dangers (law 6: nothing that is loaded can execute); knows no recipe and no config.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dougong.core.config import path_text, shown
from dougong.core.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_NODES = 2_000
Keys = tuple[str | int, ...]
_DEEP = re.compile(rf"(?:[\[{{]\s*){{{MAX_DEPTH + 1}}}")
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq")}
# Scalars that YAML would read as something else than a recipe means: a date, a merge key, a value sign.
_AS_TEXT = {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "merge", "value")}


@dataclass
class Document:
    """The values of a YAML text, and where each stands.

    Attributes:
        values: Mappings, lists, strings, numbers, true, false and null.
        where: The file, or whatever else the text is called in a complaint.
        lines: The line of each key and item, counted from 1.
    """

    values: Any
    where: str
    lines: dict[Keys, int] = field(default_factory=dict)


def parse(text: str | bytes, where: str) -> Document:
    """Returns the document of a text.

    Raises:
        RecipeError: It is too large or too deep, no YAML, or more than plain data; with all complaints at once.
    """
    size = len(text) if isinstance(text, bytes) else len(text.encode(errors="replace"))
    if size > MAX_BYTES:
        raise RecipeError([f"{where} must have at most {MAX_BYTES:,} bytes, but has {size:,}. Is it a recipe?"])
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise RecipeError([f"{where} must be UTF-8 text, but byte {error.start} is not. Save it as UTF-8."]) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anchors given twice: the later one counts, as in YAML
        node = _compose(text, where)
    document = Document(None, where)
    walk = _Walk(document)
    document.values = walk.value(node, ()) if node is not None else None
    if walk.complaints:
        raise RecipeError(walk.complaints)
    return document


def _compose(text: str, where: str) -> Any:
    """Returns the tree of nodes, which expands no alias and constructs nothing; None for an empty text."""
    import ruamel.yaml

    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    opened = _DEEP.search(text)  # the parser reads ahead, and takes the square of what is open for it
    if opened is not None:
        raise RecipeError([_too_much(f"{where}:{text.count(chr(10), 0, opened.start()) + 1}", deep=True)])
    try:
        _check_events(yaml.parse(text), where)
        return yaml.compose(text)
    except ruamel.yaml.error.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise RecipeError([f"{where}{line}: must be YAML, but {_one_line(error)}. Mend the line."]) from error
    except ruamel.yaml.reader.ReaderError as error:
        at = f"{where}:{text.count(chr(10), 0, error.position) + 1}"
        letter = f"U+{error.character:04X}"
        raise RecipeError([f"{at}: must be YAML, which forbids the character {letter}. Remove it."]) from error
    except (ruamel.yaml.error.YAMLError, ValueError) as error:
        raise RecipeError([f"{where} must be YAML, but {_one_line(error)}."]) from error


def _one_line(error: Exception) -> str:
    words = getattr(error, "problem", None) or str(error)
    return re.sub(r"\s+", " ", words).strip().removeprefix("but ").rstrip(".")


def _check_events(events: Iterator[Any], where: str) -> None:
    """Reads the events in constant memory, so that what follows can be recursive."""
    depth = 0
    for count, event in enumerate(events):
        kind = type(event).__name__
        depth += kind in ("MappingStartEvent", "SequenceStartEvent")
        depth -= kind in ("MappingEndEvent", "SequenceEndEvent")
        if depth > MAX_DEPTH or count > 2 * MAX_NODES:
            line = event.start_mark.line + 1
            raise RecipeError([_too_much(f"{where}:{line}", depth > MAX_DEPTH)])


def _too_much(where: str, deep: bool) -> str:
    if deep:
        return f"{where}: sections must be nested at most {MAX_DEPTH} deep, but go deeper. Is it a recipe?"
    return f"{where}: a recipe must hold at most {MAX_NODES:,} values, but holds more. Is it a recipe?"


class _Walk:
    """Turns nodes into values, noting lines and complaints. Counts what aliases expand to, so a bomb stays small."""

    def __init__(self, document: Document):
        self.document, self.complaints, self.count = document, list[str](), 0

    def value(self, node: Any, path: Keys) -> Any:
        """Returns the value of a node that stands at a path."""
        line = node.start_mark.line + 1
        self.count += 1
        if len(path) > MAX_DEPTH or self.count > MAX_NODES:
            raise RecipeError([_too_much(f"{self.document.where}:{line}", len(path) > MAX_DEPTH)])
        self.document.lines.setdefault(path, line)
        tag = str(node.tag)
        if tag not in _PLAIN | _AS_TEXT:
            name = tag.replace("tag:yaml.org,2002:", "!!")
            return self.complain(line, path, f"must be plain data, but has the tag {name}. Remove the tag")
        if isinstance(node.value, str):
            return self.scalar(node, tag, path)
        if tag.endswith(":map"):
            return self.mapping(node, path)
        return [self.value(item, (*path, number)) for number, item in enumerate(node.value)]

    def mapping(self, node: Any, path: Keys) -> dict[str, Any]:
        """Returns a section; a key given twice is a fault."""
        found: dict[str, Any] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key.value, str):
                self.complain(line, path, "must have words as keys, but has a list or section as one. Rename it")
            elif key.value in found:
                first = self.document.lines[(*path, key.value)]
                self.complain(line, (*path, key.value), f"is given twice, first on line {first}. Keep one")
            else:
                self.document.lines[(*path, key.value)] = line
                found[key.value] = self.value(item, (*path, key.value))
        return found

    def scalar(self, node: Any, tag: str, path: Keys) -> Any:
        """Returns what YAML 1.2 means by a word: `1e-3` is a number, `yes` a string, a date a string."""
        kind, text = tag.rsplit(":", 1)[-1], node.value
        try:
            if kind == "int":
                return int(text.replace("_", ""), 0 if re.match(r"[-+]?0[xob]", text) else 10)
            if kind == "float":
                return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.replace("_", ""), flags=re.IGNORECASE))
        except ValueError:
            return self.complain(node.start_mark.line + 1, path, f"must be a number, but is {shown(text)}. Mend it")
        if kind == "bool":
            return text.lower() in ("true", "yes", "on")
        return None if kind == "null" else text

    def complain(self, line: int, path: Keys, rest: str) -> None:
        """Notes a complaint."""
        self.complaints.append(f"{self.document.where}:{line}: {path_text(path) or 'the recipe'} {rest}.")
