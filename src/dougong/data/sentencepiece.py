"""SentencePiece models (`.spm`): the pieces they know, how text is written before it is cut, and how it is cut.

Kudo and Richardson 2018; the cut is the likeliest of a unigram model (Kudo 2018). Such a file is one message of
protocol buffers (`sentencepiece_model.proto`), of which the few fields that count are read here, in bounded steps. Does
not know ids: a file's own order is of no use to models whose table of ids is another (see `marian.py`).
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dougong.core import files
from dougong.core.errors import FileError

SPACE = "\u2581"
"""What stands for a space in pieces."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_UNIGRAM = 1
_NONE = " "  # the piece of unknown text, in the library's model: no text has it, as spaces are written as SPACE
_MOST_BYTES = 1 << 22  # of a file; those of Marian's models have a fourth of it at most
_MOST_PIECES = 1 << 17
_MOST_TEXT = 1 << 20  # characters of all pieces; each may take 500 bytes of memory
_MOST_FIELDS = 1 << 16  # of any other message
_LONGEST_RULE = 64  # characters; those of NFKC have 4
_SIZES = {1: 8, 5: 4}  # bytes of the values whose form says how many they are
Message = Mapping[int, int | memoryview]


@dataclass(frozen=True)
class Piece:
    """A piece of text: the logarithm of its probability, and its kind, such as `NORMAL`."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class PieceModel:
    """What a file says.

    Attributes:
        pieces: In the file's order.
        rules: What sequences of characters are written as.
        dummy_prefix: Whether a space is put before the text, so that its first word is like any other.
        trims: Whether spaces at both ends are dropped, and several in a row become one.
        fingerprint: A hash of the file.
    """

    pieces: Sequence[Piece]
    rules: Rules
    dummy_prefix: bool
    trims: bool
    fingerprint: str


def read_model(path: str | Path) -> PieceModel:
    """Returns a unigram model of SentencePiece.

    Raises:
        UsageError: The file does not exist.
        FileError: It is no such model, is too large, or asks for what is not built here.
    """
    raw = files.read_bytes(path, _MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise FileError(f"{path} must have at most {_MOST_BYTES:,} bytes, but has more. Refused.")
    try:
        return _model(raw)
    except (ValueError, struct.error) as error:
        raise FileError(
            f"{path} must be a unigram model of SentencePiece, but is not: {str(error)[:200]}. Take the original file."
        ) from error


class Rules:
    """What sequences of characters are written as, such as letters of full width: the longest that matches counts.

    They are a trie of bytes in an array ("double array", as of Darts-clone): a node's children are where its number
    says, each at the place that its byte flips to; what the sequence becomes, is in a text at the place that a leaf
    says. It is followed from character to character of a text, and never walked in whole: the usual one has 225,000
    sequences.
    """

    def __init__(self, compiled: bytes = b""):
        size = int.from_bytes(compiled[:4], "little")
        if compiled and (not size or size % 4 or size > len(compiled) - 4):
            raise ValueError(f"its rules would have {size:,} bytes of {len(compiled):,}")
        self._units, self._texts = compiled[4 : 4 + size], compiled[4 + size :]
        self._first: dict[str, tuple[int, str | None] | None] = {}
        self._root = _offset(self._unit(0))
        plain = "".join(self._plain())
        self._noted = re.compile(f"[^{re.escape(plain)}]" if plain else "(?s:.)")

    def __call__(self, text: str) -> str:
        """Returns the text as it is written."""
        place, found = 0, list[str]()
        while self._units and (noted := self._noted.search(text, place)):
            begin = max(place, noted.start() - 1)  # a plain letter may have an accent after it
            rule, end = self._longest(text, begin)
            found += (text[place:begin], text[begin] if rule is None else rule)
            place = end
        return "".join(found) + text[place:]

    def _longest(self, text: str, place: int) -> tuple[str | None, int]:
        """Returns what is written for the text at a place, and where it goes on; None: the character itself."""
        begun = self._first.get(text[place], ())
        if begun == ():
            begun = self._first[text[place]] = self._step(self._root, text[place])
        rule, end = None, place + 1
        for after in range(place + 1, min(place + _LONGEST_RULE, len(text)) + 1):
            if not begun:
                break
            node, written = begun
            if written is not None:
                rule, end = written, after
            begun = self._step(node, text[after]) if after < len(text) else None
        return rule, end

    def _step(self, node: int, character: str) -> tuple[int, str | None] | None:
        """Returns the node after a character, and what is written for what leads there; None if no rule goes on so."""
        unit = 0
        for byte in character.encode():
            place = node ^ byte
            unit = self._unit(place)
            if unit & 0x800000FF != byte:
                return None
            node = place ^ _offset(unit)
        return node, self._text(node) if unit & 0x100 else None

    def _unit(self, place: int) -> int:
        """Returns an entry of the array; 0, which is nobody's child, where it has ended."""
        return int.from_bytes(self._units[4 * place : 4 * place + 4], "little")

    def _text(self, node: int) -> str:
        start = self._unit(node) & 0x7FFFFFFF
        end = self._texts.find(b"\0", start)
        return self._texts[start : end if end >= 0 else None].decode("utf-8", "replace")

    def _plain(self) -> Iterator[str]:
        """Yields the characters that no rule is about alone, nor begins with, followed by another of ASCII."""
        units, letters = np.frombuffer(self._units, "<u4"), np.arange(1, 128)
        for character in map(chr, range(32, 127)):
            begun = self._step(self._root, character)
            places = letters[:0] if begun is None else begun[0] ^ letters
            here = places < len(units)
            follows = (units[places[here]] & 0x800000FF) == letters[: len(places)][here]
            if begun is None or (begun[1] is None and not follows.any()):
                yield character


