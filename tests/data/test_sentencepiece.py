from __future__ import annotations

import contextlib
import random
import struct
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from dougong.core.errors import FileError, UsageError
from dougong.data import sentencepiece
from dougong.data.sentencepiece import CONTROL, NORMAL, UNKNOWN, Cutter, PieceModel, Writer, read_model
from dougong.data.tokenizer import Tokenizer
from tests.data.marian_folder import ENGLISH, LETTERS, marian_folder, pieces_model, sentences

SMALL_RULES = "65 301\tC1\n65\t61\nFF21\t41 42\nFB01\t66 69\n3000\t20\n2026\t2E 2E 2E\n301 301\t\n"
"""A with an accent, A alone, and some more, as code points: what becomes what."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model with few rules, so that much of the file is about them, and about pieces."""
    path = tmp_path_factory.mktemp("rules") / "rules.tsv"
    path.write_text(SMALL_RULES)
    return pieces_model(ENGLISH, 60, "identity", normalization_rule_tsv=str(path))


def read(folder: Path, raw: bytes) -> PieceModel:
    (folder / "a.spm").write_bytes(raw)
    return read_model(folder / "a.spm")


def test_pieces_and_switches_are_those_of_the_library(tmp_path: Path):
    spm = pytest.importorskip("sentencepiece")
    raw = pieces_model(ENGLISH)
    model, theirs = read(tmp_path, raw), spm.SentencePieceProcessor(model_proto=raw)
    numbers = range(theirs.get_piece_size())
    assert [piece.text for piece in model.pieces] == [theirs.id_to_piece(number) for number in numbers]
    assert [piece.score for piece in model.pieces] == [theirs.get_score(number) for number in numbers]
    assert [piece.kind for piece in model.pieces[:4]] == [UNKNOWN, CONTROL, CONTROL, NORMAL]
    assert (model.dummy_prefix, model.trims) == (True, True)
    assert model.fingerprint != read(tmp_path, pieces_model(ENGLISH, 60)).fingerprint


@pytest.mark.parametrize(
    "options",
    [{}, {"rules": "nfkc_cf"}, {"rules": "identity"}, {"add_dummy_prefix": False}, {"remove_extra_whitespaces": False}],
    ids=str,
)
def test_text_is_written_and_cut_as_by_the_library(options: dict, tmp_path: Path):
    spm = pytest.importorskip("sentencepiece")
    raw, dice = pieces_model(ENGLISH, **options), random.Random(2)
    model, theirs = read(tmp_path, raw), spm.SentencePieceProcessor(model_proto=raw)
    texts = [*sentences(100), *("".join(dice.choices(LETTERS, k=9)) for _ in range(100)), "", " ", "a", "  a  b "]
    expected = [theirs.normalize(text) for text in texts]
    assert list(map(Writer(model), texts)) == expected
    assert Cutter(model)(texts) == [theirs.encode(text, out_type=str) for text in texts]
    assert sum(text != found for text, found in zip(texts, expected, strict=True)) > 100


def test_the_longest_sequence_counts(small: bytes, tmp_path: Path):
    rules = read(tmp_path, small).rules
    pairs = {
        "e": "a", "e\u0301": "Á", "e\u0301\u0301": "Á\u0301", "\u0301\u0301": "", "ee\u0301e": "aÁa", "xe": "xa",
        "Ａ": "AB", "\ufb01x\u3000…": "fix ...", "plain": "plain", "": "", "\u0301": "\u0301", "数e": "数a",
    }  # fmt: skip
    assert {text: rules(text) for text in pairs} == pairs
    assert sentencepiece.Rules()("e\u0301 Ａ") == "e\u0301 Ａ"


# Files that are no models


