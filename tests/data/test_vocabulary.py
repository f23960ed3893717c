from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dougong.core import log
from dougong.core.config import validate
from dougong.core.errors import FileError, RecipeError, UsageError
from dougong.data.tokenizer import EOT, Tokenizer
from dougong.data.vocabulary import BpeConfig, BytesConfig, CharsConfig, TokenizerFileConfig, WordPieceConfig

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
import sys
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from dougong.data.vocabulary import BpeConfig, WordPieceConfig
texts = [f"line {n} of some text {n * 7}, ties tie with ties {n % 7}" for n in range(5000)]
print(BpeConfig(vocab_size=700).build(lambda: texts, lambda: texts).fingerprint)
print(WordPieceConfig(vocab_size=300).build(lambda: texts, lambda: texts).fingerprint)
backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
backend.train_from_iterator(texts, trainer)
print(sorted(backend.get_vocab().items()), file=sys.stderr)
"""


def test_learning_does_not_depend_on_threads_or_hash_seeds() -> None:
    found, theirs = set(), set()
    for threads, seed in (("1", "1"), ("2", "2"), ("4", "3")):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", LEARN], env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout)
        theirs.add(done.stderr)
    assert len(found) == 1
    assert len(theirs) > 1  # the control: the library's own trainer of word pieces


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


def test_special_tokens_are_added_counted_and_never_read_from_text(tmp_path: Path) -> None:
    names = ("<|fim_prefix|>", "<|fim_suffix|>")
    texts = [*TEXT, *(f"x{name}y" for name in names * 200)]
    tokenizer = BpeConfig(vocab_size=300, special=names).build(lambda: texts, nothing)
    assert tokenizer.vocab_size == 300
    ids = [tokenizer.id_of(name) for name in names]
    assert None not in ids
    assert tokenizer.special_ids == {tokenizer.eot_id, *ids}
    assert not tokenizer.special_ids & set(tokenizer.encode(f"a{names[0]}b{EOT}"))
    assert tokenizer.decode(tokenizer.encode(f"a{names[0]}b")) == f"a{names[0]}b"
    tokenizer.save(tmp_path)
    assert Tokenizer.from_folder(tmp_path).special_ids == tokenizer.special_ids
    plain = BpeConfig(vocab_size=300).build(lambda: texts, nothing)
    assert plain.id_of(names[0]) is None


@pytest.mark.parametrize(
    ("special", "said"),
    [
        ([""], "special[0] must be like <|fim_prefix|>, but is ''"),
        (["<_>"], "special[0] must be like <|fim_prefix|>, but is '<_>'"),
        (["word"], "special[0] must be like <|fim_prefix|>, but is 'word'"),
        (["<a>", "<a>"], "special[1] must be a token of its own, but '<a>' is there"),
        ([EOT], "special[0] must be a token of its own"),
        (["<a>", "<b>"], "vocab_size must be at least 259, with the special tokens, but is 258"),
    ],
)
def test_special_tokens_that_are_no_names_are_refused(special: list[str], said: str) -> None:
    with pytest.raises(RecipeError) as error:
        validate(BpeConfig, {"vocab_size": 258, "special": special})
    assert any(complaint.startswith(said) for complaint in error.value.complaints)


WORDS = [f"the unbelievable walker walks, walking; number {number}, Über-naïve!" for number in range(100)]


def test_word_pieces_begin_with_the_special_tokens_and_cut_words() -> None:
    tokenizer = WordPieceConfig(vocab_size=120).build(lambda: WORDS, nothing)
    vocabulary = tokenizer.backend.get_vocab()
    assert sorted(vocabulary, key=vocabulary.__getitem__)[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (tokenizer.vocab_size, tokenizer.eot, tokenizer.eot_id) == (120, "[SEP]", 3)
    pieces = [tokenizer.backend.id_to_token(token) for token in tokenizer.encode("The WALKER uber")]
    assert pieces[0] == "the"
    assert "".join(pieces).replace("##", "") == "thewalkeruber"
    assert tokenizer.decode(tokenizer.encode("The walker, walking!")) == "the walker, walking!"
    assert tokenizer.encode("漢") == [1]


def test_capitals_and_accents_are_kept_if_asked() -> None:
    kept = WordPieceConfig(vocab_size=120, lowercase=False).build(lambda: WORDS, nothing)
    assert kept.decode(kept.encode("Über-naïve")) == "Über - naïve"
    dropped = WordPieceConfig(vocab_size=120).build(lambda: WORDS, nothing)
    assert dropped.decode(dropped.encode("Über-naïve")) == "uber - naive"


def test_word_pieces_are_those_that_the_library_learns_where_no_counts_tie() -> None:
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    words = ["unlike", "unlikely", "like", "likes", "under"]
    texts = [" ".join([word] * 3**place) for place, word in enumerate(words)] * 3
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=48, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    ours = WordPieceConfig(vocab_size=48).build(lambda: texts, nothing)
    assert {piece for piece in backend.get_vocab() if len(piece) > 3} & set(ours.backend.get_vocab())
    for word in words:
        assert backend.encode(word, add_special_tokens=False).tokens == [
            ours.backend.id_to_token(token) for token in ours.encode(word)
        ]


def test_rare_letters_leave_room_for_pieces() -> None:
    texts = ["walk walks walking", *(chr(0xAC00 + number) for number in range(100))] * 2
    tokenizer = WordPieceConfig(vocab_size=40).build(lambda: texts, nothing)
    assert len(tokenizer.encode("walking")) <= 3
    assert tokenizer.vocab_size == 40


def test_text_without_a_word_is_refused() -> None:
    with pytest.raises(FileError, match="must have words to make a vocabulary of, but has none"):
        WordPieceConfig().build(lambda: ["  ", "\0"], nothing)


@pytest.mark.parametrize("model_type", [None, "bert"])
def test_transformers_opens_word_pieces_with_their_frame(tmp_path: Path, model_type: str | None) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = WordPieceConfig(vocab_size=120).build(lambda: WORDS, nothing)
    tokenizer.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text('{"model_type": "bert", "vocab_size": 120}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for first, second in (("The walker.", None), ("the Walker", "walks")):
        encoded = theirs(first, second) if second else theirs(first)
        ids, segments = tokenizer.framed(tokenizer.encode(first), second and tokenizer.encode(second))
        assert encoded["input_ids"] == ids.tolist()
        assert encoded["token_type_ids"] == segments.tolist()
    names = (theirs.pad_token, theirs.unk_token, theirs.cls_token, theirs.sep_token, theirs.mask_token)
    assert names == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert Tokenizer.from_folder(tmp_path).fingerprint == tokenizer.fingerprint
    assert Tokenizer.from_folder(tmp_path).eot == "[SEP]"
