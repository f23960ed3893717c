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
from dougong.core.files import cache_folder
from dougong.data import loader
from dougong.data.datasets.text import TextConfig, TextData
from dougong.data.tokenizer import Tokenizer
from dougong.data.vocabulary import FIM
from tests.conftest import shared

FIRST = [f"first {number} " + "word " * (number % 9) for number in range(80)]
SECOND = [f"second {number} 中" for number in range(60)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, texts in (("first", FIRST), ("second", SECOND)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return tmp_path


def config(folder: Path, *names: str, weights: tuple[float, ...] = (), **options: Any) -> TextConfig:
    sources: list[dict[str, Any]] = [{"name": "files", "paths": [str(folder / f"{name}.jsonl")]} for name in names]
    for source, weight in zip(sources, weights, strict=False):
        source["weight"] = weight
    values = {"sources": sources, "tokenizer": {"name": "bytes"}, "validation": {"fraction": 0.2}, "seq_len": 16}
    return validate(TextConfig, {**values, **options})


def prepared(folder: Path, *names: str, context: int | None = None, **options: Any) -> TextData:
    return config(folder, *(names or ("first",)), **options).prepare(folder / "cache", context)


def text_of(data: TextData, rows: Any) -> str:
    tokens = np.concatenate([rows[0].tokens, *(rows[index].tokens[1:] for index in range(1, len(rows)))])
    return data.tokenizer.decode(tokens)


def test_training_and_validation_rows_hold_all_text_and_share_none(folder: Path) -> None:
    data = prepared(folder)
    train, validation = text_of(data, data.train[0][0]), text_of(data, data.validation)
    lost = [text for text in FIRST if text not in train and text not in validation]
    assert len(lost) <= 2  # less than a row at the end of each part is dropped
    assert not [text for text in FIRST if text + "first" in train and text + "first" in validation]
    assert data.determines == {"vocab_size": 257}
    assert data.counts[0]["read"] == data.counts[0]["used"] == 80
    assert data.counts[0]["train"]["documents"] + data.counts[0]["validation"]["documents"] == 80
    sizes = data.counts[0]["train"]["bytes"] + data.counts[0]["validation"]["bytes"]
    assert sizes == sum(len(text.encode()) for text in FIRST)


def test_raw_validation_text_is_that_of_the_validation_rows(folder: Path) -> None:
    data = prepared(folder, "first", "second")
    raw = b"".join(data.raw_validation_bytes())
    assert len(raw) == sum(count["validation"]["bytes"] for count in data.counts)
    part = data.validation.parts[0]
    assert raw.decode().startswith(text_of(data, part))


def test_context_is_the_configs_own_or_the_models(folder: Path) -> None:
    assert len(prepared(folder, context=9).train[0][0][0].tokens) == 17
    free = validate(TextConfig, {**config(folder, "first").model_dump(), "seq_len": None})
    assert len(free.prepare(folder / "cache", 9).train[0][0][0].tokens) == 10
    with pytest.raises(UsageError, match="context must be known, but neither data.seq_len nor the model gives it"):
        free.prepare(folder / "cache")


def test_attention_across_documents_is_told_to_every_row(folder: Path) -> None:
    for across in (True, False):
        data = prepared(folder, across_documents=across)
        assert data.train[0][0][0].across_documents is across
        assert data.validation[0].across_documents is across


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": {"name": "chars"}},
        {"tokenizer": {"name": "bpe", "vocab_size": 280}},
        {"validation": {"fraction": 0.3}},
        {"validation": {"by": "position", "fraction": 0.2}},
        {"seq_len": 15},
        {"across_documents": False},
        {"weights": (1.0, 2.0)},
        {"weights": (2.0, 2.0)},
    ],
)
def test_every_option_changes_the_fingerprint(folder: Path, change: dict[str, Any]) -> None:
    assert prepared(folder, "first", "second", **change).fingerprint != prepared(folder, "first", "second").fingerprint


def test_order_of_sources_and_any_edit_change_the_fingerprint(folder: Path) -> None:
    before = prepared(folder, "first", "second").fingerprint
    assert prepared(folder, "first", "second").fingerprint == before
    assert prepared(folder, "second", "first").fingerprint != before
    path = folder / "second.jsonl"
    path.write_text(path.read_text().replace("second 33", "second 34"))
    assert prepared(folder, "first", "second").fingerprint != before


