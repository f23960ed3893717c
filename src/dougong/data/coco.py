"""COCO's JSON: all pictures and all objects of a dataset in one file (Lin et al. 2014).

Knows the form; does not know folders, nor the pictures. The lists are read an item at a time, and of each item only
what is wanted is kept: reading takes about twice the memory of the file, not ten times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.core.errors import FileError
from dougong.data.annotations import Annotation, Box

_BYTES = 4_000_000_000
_SPACE = re.compile(r"[ \t\n\r]*")
_LISTS = ("images", "categories", "annotations")
_NO_BOX = (float("nan"),) * 4


@dataclass(frozen=True)
class Coco:
    """What a file holds.

    Attributes:
        labels: The names of the classes, in the order of their ids, which need not be without gaps.
        annotations: One for each picture, in the order of the file; without objects, if there are none.
    """

    labels: list[str]
    annotations: list[Annotation]


def read_coco(path: str | Path) -> Coco:
    """Returns what a file says of pictures and their objects.

    Boxes are `[x, y, width, height]` from the upper left corner, in pixels. A crowd is one box that is ignored. What
    a box is worth is not looked at here.

    Raises:
        UsageError: The file does not exist.
        FileError: It is not of this form, or something in it refers to nothing.
    """
    pictures: dict[int, tuple[str, tuple[int, int] | None]] = {}
    boxes: dict[int, list[tuple[int, Box]]] = {}
    names: dict[int, str] = {}
    seen = set()
    for key, number, item in _items(path):
        if key not in _LISTS:
            continue
        seen.add(key)
        where = f"{path}, {key}[{number}]"
        if not isinstance(item, dict):
            raise FileError(f"{where} must be an object, but is of type {type(item).__name__}. Repair it.")
        if key == "images":
            pictures[_integer(item, "id", where, taken=pictures)] = (_text(item, "file_name", where), _size(item))
        elif key == "categories":
            names[_integer(item, "id", where, taken=names)] = _text(item, "name", where)
        else:
            kind = _integer(item, "category_id", where)
            box = Box("", _corners(item), bool(item.get("iscrowd")), where)
            boxes.setdefault(_integer(item, "image_id", where), []).append((kind, box))
    for key in _LISTS[:2]:
        if key not in seen:
            raise FileError(f"{path} must have {key}, as COCO's files do, but has none. Name another file.")
    return _joined(path, pictures, boxes, names)


def _joined(
    path: str | Path,
    pictures: dict[int, tuple[str, tuple[int, int] | None]],
    boxes: dict[int, list[tuple[int, Box]]],
    names: dict[int, str],
) -> Coco:
    labels = [names[number] for number in sorted(names)]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise FileError(f"{path} must name each category once, but {twice!r} is there twice. Rename one.")
    for number, found in boxes.items():
        if number not in pictures:
            raise FileError(f"{found[0][1].name} must be of a picture of the file, but image {number} is not there.")
        for kind, box in found:
            if kind not in names:
                raise FileError(f"{box.name} must be of a category of the file, but category {kind} is not there.")
    annotations = [
        Annotation(
            name,
            [Box(names[kind], box.corners, box.ignored, box.name) for kind, box in boxes.get(number, ())],
            size,
            f"{path}, image {number}",
        )
        for number, (name, size) in pictures.items()
    ]
    return Coco(labels, annotations)


def _items(path: str | Path) -> Iterator[tuple[str, int, Any]]:
    """Yields key, number and value of every item of every list in the file's object."""
    raw = files.read_bytes(path, _BYTES + 1)
    if len(raw) > _BYTES:
        raise FileError(f"{path} must have at most {_BYTES:,} bytes, but has more. Refused.")
    try:
        text = raw.decode("utf-8-sig")
        del raw
        yield from _Scanner(text).items()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise FileError(f"{path} must be COCO's JSON, but is not: {reason}. Fetch it again.") from error


class _Scanner:
    """Walks through a JSON object whose values may be long lists; raises ValueError where it is none."""

    def __init__(self, text: str):
        self.text, self.place = text, 0
        self._value = json.JSONDecoder().raw_decode

    def items(self) -> Iterator[tuple[str, int, Any]]:
        self._take("{")
        keys = set[str]()
        while not self._took("}"):
            if keys:
                self._take(",")
            key = self._any()
            if not isinstance(key, str) or key in keys:
                raise ValueError(f"{str(key)[:80]!r} is no key, or given twice")
            keys.add(key)
            self._take(":")
            if self._next() == "[":
                yield from ((key, number, item) for number, item in enumerate(self._list()))
            else:
                self._any()
        if self._next():
            raise ValueError(f"something follows after its end, at character {self.place:,}")

    def _list(self) -> Iterator[Any]:
        self._take("[")
        first = True
        while not self._took("]"):
            if not first:
                self._take(",")
            first = False
            yield self._any()

    def _any(self) -> Any:
        self._next()
        try:
            value, self.place = self._value(self.text, self.place)
        except StopIteration as error:
            raise ValueError("it ends too early") from error
        return value

    def _next(self) -> str:
        found = _SPACE.match(self.text, self.place)
        self.place = found.end() if found else self.place
        return self.text[self.place : self.place + 1]

    def _took(self, sign: str) -> bool:
        if self._next() != sign:
            return False
        self.place += 1
        return True

    def _take(self, sign: str) -> None:
        if not self._took(sign):
            raise ValueError(f"{sign!r} is missing at character {self.place:,}")


def _integer(item: dict[str, Any], key: str, where: str, taken: Any = ()) -> int:
    value = item.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FileError(f"{where} must have an integer as its {key}, but has {str(value)[:40]!r}. Repair it.")
    if value in taken:
        raise FileError(f"{where} must have an {key} of its own, but {value} was given before. Repair it.")
    return value


def _text(item: dict[str, Any], key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value:
        raise FileError(f"{where} must have a text as its {key}, but has {str(value)[:40]!r}. Repair it.")
    return value


def _size(item: dict[str, Any]) -> tuple[int, int] | None:
    height, width = item.get("height"), item.get("width")
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        return None
    return height, width


def _corners(item: dict[str, Any]) -> tuple[float, float, float, float]:
    """Returns the edges of a box; what is no box has none that are numbers."""
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        return _NO_BOX
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in box):
        return _NO_BOX
    try:
        left, top, width, height = map(float, box)
    except OverflowError:
        return _NO_BOX
    return left, top, left + width, top + height
