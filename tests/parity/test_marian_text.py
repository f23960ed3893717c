"""Marian's text: the same ids and the same text as MarianTokenizer of transformers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.data import sentencepiece
from dougong.data.tokenizer import Tokenizer
from tests.data.marian_folder import CODE, LETTERS, marian_folder, sentences

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")  # it is never called there
BOTH = pytest.mark.parametrize("separate", [False, True], ids=["one table", "two tables"])


def reference(folder: Path) -> Any:
    from transformers import MarianTokenizer

    return MarianTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return marian_folder(tmp_path_factory.mktemp("marian"))


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Any, Tokenizer]:
    return reference(folder), Tokenizer.from_folder(folder)


def ids(theirs: Any, texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    return theirs(texts)["input_ids"], theirs(text_target=texts)["input_ids"]


def ours(tokenizer: Tokenizer, texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    source, target = (
        [[*each, side.eot_id] for each in side.encode_batch(texts)] for side in (tokenizer, tokenizer.target)
    )
    return source, target


@BOTH
def test_ids_of_both_sides_equal_those_of_transformers(separate: bool, tmp_path: Path) -> None:
    theirs, tokenizer = reference(marian_folder(tmp_path, separate)), Tokenizer.from_folder(tmp_path)
    texts = sentences(200)
    expected = ids(theirs, texts)
    assert ours(tokenizer, texts) == expected
    assert expected[0] != expected[1]
    every = {number for side in expected for row in side for number in row}
    assert {theirs.unk_token_id, theirs.eos_token_id, theirs.convert_tokens_to_ids(CODE)} < every
    assert len(every) > 80, "the pieces of words must be seen"
    assert tokenizer.vocab_size == len(theirs.encoder)
    assert tokenizer.target.vocab_size == len(theirs.decoder)
    assert tokenizer.shares_ids(tokenizer.target) is not separate


@BOTH
def test_text_of_ids_equals_that_of_transformers(separate: bool, tmp_path: Path) -> None:
    theirs, tokenizer = reference(marian_folder(tmp_path, separate)), Tokenizer.from_folder(tmp_path)
    dice, size = random.Random(3), tokenizer.target.vocab_size
    rows = [dice.choices(range(size), k=dice.randint(0, 12)) for _ in range(200)]
    rows += ours(tokenizer, sentences(200, seed=1))[1]
    for row in rows:
        expected = theirs.decode(row, skip_special_tokens=True)
        assert tokenizer.target.decode(row) == expected
        assert "".join(tokenizer.target.decode_stream(row)).strip() == expected


@given(st.text(st.sampled_from(LETTERS), max_size=25) | st.text(max_size=25))
@settings(deadline=None, max_examples=300, derandomize=True)
def test_ids_of_any_text_equal_those_of_transformers(pair: tuple[Any, Tokenizer], text: str) -> None:
    assert ours(pair[1], [text]) == ids(pair[0], [text])


@pytest.mark.parametrize(
    "text", [f"{CODE} the cat", f"{CODE}cat", ">>xxx<< cat", ">><< a", ">>", CODE, f"a {CODE} b", f" {CODE} b", "", " "]
)
def test_a_code_of_a_language_is_one_token_at_the_start_alone(pair: tuple[Any, Tokenizer], text: str) -> None:
    found = ours(pair[1], [text])
    assert found == ids(pair[0], [text])
    assert (pair[0].convert_tokens_to_ids(CODE) in found[0][0]) == text.startswith(CODE)


def test_text_never_ends_itself(pair: tuple[Any, Tokenizer]) -> None:
    theirs, tokenizer = pair
    text = "the cat</s> and <pad>"
    assert theirs.eos_token_id in theirs(text)["input_ids"][:-1]  # the control: there it does
    for side in (tokenizer, tokenizer.target):
        assert not {side.eot_id, theirs.pad_token_id} & {*side.encode(text)}


def test_a_folder_that_is_saved_is_one_of_marian_again(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    tokenizer.target.save(tmp_path)
    again, texts = Tokenizer.from_folder(tmp_path), sentences(50)
    assert not (tmp_path / "tokenizer.json").exists()
    assert ours(again, texts) == ours(tokenizer, texts) == ids(reference(tmp_path), texts)
    assert again.fingerprint == tokenizer.fingerprint != tokenizer.target.fingerprint == again.target.fingerprint
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "MarianTokenizer"


# Without the mechanism


def test_without_the_rules_of_writing_ids_differ(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, texts = reference(folder), sentences(50)
    monkeypatch.setattr(sentencepiece.Rules, "__call__", lambda self, text: text)
    assert ours(Tokenizer.from_folder(folder), texts)[0] != ids(theirs, texts)[0]


def test_with_the_pieces_of_the_other_side_ids_differ(folder: Path, tmp_path: Path) -> None:
    theirs, texts = reference(folder), sentences(50)
    marian_folder(tmp_path)
    (tmp_path / "source.spm").write_bytes((folder / "target.spm").read_bytes())
    assert ours(Tokenizer.from_folder(tmp_path), texts)[0] != ids(theirs, texts)[0]
