from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dougong.core import log
from dougong.core.config import validate
from dougong.core.errors import FileError, UsageError
from dougong.data.vocabulary import BpeConfig, BytesConfig, CharsConfig, TokenizerFileConfig

TEXT = [f"line {number} of some text, with words that repeat and {number * 7} numbers\n" for number in range(300)]


def nothing() -> list[str]:
    raise AssertionError("this tokenizer needs no text")


def test_id_of_a_byte_is_its_value() -> None:
    tokenizer = BytesConfig().build(nothing, nothing)
    text = "".join(map(chr, range(300))) + "中😀"
    assert tokenizer.encode(text) == list(text.encode())
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (257, 256)


def test_characters_follow_code_points_and_are_those_of_the_whole_text() -> None:
    tokenizer = CharsConfig().build(nothing, lambda: ["ba\n", "中a"])
    assert tokenizer.encode("\nab中") == [0, 1, 2, 3]
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (5, 4)
    with pytest.raises(FileError, match="must have characters to make a vocabulary of, but is empty"):
        CharsConfig().build(nothing, lambda: ["", ""])


def test_byte_pairs_are_learned_from_the_training_text_alone() -> None:
    tokenizer = BpeConfig(vocab_size=300).build(lambda: TEXT, nothing)
    assert tokenizer.vocab_size == 300
    assert len(tokenizer.encode(" repeat and")) <= 4
    assert len(BytesConfig().build(nothing, nothing).encode(" repeat and")) == 11


def test_byte_pairs_know_all_text() -> None:
    tokenizer = BpeConfig(vocab_size=300).build(lambda: TEXT, nothing)
    assert tokenizer.decode(tokenizer.encode("Ünseen 中 😀 \0")) == "Ünseen 中 😀 \0"


def test_text_that_yields_fewer_tokens_is_told() -> None:
    heard: list[str] = []
    with log.listening(heard.append):
        tokenizer = BpeConfig(vocab_size=5000).build(lambda: ["only this"], nothing)
    assert 257 <= tokenizer.vocab_size < 300
    assert heard == [
        "dougong: warning: the tokenizer should have 5,000 tokens, but the text yields only "
        f"{tokenizer.vocab_size}. Add text, or lower vocab_size."
    ]


def test_no_more_text_is_learned_from_than_asked() -> None:
    def endless():  # type: ignore[no-untyped-def]
        while True:
            yield from TEXT

    first = BpeConfig(vocab_size=300, learn_from=len("".join(TEXT))).build(endless, nothing)
    assert first.fingerprint == BpeConfig(vocab_size=300).build(lambda: TEXT, nothing).fingerprint
    assert BpeConfig(vocab_size=300, learn_from=70).build(endless, nothing).vocab_size < 300


LEARN = """
from dougong.data.vocabulary import BpeConfig
texts = [f"line {n} of some text {n * 7}, ties tie with ties {n % 7}" for n in range(5000)]
print(BpeConfig(vocab_size=700).build(lambda: texts, lambda: texts).fingerprint)
"""


def test_learning_does_not_depend_on_threads_or_hash_seeds() -> None:
    found = set()
    for threads, seed in (("1", "1"), ("2", "2"), ("4", "3")):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", LEARN], env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
    assert len(found) == 1


def test_tokenizer_that_exists_is_opened_from_its_file_or_folder(tmp_path: Path) -> None:
    made = BpeConfig(vocab_size=300).build(lambda: TEXT, nothing)
    made.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        config = validate(TokenizerFileConfig, {"name": "file", "path": str(path)})
        assert config.build(nothing, nothing).fingerprint == made.fingerprint
    with pytest.raises(UsageError, match="none.json does not exist"):
        TokenizerFileConfig(path=tmp_path / "none.json").build(nothing, nothing)
    with pytest.raises(FileError, match="but has none of: '<x>'"):
        TokenizerFileConfig(path=tmp_path, eot="<x>").build(nothing, nothing)
