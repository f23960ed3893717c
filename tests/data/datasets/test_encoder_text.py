from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong.core import log
from dougong.core.config import try_validate, validate
from dougong.core.errors import FileError, UsageError
from dougong.data import loader
from dougong.data.datasets.encoder_text import EncoderTextConfig
from dougong.data.datasets.encoder_text.prepared import SHORTEST, EncoderTextData
from dougong.data.examples import EncoderText
from dougong.data.tokenizer import Tokenizer
from dougong.models.bert import BertConfig
from dougong.tasks.masked_lm import MaskedLMConfig

SIZE = 20
TEXTS = [f"{chr(97 + number % 26)}{number} " * (3 + 7 * number % 40) for number in range(60)]
NAMES = {text.split()[0] for text in TEXTS}
PIECES = {"name": "wordpiece", "vocab_size": 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, texts in (("first", TEXTS), ("second", [text.upper() for text in TEXTS[:30]])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return tmp_path


def config(folder: Path, *names: str, weights: tuple[float, ...] = (), **options: Any) -> EncoderTextConfig:
    sources: list[dict[str, Any]] = [{"name": "files", "paths": [str(folder / f"{name}.jsonl")]} for name in names]
    for source, weight in zip(sources, weights, strict=False):
        source["weight"] = weight
    values = {"sources": sources, "tokenizer": {"name": "bytes"}, "validation": {"fraction": 0.2}, "seq_len": SIZE}
    return validate(EncoderTextConfig, {**values, **options})


def prepared(folder: Path, *names: str, context: int | None = None, **options: Any) -> EncoderTextData:
    with log.listening(lambda line: None):
        return config(folder, *(names or ("first",)), **options).prepare(folder / "cache", context)


def text_of(data: EncoderTextData, example: EncoderText) -> str:
    return data.tokenizer.decode(example.tokens)


def test_pieces_hold_all_text_but_what_is_too_short(folder: Path) -> None:
    data = prepared(folder)
    train, validation = (
        [text_of(data, part[number]) for number in range(len(part))] for part in (data.train[0][0], data.validation)
    )
    expected = {text[start : start + SIZE] for text in TEXTS for start in range(0, len(text), SIZE)}
    assert {*train, *validation} == {piece for piece in expected if len(piece) >= SHORTEST}
    assert not {*train} & {*validation}
    [counts] = data.counts
    assert counts["train"]["pieces"] == len(train)
    assert counts["validation"]["pieces"] == len(validation)
    left_out = sum(counts[part]["tokens_left_out"] for part in ("train", "validation"))
    assert left_out == sum(len(text) % SIZE for text in TEXTS if len(text) % SIZE < SHORTEST) > 0
    assert sum(map(len, train + validation)) + left_out == sum(map(len, TEXTS))
    assert data.determines == {"vocab_size": 257}


def test_word_pieces_are_framed_and_no_longer_than_asked(folder: Path) -> None:
    for pairs in (False, True):
        data = prepared(folder, tokenizer=PIECES, pairs=pairs)
        cls, sep = data.tokenizer.id_of("[CLS]"), data.tokenizer.id_of("[SEP]")
        lengths = []
        for number in range(len(data.validation)):
            example = data.validation[number]
            ends = np.flatnonzero(example.tokens == sep)
            assert example.tokens[0] == cls
            assert ends[-1] == len(example.tokens) - 1
            assert len(ends) == 1 + pairs
            assert example.segments.tolist() == [0] * (ends[0] + 1) + [1] * (len(example.tokens) - ends[0] - 1)
            lengths.append(data.length(example))
        assert max(lengths) == SIZE
        assert min(lengths) < SIZE


def halves(data: EncoderTextData, example: EncoderText) -> tuple[str, str]:
    cut = int(np.flatnonzero(example.segments)[0])
    return data.tokenizer.decode(example.tokens[:cut]), data.tokenizer.decode(example.tokens[cut:])


def test_of_pairs_half_follow_and_the_others_come_from_another_document(folder: Path) -> None:
    data = prepared(folder, pairs=True)
    examples = loader.augmented(loader.order(data.train, 0), data.augment, 0)
    found = [examples[number] for number in range(500)]
    whole = {text[start : start + SIZE - 1] for text in TEXTS for start in range(0, len(text), SIZE - 1)}
    following = [example for example in found if example.follows]
    assert 0.4 < len(following) / len(found) < 0.6
    assert all("".join(halves(data, example)) in whole for example in following)
    lengths = set()
    for example in found:
        first, second = halves(data, example)
        names = [{word for word in half.split() if word in NAMES} for half in (first, second)]
        lengths.add(len(first))
        if not example.follows and all(names):
            assert not names[0] & names[1]
    assert len(lengths) > 5


def test_what_comes_from_elsewhere_is_the_end_of_a_piece(folder: Path) -> None:
    data = prepared(folder, pairs=True)
    ends = {text[start : start + SIZE - 1] for text in TEXTS for start in range(0, len(text), SIZE - 1)}
    examples = loader.augmented(loader.order(data.train, 0), data.augment, 0)
    for number in range(80):
        example = examples[number]
        assert any(end.endswith(halves(data, example)[1]) for end in ends)


def test_pairs_are_drawn_anew_in_training_and_once_for_all_in_validation(folder: Path) -> None:
    data, again = prepared(folder, pairs=True), prepared(folder, pairs=True)
    for number in (0, 7, 3):
        one, two = data.validation[number], again.validation[number]
        assert np.array_equal(one.tokens, two.tokens)
        assert one.follows == two.follows
    piece = data.train[0][0][0]
    drawn = {bytes(data.augment(piece, np.random.default_rng(seed)).tokens) for seed in range(20)}
    assert len(drawn) > 10
    same = {bytes(data.augment(piece, np.random.default_rng(3)).tokens) for _ in range(3)}
    assert len(same) == 1
    assert prepared(folder).augment is None


def test_batches_are_functions_of_their_number(folder: Path) -> None:
    data = prepared(folder, tokenizer=PIECES, pairs=True)
    model = BertConfig(head="pretraining", vocab_size=data.tokenizer.vocab_size, max_seq_len=SIZE)
    collate = MaskedLMConfig().build(model, data).collate

    def batches(seed: int) -> loader.Batches:
        examples = loader.augmented(loader.order(data.train, seed), data.augment, seed)
        return loader.Batches(examples, collate, loader.BatchSizes.constant(4))

    forward = [batches(1)[step] for step in range(6)]
    reader = batches(1)
    for step in reversed(range(6)):
        assert all((forward[step][name] == reader[step][name]).all() for name in forward[step].fields)
    assert not np.array_equal(forward[0]["tokens"], batches(2)[0]["tokens"])


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": PIECES},
        {"validation": {"fraction": 0.3}},
        {"seq_len": SIZE - 1},
        {"pairs": True},
        {"weights": (1.0, 2.0)},
    ],
)
def test_every_option_changes_the_fingerprint(folder: Path, change: dict[str, Any]) -> None:
    plain = prepared(folder, "first", "second")
    assert prepared(folder, "first", "second", **change).fingerprint != plain.fingerprint
    assert prepared(folder, "first", "second").fingerprint == plain.fingerprint