class Writer:
    """Writes text as a model's pieces have it: by its rules, and with `SPACE` for spaces."""

    def __init__(self, model: PieceModel):
        self._model = model

    def __call__(self, text: str) -> str:
        """Returns the text as it is cut; what is nothing but spaces becomes nothing."""
        text = self._model.rules(text)
        if self._model.trims:
            text = re.sub("  +", " ", text).lstrip(" ").rstrip(f" {SPACE}")
        begin = SPACE if text and self._model.dummy_prefix else ""
        return begin + text.replace(" ", SPACE)


class Cutter:
    """Cuts texts into the likeliest pieces of a model."""

    def __init__(self, model: PieceModel):
        from tokenizers import Tokenizer as Backend
        from tokenizers import models

        known = [(piece.text, piece.score) for piece in model.pieces if piece.kind == NORMAL]
        unknown = (_NONE, max(score for _, score in known))  # its score is no matter, but for the lowest of all
        self._backend = Backend(models.Unigram([unknown, *known], 0, False))
        self._write = Writer(model)

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """Returns the pieces of each text; what none of the model's is like, is one piece for as long as it lasts.

        Several texts are cut on all cores, one on this thread alone.
        """
        written: Any = [self._write(text) for text in texts]
        if len(written) == 1:
            return [self._backend.encode(written[0], add_special_tokens=False).tokens]
        return [encoding.tokens for encoding in self._backend.encode_batch(written, add_special_tokens=False)]


def _model(raw: bytes) -> PieceModel:
    """Returns what a file says.

    Raises:
        ValueError: It is none, or asks for what is not built here.
    """
    pieces, parts = list[Piece](), {2: dict[int, Any](), 3: dict[int, Any](), 5: dict[int, Any]()}
    for number, value in _fields(memoryview(raw), _MOST_PIECES):
        if number == 1:
            pieces.append(_piece(dict(_fields(_bytes(value)))))
        elif number in parts:
            parts[number].update(_fields(_bytes(value)))
    trainer, normalizer, denormalizer = parts.values()
    if _flag(trainer, 3, _UNIGRAM) != _UNIGRAM:
        raise ValueError("it is of another type")
    _refuse(_flag(trainer, 24, 0), "marks spaces at the ends of words")
    _refuse(_flag(trainer, 35, 0), "writes unknown text as bytes")
    _refuse(not _flag(normalizer, 5, 1), "leaves spaces as they are")
    _refuse(len(_inner(denormalizer, 2)), "has rules for decoding")
    for kind, name in ((USER_DEFINED, "that were set by hand"), (BYTE, "that are bytes")):
        _refuse(any(piece.kind == kind for piece in pieces), f"has pieces {name}")
    texts = [piece.text for piece in pieces]
    if not any(piece.kind == NORMAL for piece in pieces) or len({*texts}) < len(texts) or not all(texts):
        raise ValueError("its pieces are none, or not different")
    if sum(map(len, texts)) > _MOST_TEXT:
        raise ValueError(f"its pieces have more than {_MOST_TEXT:,} characters")
    rules = Rules(bytes(_inner(normalizer, 2)))
    trims = bool(_flag(normalizer, 4, 1))
    return PieceModel(pieces, rules, bool(_flag(normalizer, 3, 1)), trims, hashlib.sha256(raw).hexdigest())


def _refuse(found: Any, what: str) -> None:
    if found:
        raise ValueError(f"it {what}, which is not built here")


def _piece(message: Message) -> Piece:
    raw = _inner(message, 2)
    score = struct.unpack("<f", raw)[0] if len(raw) else 0.0
    if not math.isfinite(score):
        raise ValueError("a piece has no finite score")
    return Piece(str(_inner(message, 1), "utf-8"), score, _flag(message, 3, NORMAL))


def _flag(message: Message, number: int, default: int) -> int:
    value = message.get(number, default)
    if not isinstance(value, int):
        raise ValueError("where it has a number, there are bytes")
    return value


def _inner(message: Message, number: int) -> memoryview:
    return _bytes(message.get(number, memoryview(b"")))


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("where it has bytes, there is a number")
    return value


def _fields(raw: memoryview, most: int = _MOST_FIELDS) -> Iterator[tuple[int, int | memoryview]]:
    """Yields number and value of the fields of a message: whole numbers, or bytes."""
    place, end = 0, len(raw)
    for _ in range(most):
        if place == end:
            return
        key, place = _varint(raw, place)
        number, form = key >> 3, key & 7
        size = _SIZES.get(form, 0)
        if form in (0, 2):
            size, place = _varint(raw, place)
        if form not in (0, 1, 2, 5) or not number:
            raise ValueError(f"at byte {place:,} it has a field of no known form")
        if form == 0:
            yield number, size
            continue
        if size > end - place:
            raise ValueError(f"at byte {place:,} a field would have {size:,} bytes of the {end - place:,} left")
        yield number, raw[place : place + size]
        place += size
    if place < end:
        raise ValueError(f"it has more than {most:,} fields")


def _varint(raw: memoryview, place: int) -> tuple[int, int]:
    """Returns a whole number of up to ten bytes of seven bits each, the lowest first, and where it ends."""
    value = 0
    for shift, byte in zip(range(0, 70, 7), raw[place : place + 10], strict=False):
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + shift // 7 + 1
    raise ValueError(f"at byte {place:,} a number has no end")


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 0x200) >> 6)
