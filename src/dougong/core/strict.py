"""JSON as it must be: each key once, every number finite, all text Unicode, neither too deep nor too many values.

Knows texts; does not know files.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

JSON_VALUES = 4_000_000
"""Values of the largest JSON file that is read, at most; each takes some 60 bytes of memory, if it is empty."""
JSON_DEPTH = 200
"""How deep the values of a JSON file may lie."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def parse_json(raw: bytes | str) -> Any:
    """Returns the value of a JSON text, or refuses it: what JSON must be here, the module says.

    Raises:
        ValueError: It is none; the text says why, without a full stop.
    """
    text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
    if text.count(",") + text.count("[") + text.count("{") > JSON_VALUES:
        raise ValueError(f"it has more than {JSON_VALUES:,} values")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {JSON_DEPTH}") from None
    _check_depth(value)
    _check_text(text, value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(JSON_DEPTH):
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [below for item in inner for below in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {JSON_DEPTH}")


def _check_text(text: str, value: Any) -> None:
    """JSON can escape half a surrogate pair, which is no character and cannot be encoded."""
    if _SURROGATE.search(text) is None:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("its text holds half a surrogate pair") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} is given twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text[:80]} is too large")
    return number
