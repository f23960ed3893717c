from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models

from dougong.core.errors import UsageError
from dougong.data.examples import TokenRow
from dougong.data.fim import Infilling, Rearranged
from dougong.data.tokenizer import EOT, Tokenizer
from dougong.data.vocabulary import FIM, BpeConfig, BytesConfig

LEARNED_FROM = ["def area(width, height):\n    return width * height\n" * 20, "naïve 斗拱 😀 " * 20]
TOKENIZER = BpeConfig(vocab_size=300, special=FIM).build(lambda: LEARNED_FROM, list)
EOT_ID, PREFIX, SUFFIX, MIDDLE = TOKENIZER.eot_id, *(TOKENIZER.id_of(token) for token in FIM)
TEXTS = st.text(st.sampled_from("ab de(\n:é斗😀\N{REPLACEMENT CHARACTER}"), min_size=1, max_size=40)


def row_of(texts: list[str], begins: bool = True, first: int = 7) -> TokenRow:
    """A row of whole documents; if it does not begin with one, it lacks the token that opens it."""
    pieces = [[EOT_ID, *TOKENIZER.encode(text)] for text in texts]
    pieces[0] = pieces[0] if begins else pieces[0][1:]
    return row_of_pieces(pieces, first)


def row_of_pieces(pieces: list[list[int]], first: int = 7) -> TokenRow:
    numbers = [first + number for number, piece in enumerate(pieces) for _ in piece]
    return TokenRow(
        np.concatenate([np.array(piece, dtype=np.int64) for piece in pieces]), np.array(numbers, dtype=np.int64), True
    )


def raw(tokens: list[int]) -> bytes:
    return b"".join(TOKENIZER._token_text[token] for token in tokens)


def by_document(row: TokenRow) -> dict[int, list[int]]:
    return {int(number): row.tokens[row.documents == number].tolist() for number in np.unique(row.documents)}


def read_back(tokens: list[int]) -> bytes:
    """The text of a document, rearranged or not."""
    if PREFIX not in tokens:
        return raw(tokens)
    begin, end, middle = (tokens.index(token) for token in (PREFIX, SUFFIX, MIDDLE))
    assert tokens[0] == EOT_ID
    assert begin == 1
    assert begin < end < middle
    if end == begin + 1:  # suffix first, or no prefix
        return raw(tokens[middle + 1 :]) + raw(tokens[end + 1 : middle])
    return raw(tokens[begin + 1 : end]) + raw(tokens[middle + 1 :]) + raw(tokens[end + 1 : middle])


def broken(row: TokenRow, new: TokenRow) -> list[str]:
    """What the rearranged row lacks or has too much of."""
    before, after = by_document(row), by_document(new)
    faults = [] if len(new.tokens) == len(row.tokens) == len(new.documents) else ["length"]
    faults += [] if list(after) == list(before)[: len(after)] and (np.diff(new.documents) >= 0).all() else ["numbers"]
    *whole, last = after
    faults += [f"document {number}" for number in whole if read_back(after[number]) != raw(before[number])]
    if not raw(before[last]).startswith(read_back(after[last])):
        faults.append("last document")
    if PREFIX in after[last] and after[last][-1] != EOT_ID:
        faults.append("end")
    return faults


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.booleans(), st.sampled_from([0.0, 0.5, 0.99]), st.integers(0, 2**32))
@example(
    [":", "  :::::\N{REPLACEMENT CHARACTER}", ":"], False, 0.0, 1
)  # cut like this it takes fewer tokens than before
def test_every_character_is_there_once_and_both_orders_read_back(
    texts: list[str], begins: bool, spm_share: float, seed: int
) -> None:
    row = row_of(texts, begins)
    new = Rearranged(TOKENIZER, 1.0, spm_share)(row, np.random.default_rng(seed))
    assert broken(row, new) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 9), st.integers(0, 9))
def test_halves_of_characters_at_both_ends_stay_there(seed: int, cut: int, left: int) -> None:
    tokens = TOKENIZER.encode("斗拱 naïve 😀 and 中文字 go on 😀😀")
    row = row_of_pieces([tokens[cut : len(tokens) - left]])
    new = Rearranged(TOKENIZER, 1.0, 0.5)(row, np.random.default_rng(seed))
    assert broken(row, new) == []


def rows(count: int = 60) -> list[TokenRow]:
    words = ["area", "(width)", " return ", "é", "\n", "斗拱", "*"]
    rng = np.random.default_rng(5)
    return [row_of(["".join(rng.choice(words, 30)) for _ in range(1 + n % 3)], n % 2 == 0) for n in range(count)]


