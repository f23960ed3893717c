from __future__ import annotations

import itertools

import pytest

from dougong.data.tokenizer import Tokenizer
from dougong.infer.text import TextPieces, whole_text


def pieces_of(tokenizer: Tokenizer, data: bytes, *stop: str) -> tuple[list[str], bool]:
    text = TextPieces(tokenizer.stream(), stop)
    pieces = [text.push(token) for token in tokens_of(tokenizer, data)]
    return [*pieces, text.end()], text.stopped


def tokens_of(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """The tokens of bytes, which need not be text: byte for byte what `encode` gives for text."""
    one = {byte: next(t for t, text in enumerate(tokenizer._token_text) if text == bytes([byte])) for byte in set(data)}
    return [one[byte] for byte in data]


def test_pieces_together_are_the_text_and_never_half_a_character(tokenizer: Tokenizer) -> None:
    text = "naïve 斗拱 😀!"
    pieces, stopped = pieces_of(tokenizer, text.encode())
    assert "".join(pieces) == text
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert not stopped


def test_bytes_that_are_no_text_give_what_the_tokenizer_gives(tokenizer: Tokenizer) -> None:
    data = b"a\xff\xe6\x96b\xf0\x9f\x98"
    pieces, _ = pieces_of(tokenizer, data)
    assert "".join(pieces) == data.decode(errors="replace")


def test_stop_string_over_several_tokens_is_never_shown_in_part(tokenizer: Tokenizer) -> None:
    pieces, stopped = pieces_of(tokenizer, b"one ENDtwo", "END")
    assert pieces == ["o", "n", "e", " ", "", "", "", "", "", "", ""]
    assert stopped
    assert pieces_of(tokenizer, b"one ENDtwo")[0][4:7] == ["E", "N", "D"]  # control: without it they are shown


def test_what_only_began_like_a_stop_string_is_shown_late_but_shown(tokenizer: Tokenizer) -> None:
    pieces, stopped = pieces_of(tokenizer, b"ENENX EN", "END")
    assert pieces == ["", "", "EN", "", "ENX", " ", "", "", "EN"]
    assert not stopped


def test_the_stop_string_that_comes_first_ends_the_text(tokenizer: Tokenizer) -> None:
    pieces, stopped = pieces_of(tokenizer, "ab斗cd".encode(), "cd", "斗")
    assert "".join(pieces) == "ab"
    assert stopped


@pytest.mark.parametrize("stop", [("aab",), ("aa", "ab"), ("b", "aabb"), ("abab", "bb")])
def test_streamed_text_equals_the_whole_cut_at_the_first_stop(tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
    for letters in itertools.product("ab", repeat=6):
        text = "".join(letters)
        # The text is known letter by letter: the stop string that is complete first counts, at its first place.
        ends = [n for n in range(len(text) + 1) if any(s in text[:n] for s in stop)]
        known = text[: ends[0]] if ends else text
        expected = known[: min(known.find(s) for s in stop if s in known)] if ends else text
        pieces, stopped = pieces_of(tokenizer, text.encode(), *stop)
        assert ("".join(pieces), stopped) == (expected, bool(ends))
        shown = list(itertools.accumulate(pieces))
        assert all(expected.startswith(part) for part in shown)


def test_whole_text_is_that_of_the_pieces(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("say no more")
    assert whole_text(TextPieces(tokenizer.stream(), ["no"]), tokens) == "say "
