"""Pascal VOC's XML: the objects of one picture in a file of its own (Everingham et al. 2010).

Knows the form; does not know folders, nor the pictures. Entities are not expanded, as a file that declares any, or has
a document type at all, is refused.
"""

from __future__ import annotations

import xml.parsers.expat
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder

from dougong.core import files
from dougong.data.annotations import Annotation, Box
from dougong.data.reading import Bad

_BYTES = 20_000_000
_DEPTH = 50


def read_voc(path: str | Path) -> Annotation:
    """Returns the annotation of one picture.

    VOC counts pixels from 1 and means the last one to be inside: a box goes from `xmin - 1` to `xmax` here, likewise
    from `ymin - 1` to `ymax`, so that its width is right minus left. One whose `xmax` does not exceed `xmin` is left
    as it is, to be found bad: nothing is marked that is one pixel wide, but slips of the hand are.

    Raises:
        UsageError: The file does not exist.
        Bad: It is no such XML.
    """
    raw = files.read_bytes(path, _BYTES + 1)
    if len(raw) > _BYTES:
        raise Bad(f"an annotation must have at most {_BYTES:,} bytes, but this has more")
    root = _parsed(raw)
    if root.tag != "annotation":
        raise Bad(f"the XML must be an <annotation>, but is <{root.tag[:40]}>")
    boxes = [_box(each, f"{path}, object {number}") for number, each in enumerate(root.findall("object"), start=1)]
    return Annotation((root.findtext("filename") or "").strip(), boxes, _size(root), str(path))


def _parsed(raw: bytes) -> Element:
    """Returns the root of an XML text."""
    builder, parser = TreeBuilder(), xml.parsers.expat.ParserCreate()
    depth = 0

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEPTH:
            raise Bad(f"the XML must not be nested deeper than {_DEPTH}, but is")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(raw, True)
    except (xml.parsers.expat.ExpatError, ValueError, LookupError) as error:
        raise Bad(f"an annotation must be XML, but is not: {error}") from error
    return builder.close()


def _refuse_doctype(*_: object) -> None:
    raise Bad("the XML must have no document type, which may hold entities without end, but has one")


def _size(root: Element) -> tuple[int, int] | None:
    """Returns the stated height and width, if both are stated; some tools write zeros."""
    try:
        size = int(root.findtext("size/height") or 0), int(root.findtext("size/width") or 0)
    except ValueError:
        return None
    return size if min(size) > 0 else None


def _box(element: Element, name: str) -> Box:
    label = (element.findtext("name") or "").strip()
    left, top, right, bottom = (_number(element, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax"))
    left, top = (left - 1 if right > left else left), (top - 1 if bottom > top else top)
    return Box(label, (left, top, right, bottom), (element.findtext("difficult") or "").strip() == "1", name)


def _number(element: Element, path: str) -> float:
    """Returns the number at a place; what is none is no number either."""
    try:
        return float(element.findtext(path) or "nan")
    except ValueError:
        return float("nan")
