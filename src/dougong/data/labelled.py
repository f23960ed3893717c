"""Texts with a class each as examples: framed as a model of whole texts reads them, cut or split where too long.

Knows a tokenizer; does not know files, or where the labels come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dougong.core.errors import FileError, UsageError
from dougong.core.log import say
from dougong.data.examples import LabelledText
from dougong.data.tokenizer import Tokenizer

UNKNOWN_CLASS = -1
Pieces = list[tuple[list[int], list[int] | None]]


@dataclass(frozen=True)
class Text:
    """A text, or two, with the number of its class.

    Attributes:
        where: Where it stands, to begin a sentence with.
        first: The text.
        second: Another that belongs to it, or None.
        label: The number of its class.
    """

    where: str
    first: str
    second: str | None
    label: int


@dataclass(frozen=True)
class Labelled:
    """Tokenized examples with random access; a `Dataset`.

    Attributes:
        examples: All of them.
        licence: Of the text.
        source: Where it comes from.
        long: How many texts were longer than is read.
    """

    examples: Sequence[LabelledText]
    licence: str
    source: str
    long: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> LabelledText:
        return self.examples[index]

    @property
    def fingerprint(self) -> str:
        """A hash of every token and label, and of which of two texts a token belongs to."""
        labels = [example.label for example in self.examples]
        whole = hashlib.sha256(np.array(labels, dtype=np.int32).tobytes())
        for example in self.examples:
            whole.update(len(example.tokens).to_bytes(4, "little") + example.tokens.tobytes())
            if example.segments is not None:
                whole.update(example.segments.tobytes())
        return whole.hexdigest()

    @property
    def longest(self) -> int:
        """The number of an example than which none is longer."""
        return max(range(len(self.examples)), key=lambda index: len(self.examples[index].tokens))


@dataclass(frozen=True)
class Framing:
    """How texts become examples.

    Attributes:
        tokenizer: Text to ids.
        seq_len: The longest example, in tokens, with those of the frame.
        too_long: What is done about a longer one: its end is cut off (of two texts, that of the longer), it is split
            into several examples of its class, or it is refused.
    """

    tokenizer: Tokenizer
    seq_len: int
    too_long: Literal["cut", "split", "refuse"] = "cut"

    def examples(self, texts: Sequence[Text], licence: str, source: str) -> Labelled:
        """Returns the examples of texts.

        Raises:
            FileError: A text is too long, where that is refused.
            UsageError: The frame leaves no room for text.
        """
        first = self.tokenizer.encode_batch([text.first for text in texts])
        second = self.tokenizer.encode_batch([text.second or "" for text in texts])
        made: list[LabelledText] = []
        long = 0
        for text, ids, others in zip(texts, first, second, strict=True):
            pieces = self._pieces(text, ids, None if text.second is None else others)
            long += len(ids) + len(others) > self._room(text.second is not None)
            made += (self._example(piece, other, text.label) for piece, other in pieces)
        return Labelled(made, licence, source, long)

    def tell(self, parts: Sequence[Labelled]) -> None:
        """Tells the person how many texts were too long, and what became of them."""
        long, texts = sum(part.long for part in parts), sum(map(len, parts))
        if long and self.too_long == "cut":
            say(f"{long:,} of {texts:,} examples are longer than {self.seq_len} tokens: cut off")
        elif long:
            say(f"{long:,} texts are longer than {self.seq_len} tokens: split, which makes {texts:,} examples of all")

    def _room(self, pair: bool) -> int:
        frame = self.tokenizer.frame_size(pair)
        if self.seq_len <= frame + pair:
            raise UsageError(
                f"the longest example must leave room for text beside the {frame} tokens around it, but has "
                f"{self.seq_len} tokens. Raise seq_len."
            )
        return self.seq_len - frame

    def _pieces(self, text: Text, first: list[int], second: list[int] | None) -> Pieces:
        room, length = self._room(second is not None), len(first) + len(second or ())
        if length <= room:
            return [(first, second)]
        if self.too_long == "refuse":
            raise FileError(
                f"{text.where}: a text must have at most {room} tokens, but has {length:,}. Shorten it, raise seq_len, "
                "or set too_long to cut."
            )
        if second is not None:
            kept = min(len(second), max(room // 2, room - len(first)))
            return [(first[: room - kept], second[:kept])]
        if self.too_long == "cut":
            return [(first[:room], None)]
        return [(first[start : start + room], None) for start in range(0, len(first), room)]

    def _example(self, first: list[int], second: list[int] | None, label: int) -> LabelledText:
        tokens, segments = self.tokenizer.framed(first, second)
        if not len(tokens):
            tokens = np.array([self.tokenizer.eot_id], dtype=np.int32)
        return LabelledText(tokens, label, None if second is None else segments)


def read(tokenizer: Tokenizer, seq_len: int, first: str, second: str | None = None) -> Labelled:
    """Returns the example of a text, or of two, whose class is unknown; the end of a long one is cut off."""
    return Framing(tokenizer, seq_len).examples([Text("", first, second, UNKNOWN_CLASS)], "", "")