def test_examples_of_several_sources_stand_one_after_the_other(folder: Path) -> None:
    data = prepared(folder, "first", "second")
    texts = [text_of(data, data.validation[number]) for number in range(len(data.validation))]
    kinds = [text.upper() == text for text in texts]
    assert kinds == sorted(kinds)
    assert True in kinds
    assert len(data.train) == 2
    with pytest.raises(IndexError):
        data.validation[len(data.validation)]
    with pytest.raises(IndexError):
        data.train[0][0][-1]


def test_text_that_gives_no_example_is_one_sentence(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"must hold 8 tokens and 3 around them, .* is 10. Raise it to 11 or more\."):
        prepared(folder, tokenizer=PIECES, pairs=True, seq_len=10)
    assert prepared(folder, tokenizer=PIECES, pairs=True, seq_len=11).seq_len == 11
    (folder / "short.jsonl").write_text("\n".join(json.dumps({"text": f"no {number}"}) for number in range(40)))
    with pytest.raises(FileError, match="training text of .* must have 1 or more documents of 8 tokens, but has 0"):
        prepared(folder, "short")
    (folder / "one.jsonl").write_text(json.dumps({"text": TEXTS[3] * 9}))
    by = {"by": "position", "fraction": 0.2}
    with pytest.raises(FileError, match="training text of .* must have 2 or more documents .* has 1"):
        prepared(folder, "one", pairs=True, validation=by)
    assert len(prepared(folder, "one", validation=by).validation) > 0
    with pytest.raises(UsageError, match=r"neither data.seq_len nor model.max_seq_len gives it\. Set one\."):
        validate(EncoderTextConfig, {**config(folder, "first").model_dump(), "seq_len": None}).prepare(folder)
    assert prepared(folder, context=9).seq_len == SIZE


def test_mistakes_are_named_where_they_are() -> None:
    values = {"sources": [{"name": "files", "paths": ["a"], "weight": 1}, {"name": "python_library"}]}
    [complaint] = try_validate(EncoderTextConfig, values)[1]
    assert complaint.text == "sources must all have a weight or none, but only some have. Complete or remove them."
    assert EncoderTextConfig().foreseen() == {"vocab_size": 30522}


def test_assets_are_the_tokenizers_files(folder: Path) -> None:
    data = prepared(folder, tokenizer=PIECES)
    (folder / "model").mkdir()
    data.save_assets(folder / "model")
    assert Tokenizer.from_folder(folder / "model").fingerprint == data.tokenizer.fingerprint


def test_config_is_read_without_torch_or_grain() -> None:
    code = (
        "import sys; from dougong.data.datasets.encoder_text import EncoderTextConfig; EncoderTextConfig(); "
        "from dougong.tasks.masked_lm import MaskedLMConfig; MaskedLMConfig(); "
        "print([name for name in ('torch', 'grain', 'tokenizers', 'datasets', 'pyarrow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
