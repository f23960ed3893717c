"""Changing one value of a recipe by its path: `train.steps=500`, `data.sources[0].paths=[a.txt]`.

Knows paths and plain values; whether such an option exists is for the recipe's own validation to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dougong.core.config import path_text, shown
from dougong.core.errors import UsageError
from dougong.recipe.document import Keys, parse

_KEY = r"[A-Za-z_][\w-]*"
_PATH = re.compile(rf"{_KEY}(\[\d+\])*(\.{_KEY}(\[\d+\])*)*")


def parse_override(text: str) -> tuple[Keys, Any]:
    """Returns path and value of `train.steps=500`; the value is read as YAML.

    Raises:
        UsageError: It has no such form.
        RecipeError: The value is no YAML.
    """
    path, equals, value = text.partition("=")
    if not equals or not _PATH.fullmatch(path.strip()):
        raise UsageError(f"--set must have the form path=value, such as train.steps=500, but is {shown(text)}.")
    return parse_path(path.strip()), parse(value, f"--set {path.strip()}").values


def parse_path(text: str) -> Keys:
    """Returns ("data", "sources", 0) for `data.sources[0]`."""
    return tuple(int(index) if index else word for word, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", text))


def changed(values: Any, path: Keys, value: Any, done: Keys = ()) -> Any:
    """Returns a copy of `values` in which what stands at `path` is `value`; missing sections are made.

    Raises:
        UsageError: The path leads through something that is no section or list, or beyond a list's end.
    """
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(key, int):
        if not isinstance(values, list) or key > len(values):
            raise UsageError(f"{path_text((*done, key))} must be an item of a list{_size(values)}. Set the whole list.")
        inner = changed(values[key] if key < len(values) else None, rest, value, (*done, key))
        return [*values[:key], inner, *values[key + 1 :]]
    if values is not None and not isinstance(values, dict):
        raise UsageError(f"{path_text(done)} must be a section to set {key!r} in it, but is {shown(values)}.")
    section = values or {}
    return {**section, key: changed(section.get(key), rest, value, (*done, key))}


def _size(values: Any) -> str:
    return f", but the list has {len(values)}" if isinstance(values, list) else f", but {shown(values)} is no list"


def merged(values: Any, changes: Any) -> Any:
    """Returns `values` with the keys of `changes` put in, section by section.

    What is no section is replaced, and so is a section that names its part: the keys of another part make no sense.
    """
    if not isinstance(values, Mapping) or not isinstance(changes, Mapping) or "name" in changes:
        return changes
    return {**values, **{key: merged(values.get(key), change) for key, change in changes.items()}}