def test_what_reads_back_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    change = Rearranged(TOKENIZER, 1.0, 0.5)
    pairs = [(row, change(row, np.random.default_rng(number))) for number, row in enumerate(rows())]
    assert not any(broken(*pair) for pair in pairs)
    of_parts = Rearranged._laid
    monkeypatch.setattr(Rearranged, "_laid", lambda self, *parts: of_parts(self, *parts[2::-1], parts[3]))
    lost = [change(row, np.random.default_rng(number)) for number, (row, _) in enumerate(pairs)]
    assert sum(bool(broken(row, new)) for (row, _), new in zip(pairs, lost, strict=True)) > 50


def test_a_row_of_which_nothing_is_drawn_is_the_row() -> None:
    change = Rearranged(TOKENIZER, 0, 0.5)
    assert all(change(row, np.random.default_rng(number)) is row for number, row in enumerate(rows()))
    assert any(Rearranged(TOKENIZER, 0.5, 0.5)(row, np.random.default_rng(1)) is not row for row in rows())


def test_what_comes_is_a_function_of_row_and_generator() -> None:
    change, [row] = Rearranged(TOKENIZER, 1.0, 0.5), rows(1)
    one, again, other = (change(row, np.random.default_rng(seed)).tokens.tolist() for seed in (1, 1, 2))
    assert one == again != other


def test_as_many_are_rearranged_in_each_order_as_asked() -> None:
    change, row = Rearranged(TOKENIZER, 0.4, 0.25), row_of(["0123456789 1234", "more to be pushed out"])
    found = [by_document(change(row, np.random.default_rng(seed)))[7] for seed in range(600)]
    rearranged = [tokens for tokens in found if PREFIX in tokens]
    # Without a prefix the orders look alike: of the 16 places to cut at, the smaller draw is 0 in 31 of 256 cases.
    suffix_first = sum(tokens[2] == SUFFIX for tokens in rearranged) / len(rearranged)
    assert len(rearranged) / 600 == pytest.approx(0.4, abs=0.06)
    assert suffix_first == pytest.approx(0.25 + 0.75 * 31 / 256, abs=0.08)


def test_cuts_fall_everywhere_alike() -> None:
    change, row = Rearranged(TOKENIZER, 1.0, 0), row_of(["width*height", "next", "and one more to push out"])
    lengths = np.zeros(13)
    for seed in range(800):
        tokens = by_document(change(row, np.random.default_rng(seed)))[7]
        lengths[len(raw(tokens[: tokens.index(SUFFIX)]))] += 1
    least = np.array([2 * (13 - place) - 1 for place in range(13)]) / 169  # the smaller of two uniform draws
    assert np.abs(lengths / 800 - least).max() < 0.05


def test_a_middle_ends_with_the_end_of_text_in_any_room() -> None:
    change = Rearranged(TOKENIZER, 1.0, 0)
    for size in range(1, 40):
        row = row_of(["return width * height", "naïve 斗拱"])
        row = TokenRow(row.tokens[:size], row.documents[:size], True)
        new = change(row, np.random.default_rng(size))
        assert broken(row, new) == []
        tokens = [*new.tokens.tolist(), EOT_ID]
        for place in (place for place, token in enumerate(tokens) if token == MIDDLE):
            assert EOT_ID in tokens[place:]
    assert MIDDLE in tokens


def test_the_form_that_is_learned_is_the_form_that_is_asked() -> None:
    text, order, encode = "width * height", Infilling(TOKENIZER), TOKENIZER.encode
    row = row_of([text, "next", "more to be pushed out"])
    cuts = [(begin, end) for begin in range(len(text) + 1) for end in range(begin, len(text) + 1)]
    for share, asked in ((0, order.asked), (1, order.asked_suffix_first)):
        forms = [asked(encode(text[:begin]), encode(text[end:])) + encode(text[begin:end]) for begin, end in cuts]
        for seed in range(20):
            tokens = by_document(Rearranged(TOKENIZER, 1.0, share)(row, np.random.default_rng(seed)))[7]
            assert tokens in forms


def words_with(special: tuple[str, ...]) -> Tokenizer:
    backend = Backend(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.add_special_tokens([EOT, *special])
    return Tokenizer(backend)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BytesConfig().build(list, list), r"must have the special tokens .*, but lacks <\|fim_prefix\|>, "),
        (
            lambda: BpeConfig(vocab_size=300, special=FIM[:2]).build(lambda: ["a"], list),
            r"lacks <\|fim_middle\|>\. Take",
        ),
        (lambda: words_with(FIM), "must give back text as it was, but makes"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_tokenizer_that_cannot_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        Rearranged(make(), 0.5, 0.5)
    assert error.value.exit_code == 2
