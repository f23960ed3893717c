"""Texts in which an answer stands, cut into windows that a model reads together with the question.

Knows texts, questions and a tokenizer; does not know where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from dougong.core.errors import UsageError
from dougong.data.examples import QuestionWindow
from dougong.data.tokenizer import Tokenizer

OUTSIDE = -1
"""Stands in `QuestionWindow.spans` where a token is none of the text."""


@dataclass(frozen=True)
class Passage:
    """A text in tokens.

    Attributes:
        tokens: Their ids.
        spans: The characters that each stands for, from and to.
    """

    tokens: Int[np.ndarray, " length"]
    spans: Int[np.ndarray, "length 2"]

    def tokens_of(self, start: int, end: int) -> tuple[int, int] | None:
        """Returns the first and the last token of some characters; None where no token stands for any of them."""
        over = np.flatnonzero((self.spans[:, 0] < end) & (self.spans[:, 1] > start))
        return (int(over[0]), int(over[-1])) if len(over) else None


def passages(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Passage]:
    """Returns texts in tokens, with where each token stands; a token that stands for nothing is left out."""
    encodings = tokenizer.backend.encode_batch(list(texts), add_special_tokens=False)
    found = []
    for encoding in encodings:
        spans = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        kept = spans[:, 1] > spans[:, 0]
        found.append(Passage(np.array(encoding.ids, dtype=np.int32)[kept], spans[kept]))
    return found


def require_frame(tokenizer: Tokenizer, seq_len: int, longest: int) -> int:
    """Returns how many tokens of a text a window has room for, beside the longest question.

    Raises:
        UsageError: There is none, or the vocabulary has no frame for pairs of texts.
    """
    if tokenizer.id_of("[CLS]") is None or tokenizer.id_of("[SEP]") is None:
        raise UsageError(
            "data.tokenizer must have the tokens [CLS] and [SEP], between which question and text stand, but lacks "
            "them. Set it to wordpiece."
        )
    room = seq_len - tokenizer.frame_size(pair=True) - longest
    if room < 1:
        raise UsageError(
            f"data.seq_len must have room for a text beside a question of {longest} tokens, but is {seq_len}. Raise "
            "it, or lower data.max_question_len."
        )
    return room


def windows(length: int, room: int, stride: int) -> list[slice]:
    """Returns windows over so many tokens: each begins `stride` after the one before, and the last ends the text.

    Args:
        length: Of the text, in tokens.
        room: Of a window, in tokens.
        stride: How far windows are apart; where that is more than the room, they stand side by side.
    """
    step, found, start = min(stride, room), [], 0
    while start + room < length:
        found.append(slice(start, start + room))
        start += step
    return [*found, slice(start, length)]


def window(
    tokenizer: Tokenizer,
    question: Sequence[int] | Int[np.ndarray, " tokens"],
    passage: Passage,
    part: slice,
    answer: tuple[int, int] | None,
    number: int,
) -> QuestionWindow:
    """Returns a question with a part of a text.

    Args:
        tokenizer: Gives the frame.
        question: Its tokens.
        passage: The whole text.
        part: Which of its tokens are seen.
        answer: The first and the last token of the answer in the whole text; None: there is none. Where the part has
            not all of it, the example says that there is none.
        number: Which question it is.
    """
    inside = passage.tokens[part]
    tokens, segments = tokenizer.framed(question, inside)
    begin = len(tokens) - 1 - len(inside)
    spans = np.full((len(tokens), 2), OUTSIDE, dtype=np.int32)
    spans[begin : begin + len(inside)] = passage.spans[part]
    start = end = 0
    if answer is not None and part.start <= answer[0] and answer[1] < part.stop:
        start, end = (begin + place - part.start for place in answer)
    return QuestionWindow(tokens, segments, start, end, spans, number)


def windows_of(
    tokenizer: Tokenizer, question: str, text: str, seq_len: int, stride: int = 128, longest: int = 64
) -> list[QuestionWindow]:
    """Returns a question about a text to be answered: an example, or several if the text is long.

    Args:
        tokenizer: Must have a frame for pairs.
        question: The question.
        text: Where the answer stands.
        seq_len: The longest example, in tokens.
        stride: How far windows are apart, in tokens.
        longest: The longest question, in tokens; what it has beyond is cut off.

    Raises:
        UsageError: There is no room for the text, or the vocabulary has no frame.
    """
    ids = tokenizer.encode(question)[: min(longest, max(1, seq_len // 2))]
    room = require_frame(tokenizer, seq_len, len(ids))
    [passage] = passages(tokenizer, [text])
    return [window(tokenizer, ids, passage, part, None, 0) for part in windows(len(passage.tokens), room, stride)]