def number(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + number(value >> 7)


def field(place: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return number(place << 3) + number(value)
    return number(place << 3 | 2) + number(len(value)) + value


def piece(text: str, score: float = -1.0, kind: int = NORMAL) -> bytes:
    scored = number(2 << 3 | 5) + struct.pack("<f", score)
    return field(1, field(1, text.encode()) + scored + field(3, kind))


SOUND = piece("\u2581") + piece("a")
MALFORMED = {
    "empty": (b"", "its pieces are none"),
    "no piece of text": (piece("<unk>", 0, UNKNOWN), "its pieces are none"),
    "a piece twice": (SOUND + piece("a"), "not different"),
    "an empty piece": (SOUND + piece(""), "not different"),
    "words": (b"hello, world", "a field would have|no known form|no end"),
    "a length of 2^63": (SOUND + number(1 << 3 | 2) + number(2**63), "9,223,372,036,854,775,808 bytes of the 0 left"),
    "a number without end": (SOUND + b"\x08" + b"\xff" * 20, "a number has no end"),
    "a group": (SOUND + number(9 << 3 | 3), "a field of no known form"),
    "field 0": (SOUND + b"\x00\x01", "a field of no known form"),
    "a number for a piece": (SOUND + field(1, 7), "where it has bytes, there is a number"),
    "bytes for a switch": (SOUND + field(3, field(3, b"x")), "where it has a number, there are bytes"),
    "no UTF-8": (SOUND + field(1, field(1, b"\xff")), "invalid start byte"),
    "no score": (SOUND + piece("b", float("nan")), "no finite score"),
    "a score of 8 bytes": (SOUND + field(1, field(1, b"b") + b"\x11" + bytes(8)), "requires a buffer of 4 bytes"),
    "rules cut off": (SOUND + field(3, field(2, struct.pack("<I", 4000) + bytes(8))), "4,000 bytes of 12"),
    "rules of odd size": (SOUND + field(3, field(2, struct.pack("<I", 7) + bytes(8))), "7 bytes of 12"),
    "bytes as pieces": (SOUND + piece("<0x0A>", 0, 6), "pieces that are bytes, which is not built here"),
    "pieces by hand": (SOUND + piece("b", 0, 4), "pieces that were set by hand, which is not built here"),
    "byte pairs": (SOUND + field(2, field(3, 2)), "of another type"),
    "bytes for the unknown": (SOUND + field(2, field(35, 1)), "writes unknown text as bytes"),
    "spaces after words": (SOUND + field(2, field(24, 1)), "marks spaces at the ends of words"),
    "spaces as they are": (SOUND + field(3, field(5, 0)), "leaves spaces as they are"),
    "rules for decoding": (SOUND + field(5, field(2, b"x")), "has rules for decoding"),
    "fields without end": (SOUND + field(6, 0) * (1 + (1 << 17)), "more than 131,072 fields"),
    "text without end": (SOUND + b"".join(piece(f"{n}" + "a" * 9000) for n in range(120)), "1,048,576 characters"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_unigram_model_is_refused(name: str, tmp_path: Path):
    raw, reason = MALFORMED[name]
    begin = time.process_time()
    with pytest.raises(FileError, match=rf"a\.spm must be a unigram model of SentencePiece, but is not: .*({reason})"):
        read(tmp_path, raw)
    assert time.process_time() - begin < 20.0  # a second, were each call's types not looked at
    assert Cutter(read(tmp_path, SOUND))(["aa b"]) == [["\u2581", "a", "a", "\u2581", "b"]]  # the control


def test_a_file_too_large_is_not_read(tmp_path: Path):
    with (tmp_path / "a.spm").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileError, match=r"must have at most 4,194,304 bytes, but has more"):
        read_model(tmp_path / "a.spm")


def cut_off(raw: bytes) -> Iterable[bytes]:
    return (raw[:length] for length in range(0, len(raw), 50))


def flipped(raw: bytes, count: int) -> Iterable[bytes]:
    dice = random.Random(4)
    for _ in range(count):
        changed = bytearray(raw)
        for _ in range(dice.choice((1, 1, 3))):
            changed[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        yield bytes(changed)


def outcomes(folder: Path, files: Iterable[bytes]) -> list[int]:
    """Returns how many of the files work, and how many are refused in a sentence; anything else is an error."""
    found = [0, 0]
    for raw in files:
        begin = time.process_time()
        try:
            model = read(folder, raw)
        except FileError:
            found[1] += 1
        else:
            Cutter(model)(["the cat e\u0301e\u0301 Ａ ﬁ 数据…"])
            found[0] += 1
        assert time.process_time() - begin < 1.0
    return found


def test_every_file_cut_off_or_changed_is_read_or_refused(small: bytes, tmp_path: Path):
    worked, refused = outcomes(tmp_path, cut_off(small))
    assert worked < 3, "what ends between two pieces is a model of fewer"
    assert refused > 30
    worked, refused = outcomes(tmp_path, flipped(small, 200))
    assert worked > 20
    assert refused > 20
    assert outcomes(tmp_path, [small]) == [1, 0]
    folder = marian_folder(tmp_path / "folder")
    (folder / "target.spm").write_bytes(small[:500])
    with pytest.raises(FileError, match=r"target\.spm must be a unigram model of SentencePiece"):
        Tokenizer.from_folder(folder)


def test_without_a_look_at_lengths_files_cut_off_are_taken_for_whole(
    small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    careful = sentencepiece._fields

    def careless(*given):
        with contextlib.suppress(ValueError):
            yield from careful(*given)

    monkeypatch.setattr(sentencepiece, "_fields", careless)
    worked, _ = outcomes(tmp_path, cut_off(small))
    assert worked > 20


# The table of ids


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("[]", "must give each token a number below"),
        ("{}", "must give each token a number below"),
        ('{"<unk>": "1"}', "must give each token a number below"),
        ('{"<unk>": true}', "must give each token a number below"),
        ('{"<unk>": -1}', "must give each token a number below"),
        ('{"<unk>": 4000000000}', "must give each token a number below"),
        ('{"<unk>": 1, "</s>": 1}', "gives a number twice"),
        ('{"</s>": 0, "a": 1}', "lacks <unk>"),
        ('{"<unk>": 0, "a": 1}', "must have an end-of-text token"),
        ('{"<unk>": 0, "<unk>": 1}', "given twice"),
    ],
)
def test_what_is_no_table_of_ids_is_refused(table: str, reason: str, tmp_path: Path):
    folder = marian_folder(tmp_path)
    Tokenizer.from_folder(folder)
    (folder / "vocab.json").write_text(table)
    with pytest.raises(FileError, match=reason):
        Tokenizer.from_folder(folder)


def test_a_file_that_lacks_is_named(tmp_path: Path):
    marian_folder(tmp_path, separate=True)
    for name in ("target_vocab.json", "target.spm"):
        (tmp_path / name).unlink()
        with pytest.raises(UsageError, match=rf"{name} does not exist"):
            Tokenizer.from_folder(tmp_path)
    (tmp_path / "source.spm").unlink()
    with pytest.raises(UsageError, match=r"tokenizer\.json does not exist"):
        Tokenizer.from_folder(tmp_path)