def test_sources_without_weights_are_one_and_with_weights_are_mixed(folder: Path) -> None:
    plain = prepared(folder, "first", "second")
    rows = loader.order(plain.train, 1)
    count = loader.count(plain.train)
    seen = sorted(tuple(rows[number].tokens.tolist()) for number in range(count))
    assert seen == sorted(tuple(part[i].tokens.tolist()) for part, _ in plain.train for i in range(len(part)))
    mixed = prepared(folder, "first", "second", weights=(1.0, 3.0))
    rows = loader.order(mixed.train, 1)
    kinds = [b"secon" in bytes(token for token in rows[number].tokens if token < 256) for number in range(400)]
    second = {tuple(mixed.train[1][0][index].tokens.tolist()) for index in range(len(mixed.train[1][0]))}
    assert sum(tuple(rows[number].tokens.tolist()) in second for number in range(400)) == 300
    assert any(kinds)


def test_weights_are_for_all_sources_or_none(folder: Path) -> None:
    values = {"sources": [{"name": "files", "paths": ["a"], "weight": 1}, {"name": "python_library"}]}
    [complaint] = try_validate(TextConfig, values)[1]
    assert complaint.text == "sources must all have a weight or none, but only some have. Complete or remove them."
    assert len(try_validate(TextConfig, {"sources": [{"name": "files", "paths": ["a"], "weight": 0}]})[1]) == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sources": [{"name": "flies"}]}, "sources[0].name must be a known name, but is 'flies'. Did you mean files?"),
        ({"sources": [{"name": "files", "path": ["a"], "paths": ["a"]}]}, "Did you mean sources[0].paths?"),
        ({"sources": []}, "sources must be a list of 1 or more items"),
        ({"tokenizer": {"name": "bep"}}, "tokenizer.name must be a known name, but is 'bep'. Did you mean bpe?"),
        ({"tokenizer": {"name": "bpe", "vocab_size": 256}}, "tokenizer.vocab_size must be at least 257, but is 256."),
        ({"seq_len": 0}, "seq_len must be"),
        ({"validation": {"by": "hash"}}, "validation.by must be"),
        ({"fim": {"rate": 0}}, "fim.rate must be"),
        (
            {"fim": {}, "tokenizer": {"name": "bytes"}},
            "but the tokenizer bytes lacks <|fim_prefix|>, <|fim_suffix|>, <",
        ),
        (
            {"fim": {}, "tokenizer": {"name": "bpe", "special": [*FIM[1:]]}},
            "the tokenizer bpe lacks <|fim_prefix|>. Use",
        ),
    ],
)
def test_mistakes_are_named_where_they_are(values: dict[str, Any], said: str) -> None:
    [complaint] = try_validate(TextConfig, values)[1]
    assert said in complaint.text


def test_text_shorter_than_the_context_is_one_sentence(folder: Path) -> None:
    with pytest.raises(FileError, match="training text of .* must have more tokens than the context of 9999, but has"):
        prepared(folder, seq_len=9999)
    with pytest.raises(
        FileError, match=r"validation text .* of 700, but has \d+ \(of 80 documents, with 0.2 kept apart"
    ):
        prepared(folder, seq_len=700)
    for text in ("word " * 100, "other " * 100):  # by its hash one is for training, the other not
        (folder / "one.jsonl").write_text(json.dumps({"text": text}))
        with pytest.raises(
            FileError, match=r"has 0 \(of 1 documents, .*, or set validation to {by: position}\."
        ) as error:
            prepared(folder, "one")
        assert error.value.exit_code == 3
        assert len(prepared(folder, "one", validation={"by": "position", "fraction": 0.2}).validation) >= 6


