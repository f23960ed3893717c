from __future__ import annotations

import time
import xml.etree.ElementTree
from pathlib import Path

import pytest

from dougong.core.errors import UsageError
from dougong.data.annotations import Corners, fitted
from dougong.data.reading import Bad
from dougong.data.voc import read_voc
from tests.conftest import shared
from tests.data.pictures import voc_xml

LAUGHS = (
    '<!DOCTYPE annotation [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1 or str()};" * 10}">' for n in range(1, 10))
    + "]><annotation><filename>&a9;</filename></annotation>"
)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "one.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_pixels_counted_from_one_become_edges(tmp_path: Path) -> None:
    path = written(tmp_path, voc_xml("one", [("cat", 1, 1, 16, 12), ("dim", 3, 2.5, 7, 9)]))
    found = read_voc(path)
    assert (found.picture, found.size) == ("one.png", (12, 16))
    assert [(box.label, box.corners, box.ignored) for box in found.boxes] == [
        ("cat", (0.0, 0.0, 16.0, 12.0), False),
        ("dim", (2.0, 1.5, 7.0, 9.0), True),
    ]
    assert found.boxes[1].name == f"{path}, object 2"


def test_sizes_of_zero_or_none_are_not_believed(tmp_path: Path) -> None:
    for size in ("", "<size><width>0</width><height>0</height></size>", "<size><width>a</width></size>"):
        assert read_voc(written(tmp_path, f"<annotation>{size}</annotation>")).size is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be XML, but is not: no element found"),
        ("<annotation>", "must be XML, but is not"),
        ("{}", "must be XML, but is not"),
        ("<html/>", "must be an <annotation>, but is <html>"),
        (LAUGHS, "must have no document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "must have no document type"),
        ("<a>" * 60 + "</a>" * 60, "must not be nested deeper than 50"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "must be XML, but is not: unknown encoding"),
        (b"<annotation>\xff</annotation>", "must be XML, but is not"),
        (b"<annotation>" + b" " * 20_000_000 + b"</annotation>", "must have at most 20,000,000 bytes"),
    ],
    ids=["empty", "open", "json", "html", "entities", "outside", "deep", "encoding", "bytes", "long"],
)
def test_what_is_no_annotation_is_refused(text: str | bytes, said: str, tmp_path: Path) -> None:
    path, begin = written(tmp_path, text), time.process_time()
    with pytest.raises(Bad, match=said):
        read_voc(path)
    assert time.process_time() - begin < 1.0


def test_without_the_refusal_entities_would_be_expanded() -> None:
    few = LAUGHS.replace("&a9;", "&a3;")
    root = xml.etree.ElementTree.fromstring(few)
    assert len(root.findtext("filename") or "") == 2 * 10**3


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_voc(tmp_path / "nothing.xml")


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ((1, 2, 3, 4), (1, 2, 3, 4)),
        ((0, 0, 20, 10), (0, 0, 20, 10)),
        ((-5, -5, 3, 4), (0, 0, 3, 4)),
        ((15, 5, 40, 40), (15, 5, 20, 10)),
        ((1.25, 2, 1.75, 4), (1.25, 2, 1.75, 4)),
        ((3, 2, 3, 4), "must end right of where it begins"),
        ((5, 2, 3, 4), "must end right of where it begins, and below, but goes from 5, 2 to 3, 4"),
        ((1, 2, 3, float("nan")), "must have finite edges"),
        ((1, 2, float("inf"), 4), "must have finite edges"),
        ((30, 2, 40, 4), "must lie in its picture of 10 x 20"),
        ((19.5, 2, 40, 4), "must lie in its picture"),
        ((-9, -9, -1, -1), "must lie in its picture"),
    ],
)
def test_box_is_cut_at_the_edge_or_refused(corners: Corners, expected: Corners | str) -> None:
    edges: Corners = tuple(map(float, corners))  # type: ignore[assignment]
    if isinstance(expected, str):
        with pytest.raises(Bad, match=expected):
            fitted(edges, 10, 20)
    else:
        assert fitted(edges, 10, 20) == expected


def test_real_bad_boxes_are_told_from_good_ones() -> None:
    found = read_voc(shared("data/dirty/voc_bad_boxes.xml"))
    assert found.size == (480, 640)
    outcome = list[str]()
    for box in found.boxes:
        try:
            outcome.append("whole" if fitted(box.corners, 480, 640) == box.corners else "cut")
        except Bad as bad:
            outcome.append(str(bad))
    assert outcome[:19] == ["whole"] * 19
    assert outcome[20] == outcome[25] == "cut"
    assert outcome[22:24] == ["whole", "whole"]  # of an unknown class, and with fractions
    assert ["must end right" in outcome[19], "must end right" in outcome[21], "finite" in outcome[24]] == [True] * 3
