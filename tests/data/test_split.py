from __future__ import annotations

from collections.abc import Iterator

import pytest

from dougong.core.config import try_validate
from dougong.data.document import Document
from dougong.data.source import Tally
from dougong.data.split import Divided, HeldOutConfig, ValidationConfig, by_document, by_position


class Listed:
    """A source of documents given as texts."""

    fingerprint = licence = source = "listed"

    def __init__(self, *documents: Document):
        self.given = documents
        self.passes = 0

    def documents(self, tally: Tally) -> Iterator[Document]:
        self.passes += 1
        return iter(self.given)


def texts(*texts: str) -> list[Document]:
    return [Document(text, f"{number}") for number, text in enumerate(texts)]


MANY = texts(*(f"document {number}" for number in range(2000)))


def test_split_by_document_keeps_about_the_fraction_apart_and_loses_none() -> None:
    found = list(by_document(MANY, 0.1))
    assert [document for _, document in found] == MANY
    assert 150 < sum(apart for apart, _ in found) < 250


def test_equal_documents_are_on_the_same_side_and_new_ones_move_none() -> None:
    before = {document.text: apart for apart, document in by_document(MANY, 0.1)}
    after = {document.text: apart for apart, document in by_document([*texts("new"), *MANY[::-1], *MANY], 0.1)}
    assert before.items() <= after.items()


def test_higher_fraction_keeps_the_same_documents_apart_and_more() -> None:
    few = {document.text for apart, document in by_document(MANY, 0.1) if apart}
    many = {document.text for apart, document in by_document(MANY, 0.3) if apart}
    assert few < many


def test_pieces_of_a_document_stay_together() -> None:
    pieces = [Document(text.text, "one", piece) for piece, text in enumerate(MANY)]
    assert len({apart for apart, _ in by_document(pieces, 0.5)}) == 1


@pytest.mark.parametrize("cut", [0, 1, 4, 5, 6, 9, 12])
def test_split_by_position_cuts_after_exactly_so_many_characters(cut: int) -> None:
    documents = [Document("abcde", "a"), Document("fgh", "b"), Document("ijkl", "b", 1)]
    found = list(by_position(documents, cut))
    train = "".join(document.text for apart, document in found if not apart)
    assert train == "abcdefghijkl"[:cut]
    assert "".join(document.text for _, document in found) == "abcdefghijkl"
    kept = [document for apart, document in found if apart]
    assert not kept or kept[0].piece == 0
    assert [document.piece for document in kept[1:]] == ([0, 1] if cut < 5 else [1] if cut < 8 else [])


def test_position_is_that_of_nanogpt() -> None:
    source = Listed(*texts("x" * 1_115_394))
    kept = [
        document.text
        for apart, document in Divided(source, ValidationConfig(by="position", fraction=0.1)).documents(Tally())
        if apart
    ]
    assert len(kept[0]) == 111_540  # its val.bin has as many tokens


def test_characters_are_counted_once() -> None:
    source = Listed(*MANY)
    divided = Divided(source, ValidationConfig(by="position", fraction=0.25))
    training = "".join(divided.texts(everything=False))
    assert len(training) == int(0.75 * sum(len(document.text) for document in MANY))
    assert "".join(divided.texts(everything=True)).startswith(training)
    assert source.passes == 3


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_fraction_lies_between_none_and_all(fraction: float) -> None:
    assert len(try_validate(ValidationConfig, {"fraction": fraction})[1]) == 1


@pytest.mark.parametrize("fraction", [0.1, 0.2, 1 / 3, 0.5])
def test_the_folds_keep_each_example_apart_once(fraction: float) -> None:
    folds = [HeldOutConfig(fraction=fraction, fold=fold) for fold in range(round(1 / fraction))]
    kept = [[fold.keeps(document.text.encode()) for fold in folds] for document in MANY]
    assert [sum(each) for each in kept] == [1] * len(MANY)
    shares = [sum(each) / len(MANY) for each in zip(*kept, strict=True)]
    assert shares == pytest.approx([fraction] * len(folds), abs=0.04)


@pytest.mark.parametrize(("fraction", "last"), [(0.1, 9), (0.3, 2), (0.75, 0)])
def test_a_fold_beyond_the_last_whole_one_is_refused(fraction: float, last: int) -> None:
    assert HeldOutConfig(fraction=fraction, fold=last).fold == last
    _, complaints = try_validate(HeldOutConfig, {"fraction": fraction, "fold": last + 1})
    assert [(complaint.path, complaint.text) for complaint in complaints] == [
        (("fold",), f"fold must be less than {last + 1}, as fraction is {fraction:g}, but is {last + 1}.")
    ]