def test_same_text_gives_the_same_rows_in_another_cache(folder: Path, tmp_path: Path) -> None:
    tokenizer = {"name": "bpe", "vocab_size": 290}
    one = config(folder, "first", "second", tokenizer=tokenizer).prepare(tmp_path / "one")
    two = config(folder, "first", "second", tokenizer=tokenizer).prepare(tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    assert np.array_equal(one.validation[3].tokens, two.validation[3].tokens)


def test_byte_pairs_see_no_validation_text(folder: Path) -> None:
    tokenizer = {"name": "bpe", "vocab_size": 300}
    before = prepared(folder, tokenizer=tokenizer)
    apart = b"".join(before.raw_validation_bytes()).decode()
    kept = [text for text in FIRST if text not in apart]
    (folder / "kept.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in kept))
    from dougong.data.vocabulary import BpeConfig

    alone = BpeConfig(vocab_size=300).build(lambda: kept, list)
    assert before.tokenizer.fingerprint == alone.fingerprint


def test_characters_of_the_validation_text_are_known(folder: Path) -> None:
    path = folder / "one.jsonl"
    path.write_text(json.dumps({"text": "abc" * 50 + "xyz" * 20}))
    data = prepared(folder, "one", tokenizer={"name": "chars"}, validation={"by": "position", "fraction": 0.25})
    assert data.determines == {"vocab_size": 7}
    assert text_of(data, data.validation) == ("xyz" * 20)[-53 : -53 + 48]


def test_tokenizer_in_the_cache_that_was_changed_is_refused(folder: Path) -> None:
    data = prepared(folder, tokenizer={"name": "chars"})
    [path] = (folder / "cache").glob("tokenizer-*/tokenizer.json")
    path.write_text(path.read_text().replace('"w": ', '"\u00e0": ', 1))
    with pytest.raises(FileError, match="must hold the tokenizer as it was written, but it was changed. Delete it"):
        prepared(folder, tokenizer={"name": "chars"})
    assert data.tokenizer.vocab_size > 3


def test_assets_are_the_tokenizers_files(folder: Path) -> None:
    data = prepared(folder)
    (folder / "model").mkdir()
    data.save_assets(folder / "model")
    assert Tokenizer.from_folder(folder / "model").fingerprint == data.tokenizer.fingerprint


def test_cache_is_where_the_environment_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_CACHE", str(folder / "elsewhere"))
    config(folder, "first").prepare()
    assert list((folder / "elsewhere").glob("shards-*"))
    monkeypatch.delenv("DOUGONG_CACHE")
    monkeypatch.setenv("HOME", str(folder))
    assert cache_folder() == folder / ".cache" / "dougong"


def test_infilling_rearranges_the_training_rows_alone(folder: Path) -> None:
    tokenizer = {"name": "bpe", "vocab_size": 280, "special": list(FIM)}
    plain, changed = (prepared(folder, tokenizer=tokenizer, **fim) for fim in ({}, {"fim": {"rate": 1.0}}))
    assert not hasattr(plain, "augment")
    row = changed.train[0][0][0]
    assert np.array_equal(row.tokens, plain.train[0][0][0].tokens)
    new = changed.augment(row, np.random.default_rng(0))
    assert changed.tokenizer.id_of(FIM[0]) in new.tokens
    assert len(new.tokens) == len(new.documents) == len(row.tokens)
    for number in range(len(plain.validation)):
        assert np.array_equal(changed.validation[number].tokens, plain.validation[number].tokens)
    options = ({}, {"rate": 0.6}, {"spm_share": 0.25})
    found = [prepared(folder, tokenizer=tokenizer, fim=fim).fingerprint for fim in options]
    assert len({plain.fingerprint, changed.fingerprint, *found}) == 5


def test_infilling_with_a_file_of_another_tokenizer_is_refused(folder: Path) -> None:
    prepared(folder).tokenizer.save(folder)
    tokenizer = {"name": "file", "path": str(folder)}
    assert len(prepared(folder, tokenizer=tokenizer).validation)
    with pytest.raises(UsageError, match=r"must have the special tokens .*, but lacks <\|fim_prefix\|>, "):
        prepared(folder, tokenizer=tokenizer, fim={})


def test_config_is_read_without_torch_or_grain() -> None:
    code = (
        "import sys; from dougong.data.datasets.text import TextConfig; TextConfig(); "
        "print([name for name in ('torch', 'grain', 'tokenizers', 'datasets', 'pyarrow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_default_is_the_library_of_this_python() -> None:
    assert [source.name for source in TextConfig().sources] == ["python_library"]
    again = validate(TextConfig, TextConfig().model_dump())
    assert again == TextConfig()


def test_shakespeare_is_split_as_by_nanogpt(tmp_path: Path) -> None:
    path = shared("data/text/tinyshakespeare/input.txt")
    values = {
        "sources": [{"name": "files", "paths": [str(path)]}],
        "tokenizer": {"name": "chars"},
        "validation": {"by": "position", "fraction": 0.1},
    }
    with log.listening(lambda line: None):
        data = validate(TextConfig, values).prepare(tmp_path, 64)
    assert data.determines == {"vocab_size": 66}
    assert [data.counts[0][part]["bytes"] for part in ("train", "validation")] == [1_003_854, 111_540]
    assert data.tokenizer.decode(data.validation[0].tokens).startswith("?\n\nGREMIO:\nGood morrow, neighbour Baptista.")
