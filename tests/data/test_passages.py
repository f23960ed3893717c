from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.core.errors import UsageError
from dougong.data.passages import Passage, passages, require_frame, window, windows, windows_of
from dougong.data.tokenizer import Tokenizer
from dougong.data.vocabulary import BytesConfig, WordPieceConfig

TEXT = "Édith Piaf, born in Paris (1915), sang “La Vie en rose”."


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return WordPieceConfig(vocab_size=60).build(lambda: [TEXT] * 2, lambda: [TEXT])


def test_each_token_knows_its_characters(pieces: Tokenizer) -> None:
    [found] = passages(pieces, [TEXT])
    assert found.tokens.tolist() == pieces.encode(TEXT)
    start = TEXT.index("Paris")
    first, last = found.tokens_of(start, start + 5)
    assert TEXT[found.spans[first, 0] : found.spans[last, 1]] == "Paris"
    assert found.tokens_of(len(TEXT), len(TEXT) + 3) is None
    # Every character but spaces is some token's.
    covered = {place for a, b in found.spans.tolist() for place in range(a, b)}
    assert covered == {place for place, letter in enumerate(TEXT) if letter != " "}


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 30))
def test_windows_skip_nothing_and_all_but_the_last_are_full(length: int, room: int, stride: int) -> None:
    found = windows(length, room, stride)
    assert sorted({place for part in found for place in range(part.start, part.stop)}) == list(range(length))
    assert all(part.stop - part.start == room for part in found[:-1])
    assert found[-1].stop - found[-1].start <= room
    assert {b.start - a.start for a, b in pairwise(found)} <= {min(stride, room)}
    assert found[-1].stop == length


def test_a_window_has_question_and_text_in_the_frame_with_the_answers_place(pieces: Tokenizer) -> None:
    [passage] = passages(pieces, [TEXT])
    asked = pieces.encode("born in")
    start = TEXT.index("Paris")
    answer = passage.tokens_of(start, start + 5)
    part = slice(answer[0] - 2, answer[1] + 3)
    found = window(pieces, asked, passage, part, answer, 4)
    inside = passage.tokens[part].tolist()
    assert found.tokens.tolist() == [2, *asked, 3, *inside, 3]
    assert found.segments.tolist() == [0] * (len(asked) + 2) + [1] * (len(inside) + 1)
    assert TEXT[found.spans[found.start, 0] : found.spans[found.end, 1]] == "Paris"
    outside = [*range(len(asked) + 2), len(found.tokens) - 1]
    assert (found.spans[outside] == -1).all()
    assert found.question == 4


def test_a_window_without_all_of_the_answer_says_that_there_is_none(pieces: Tokenizer) -> None:
    [passage] = passages(pieces, [TEXT])
    start = TEXT.index("Piaf, born in Paris")
    answer = passage.tokens_of(start, start + 19)
    places = [
        window(pieces, [7], passage, part, answer, 0)
        for part in (slice(0, answer[1]), slice(answer[0] + 1, answer[1] + 1), slice(answer[0], answer[1] + 1))
    ]
    assert [(each.start, each.end) for each in places[:2]] == [(0, 0), (0, 0)]
    assert places[2].end - places[2].start == answer[1] - answer[0] > 0
    assert places[2].start > 0


def test_a_question_to_be_answered_gives_windows_over_all_of_the_text(pieces: Tokenizer) -> None:
    asked = pieces.encode("born in")
    whole = windows_of(pieces, "born in", TEXT, 200)
    several = windows_of(pieces, "born in", TEXT, len(asked) + 3 + 6, stride=4)
    assert len(whole) == 1
    assert len(several) > 3
    assert all(len(each.tokens) <= len(asked) + 9 for each in several)
    [passage] = passages(pieces, [TEXT])
    covered = {tuple(span) for each in several for span in each.spans.tolist() if span[0] >= 0}
    assert covered == {tuple(span) for span in passage.spans.tolist()}


def test_what_has_no_frame_or_no_room_is_refused(pieces: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"data.tokenizer must have the tokens \[CLS\] and \[SEP\]"):
        require_frame(BytesConfig().build(lambda: [], lambda: []), 64, 8)
    with pytest.raises(UsageError, match="must have room for a text beside a question of 8 tokens, but is 11"):
        require_frame(pieces, 11, 8)
    assert require_frame(pieces, 12, 8) == 1
    assert isinstance(passages(pieces, [""])[0], Passage)
