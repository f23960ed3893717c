"""Sentences about values: what pydantic says of a place, in our words; paths, nearest words, values as YAML has them.

Knows pydantic's kinds of errors; knows no config.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any


def path_text(path: Sequence[str | int]) -> str:
    """Returns `train.optimizer.betas[1]` for ("train", "optimizer", "betas", 1)."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def did_you_mean(word: str, known: Sequence[str], prefix: str = "") -> str:
    """Returns ` Did you mean X?` for the nearest of the known words, or a list of them, or nothing."""
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {prefix}{near[0]}?"
    return f" Known: {', '.join(sorted(known))}." if 0 < len(known) <= 40 else ""


_ABSENT = object()
_WISHES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "path_type": "a path",
    "is_instance_of": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a section of keys and values",
    "model_type": "a section of keys and values",
    "model_attributes_type": "a section of keys and values",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_short": "a string of {min_length} or more characters",
    "string_too_long": "a string of no more than {max_length} characters",
    "string_pattern_mismatch": "of the form {pattern}",
    "too_short": "a list of {min_length} or more items",
    "too_long": "a list of no more than {max_length} items",
}


def sentence_of(items: Sequence[Any], path: tuple[str | int, ...], known: Sequence[str]) -> str:
    """Returns the sentence for what pydantic says of one place.

    Args:
        items: What it says.
        path: The place.
        known: The words that could stand there.
    """
    where, item = path_text(path) or "the recipe", items[0]
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        parent = path_text(path[:-1])
        return f"{where} is not an option.{did_you_mean(str(path[-1]), known, parent + '.' if parent else '')}"
    if kind == "missing":
        return f"{where} is required, but absent. Add it."
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = context.get("tag", _ABSENT)
        names = re.findall(r"'([^']+)'", context["expected_tags"]) if "expected_tags" in context else list(known)
        if tag is _ABSENT:
            return f"{where}.name is required, but absent. Known: {', '.join(names)}."
        return f"{where}.name must be a known name, but is {shown(tag)}.{did_you_mean(str(tag), names)}"
    if kind in ("value_error", "assertion_error"):
        return f"{where} {item['msg'].split(', ', 1)[-1]}"
    wishes = dict.fromkeys(_wish(item) for item in items)
    literals = [word for item in items for word in re.findall(r"'([^']+)'", item.get("ctx", {}).get("expected", ""))]
    near = difflib.get_close_matches(item["input"], literals, n=1) if isinstance(item["input"], str) else []
    return f"{where} must be {' or '.join(wishes)}, but is {shown(item['input'])}." + "".join(
        f" Did you mean {word!r}?" for word in near
    )


def _wish(item: Any) -> str:
    """Returns what one alternative of a field wants, as it follows the words `must be`."""
    known = _WISHES.get(item["type"])
    if known is not None:
        return known.format(**item.get("ctx", {}))
    wish = item["msg"].removeprefix("Input should be ").rstrip(".")
    return wish[0].lower() + wish[1:]


def shown(value: Any) -> str:
    """Returns a value as a person wrote it in YAML, cut to a line: `true`, `null`, `'some'`, `[1, 2]`."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else text[:57] + "..."
