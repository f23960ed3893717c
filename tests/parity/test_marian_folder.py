"""A folder of Marian as it is downloaded: it answers as in transformers, trains on, and is one of Marian again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.core.config import validate
from dougong.core.errors import UsageError
from dougong.data.datasets.parallel_text import ParallelTextConfig
from dougong.data.tokenizer import Tokenizer
from dougong.infer.predict import answers_about, load_predictor
from dougong.recipe import load as load_recipe
from dougong.run import train
from dougong.run.importing import _vocabulary
from dougong.run.parts import prepare
from tests.data.marian_folder import CODE, ENGLISH, FRENCH, marian_folder
from tests.parity.reference import randomised

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
TEXTS = [ENGLISH[0], f"{CODE} {ENGLISH[3]}", "Ｆｕｌｌ  letters 😀"]
BOTH = pytest.mark.parametrize("separate", [False, True], ids=["one table", "two tables"])


def downloaded(folder: Path, separate: bool) -> Path:
    """Leaves text files and random weights as they come from the hub."""
    from transformers import MarianConfig, MarianMTModel

    size = Tokenizer.from_folder(marian_folder(folder, separate)).vocab_size
    config = MarianConfig(
        vocab_size=size, decoder_vocab_size=size, share_encoder_decoder_embeddings=not separate, d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24, decoder_ffn_dim=24, encoder_attention_heads=2,
        decoder_attention_heads=2, max_position_embeddings=64, activation_function="swish", scale_embedding=True,
        pad_token_id=size - 1, decoder_start_token_id=size - 1, eos_token_id=0, bos_token_id=0,
        forced_eos_token_id=None, num_beams=4,
    )  # fmt: skip
    torch.manual_seed(3)
    model = randomised(MarianMTModel(config))
    for stack in (model.model.encoder, model.model.decoder):
        stack.embed_positions.weight.data = stack.embed_positions.create_weight()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed_positions" not in name:
            parameter.data.mul_(3.0)
    model.generation_config.bad_words_ids = [[size - 1]]
    model.save_pretrained(folder)
    return folder


def translated(folder: Path, texts: list[str]) -> list[str]:
    """Returns what transformers makes of texts, with the settings of the folder."""
    from transformers import AutoTokenizer, MarianMTModel

    tokenizer, model = AutoTokenizer.from_pretrained(folder), MarianMTModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt")
        longest = 2 * tokens["input_ids"].shape[1] + 16
        rows = model.generate(**tokens, num_beams=4, early_stopping=False, max_new_tokens=longest)
        found.append(tokenizer.decode(rows[0], skip_special_tokens=True))
    return found


def recipe(folder: Path, pairs: Path, **data: Any) -> dict[str, Any]:
    rows = [f"{source}\t{target}" for source, target in zip(ENGLISH, FRENCH, strict=True)]
    pairs.write_text("\n".join(["source\ttarget", *rows]) + "\n", encoding="utf-8")
    return {
        "title": "Marian goes on",
        "init_from": str(folder),
        "model": {},
        "task": {"name": "translation"},
        "data": {
            "name": "parallel_text",
            "paths": [str(pairs)],
            "validation_paths": [str(pairs)],
            "tokenizer": {"name": "file", "path": str(folder)},
            **data,
        },
        "train": {
            "steps": 3,
            "batch_size": 4,
            "precision": "fp32",
            "device": "cpu",
            "compile": False,
            "optimizer": {"name": "adamw", "lr": 0.01},
            "evaluate": {"every": 3},
            "checkpoint": {"every": 3},
            "log": {"every": 1},
        },
    }


@BOTH
def test_it_answers_as_in_transformers(separate: bool, tmp_path: Path) -> None:
    folder = downloaded(tmp_path / "marian", separate)
    assert answers_about(folder) == "texts"
    found = [answer["translation"] for answer in load_predictor(folder, "fp32", "cpu").predict(TEXTS)]
    assert found == translated(folder, TEXTS)
    assert len({*found}) == 3, "the texts must make a difference"


def test_it_trains_on_and_stays_a_folder_of_marian(tmp_path: Path) -> None:
    folder = downloaded(tmp_path / "marian", separate=False)
    run = train(recipe(folder, tmp_path / "pairs.tsv"), run=tmp_path / "run")
    left = run.folder / "model"
    found = {path.name for path in left.iterdir()}
    assert {"source.spm", "target.spm", "vocab.json"} <= found
    assert not {"tokenizer.json", "source_tokenizer"} & found
    after = [answer["translation"] for answer in load_predictor(left, "fp32", "cpu").predict(TEXTS)]
    assert after == translated(left, TEXTS)
    assert after != translated(folder, TEXTS)


@BOTH
def test_what_the_model_brings_stays(separate: bool, tmp_path: Path) -> None:
    folder = downloaded(tmp_path / "marian", separate)
    parts = prepare(load_recipe(recipe(folder, tmp_path / "pairs.tsv")))
    size = parts.data.tokenizer.vocab_size
    assert (parts.model.start_id, parts.data.determines["start_id"]) == (size - 1, 0)
    assert parts.model.source_vocab_size == parts.data.determines["source_vocab_size"] == (size if separate else None)
    pair, theirs = parts.data.validation[0], Tokenizer.from_folder(folder)
    assert pair.source.tolist() == [*theirs.encode(ENGLISH[0]), 0]
    assert pair.target.tolist() == [*theirs.target.encode(FRENCH[0]), 0]
    assert pair.target.tolist() != [*theirs.encode(FRENCH[0]), 0]  # the control: with the pieces of the source


@BOTH
def test_both_sides_are_saved_with_a_model(separate: bool, tmp_path: Path) -> None:
    folder = downloaded(tmp_path / "marian", separate)
    values = recipe(folder, tmp_path / "pairs.tsv")["data"]
    saved, other = tmp_path / "saved", tmp_path / "other"
    for place, changes in ((saved, {}), (other, {"target_tokenizer": {"name": "bytes"}})):
        place.mkdir()
        validate(ParallelTextConfig, values | changes).prepare(seq_len=64).save_assets(place)
    whole, theirs = Tokenizer.from_folder(saved), Tokenizer.from_folder(folder)
    assert (whole.fingerprint, whole.target.fingerprint) == (theirs.fingerprint, theirs.target.fingerprint)
    assert Tokenizer.from_folder(other / "source_tokenizer").fingerprint == theirs.fingerprint
    assert Tokenizer.from_folder(other).vocab_size == 257
    assert {path.name for path in _vocabulary(folder)} == {path.name for path in saved.iterdir()} - {
        "tokenizer_config.json"
    }


def test_sizes_of_its_own_must_have_room_for_the_tokens(tmp_path: Path) -> None:
    folder = marian_folder(tmp_path / "marian")
    size = Tokenizer.from_folder(folder).vocab_size
    values = recipe(folder, tmp_path / "pairs.tsv") | {"init_from": None}
    small = {"name": "seq2seq", "num_layers": 1, "dim": 16, "num_heads": 2, "max_seq_len": 64}
    assert prepare(load_recipe(values | {"model": {**small, "source_vocab_size": size}})).model.vocab_size == size
    assert prepare(load_recipe(values | {"model": small})).model.start_id == 0
    with pytest.raises(UsageError, match=rf"model.source_vocab_size must be at least the data's {size}, but is 9"):
        prepare(load_recipe(values | {"model": {**small, "source_vocab_size": 9}}))
