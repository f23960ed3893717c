from __future__ import annotations

import numpy as np
import pytest

from dougong.data.tokenizer import Tokenizer
from dougong.data.vocabulary import BytesConfig, WordPieceConfig, WordsConfig
from dougong.data.words import NO_TAG, encoded, examples_of, stretches, tagged, word_spans

TEXT = ["Paris embraced the embracing of Rome .", "the rejected embrace"] * 3


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return WordPieceConfig(vocab_size=72).build(lambda: TEXT, lambda: TEXT)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Paris, in (old) France.", ["Paris", ",", "in", "(", "old", ")", "France", "."]),
        ("the U.N. said: don't!", ["the", "U.N.", "said", ":", "don't", "!"]),
        ("state-of-the-art \u201cA\u201d ...", ["state-of-the-art", "\u201c", "A", "\u201d", ".", ".", "."]),
        ("  $5 \n", ["$", "5"]),
        ("東京 Tokyoは", ["東", "京", "Tokyo", "は"]),
        ("", []),
        (" \t", []),
    ],
)
def test_words_of_a_text_are_as_in_files_of_tagged_words(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in word_spans(text)] == words


def test_each_word_is_encoded_alone_and_has_at_least_one_token(pieces: Tokenizer) -> None:
    [words] = encoded(pieces, [["Paris", "racing", "\u200b", "Rome"]])
    assert words[0] == pieces.encode("Paris")
    assert len(words[1]) > 1
    assert words[1] == pieces.encode("racing")
    assert pieces.encode("\u200b") == []
    assert words[2] == [pieces.id_of("[UNK]")]


def test_vocabularies_that_keep_spaces_see_where_words_end() -> None:
    bytes_ = BytesConfig().build(lambda: [], lambda: [])
    [words] = encoded(bytes_, [["ab", "c"]])
    assert words == [[97, 98], [32, 99]]
    plain = WordsConfig().build(lambda: ["ab c"], lambda: ["ab c"])
    assert encoded(plain, [["ab", "c"]]) == [[plain.encode("ab"), plain.encode("c")]]


def test_tags_stand_at_the_first_token_of_their_words_within_the_frame(pieces: Tokenizer) -> None:
    [words] = encoded(pieces, [["Paris", "racing", "Rome"]])
    example = tagged(pieces, words, [3, 1, 2], 7, 64, [(0, 5), (6, 12), (13, 17)])
    assert example.tokens.tolist() == [2, *words[0], *words[1], *words[2], 3]
    starts = [1, 1 + len(words[0]), 1 + len(words[0]) + len(words[1])]
    assert [(place, int(tag)) for place, tag in enumerate(example.tags) if tag != NO_TAG] == [
        *zip(starts, (3, 1, 2), strict=True)
    ]
    assert example.spans is not None
    assert example.spans[starts].tolist() == [[0, 5], [6, 12], [13, 17]]
    assert (np.delete(example.spans, starts, axis=0) == -1).all()
    assert example.number == 7


def test_long_sentences_are_cut_between_words_and_a_long_word_is_cut_off(pieces: Tokenizer) -> None:
    words = [[1], [1, 2], [3], [1, 2, 3, 4, 5], [9]]
    parts = stretches(words, 3)
    assert [words[part] for part in parts] == [words[0:2], words[2:3], words[3:4], words[4:5]]
    assert stretches(words, 100) == [slice(0, 5)]
    assert len(tagged(pieces, words[3:4], [0], 0, 5).tokens) == 5
    # The control: cut after so many tokens, words would lie in two parts.
    flat = [place for place, word in enumerate(words) for _ in word]
    assert flat[2] == flat[2 - 1] == 1
    assert flat[3 : 3 + 3] == [2, 3, 3]


def test_a_text_to_be_tagged_gives_examples_whose_words_are_all_marked(pieces: Tokenizer) -> None:
    text = "Paris rejected Rome, embracing the embrace."
    whole = examples_of(pieces, text, 64)
    assert len(whole) == 1
    several = examples_of(pieces, text, 8)
    assert len(several) > 1
    for examples in (whole, several):
        spans = [span for each in examples for span in each.spans[each.tags == 0].tolist()]
        assert [tuple(span) for span in spans] == word_spans(text)
    assert examples_of(pieces, " ", 64) == []
