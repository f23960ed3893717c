"""Words and the tokens that they are cut into: a tag belongs to a word, and stands at the first of its tokens.

Knows words and a tokenizer; does not know where they come from, nor what the tags mean.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from dougong.data.examples import TaggedText
from dougong.data.tokenizer import Tokenizer
from dougong.data.vocabulary import UNKNOWN

NO_TAG = -1
"""Stands in `TaggedText.tags` where no tag counts."""
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_CHUNK = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
Words = Sequence[Sequence[int]]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Returns where each word of a text begins and ends, about as files of tagged words have them.

    Words stand between spaces; what punctuation is before or after one are words of their own, but for the full stop of
    `U.N.`; so is each character of Chinese and Japanese.
    """
    return [span for chunk in _CHUNK.finditer(text) for span in _peeled(text, *chunk.span())]


def _peeled(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yields the punctuation before a word, the word, and the punctuation after it."""
    first, last = start, end
    while first < last and _is_mark(text[first]):
        first += 1
    while last > first and _is_mark(text[last - 1]):
        last -= 1
    if last < end and text[last] == "." and "." in text[first:last]:
        last += 1
    yield from ((place, place + 1) for place in range(start, first))
    if first < last:
        yield first, last
    yield from ((place, place + 1) for place in range(last, end))


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def encoded(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """Returns the tokens of each word of each sentence, at least one.

    Each word is encoded alone, all but the first with the space before it: vocabularies of bytes, which keep spaces,
    would not see otherwise where words end. A word of which the vocabulary leaves nothing is an unknown one.
    """
    forms = [[f" {word}" if place else word for place, word in enumerate(words)] for words in sentences]
    each = list(dict.fromkeys(form for words in forms for form in words))
    found = dict(zip(each, tokenizer.encode_batch(each), strict=True))
    unknown = tokenizer.id_of(UNKNOWN)
    nothing = [tokenizer.eot_id if unknown is None else unknown]
    return [[found[form] or nothing for form in words] for words in forms]


def stretches(words: Words, room: int) -> list[slice]:
    """Returns the words in parts, one after the other, each as long as its tokens have room; at least one word each."""
    found, start, used = [], 0, 0
    for place, word in enumerate(words):
        if place > start and used + len(word) > room:
            found.append(slice(start, place))
            start, used = place, 0
        used += len(word)
    return [*found, slice(start, len(words))]


def tagged(
    tokenizer: Tokenizer,
    words: Words,
    tags: Sequence[int],
    number: int,
    seq_len: int,
    spans: Sequence[tuple[int, int]] | None = None,
) -> TaggedText:
    """Returns words with their tags as an example, in the frame of the vocabulary.

    Args:
        tokenizer: Gives the frame.
        words: The tokens of each, as `encoded` gives them; a single word that is too long is cut off.
        tags: The number of each one's tag.
        number: Which sentence it is.
        seq_len: The longest example, in tokens.
        spans: The characters that each stands for, from and to.
    """
    frame = tokenizer.frame_size(pair=False)
    ids = [token for word in words for token in word][: max(1, seq_len - frame)]
    tokens, _ = tokenizer.framed(ids)
    starts = np.cumsum([1 if frame else 0, *(len(word) for word in words[:-1])])
    marked = np.full(len(tokens), NO_TAG, dtype=np.int32)
    marked[starts] = tags
    where = None
    if spans is not None:
        where = np.full((len(tokens), 2), -1, dtype=np.int32)
        where[starts] = spans
    return TaggedText(tokens, marked, number, where)


def examples_of(tokenizer: Tokenizer, text: str, seq_len: int, number: int = 0) -> list[TaggedText]:
    """Returns a text to be tagged: an example, or several if it is long; its words bear tag 0, as none is known.

    Args:
        tokenizer: Cuts words into tokens.
        text: The text; one without a word gives no example.
        seq_len: The longest example, in tokens.
        number: Which text it is.
    """
    spans = word_spans(text)
    [words] = encoded(tokenizer, [[text[start:end] for start, end in spans]])
    room = seq_len - tokenizer.frame_size(pair=False)
    return [
        tagged(tokenizer, words[part], [0] * len(words[part]), number, seq_len, spans[part])
        for part in (stretches(words, room) if words else ())
    ]
