"""`dougong import` says what it took, what it left out, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.cli.conftest import Command


def test_what_was_imported_and_left_out_is_told(dougong: Command, tmp_path: Path) -> None:
    state = {"state_dict": {"a": torch.ones(2), "b": torch.ones(2).bfloat16()}, "epoch": 3, "odd\x1b[31m": None}
    torch.save(state, tmp_path / "last.ckpt")
    answer = dougong("import", "last.ckpt", "--to", "new")
    assert answer.code == 0, answer.err
    assert answer.out.split("\n")[:3] == [
        "new: 2 tensors (1 BF16, 1 F32), 12 bytes, from the key state_dict",
        "Left out, 2: epoch (int), odd?[31m (NoneType)",
        "Written: manifest.json, model.safetensors",
    ]
    told = dougong("import", "last.ckpt", "--to", "again", "--key", "state_dict", "--json").json
    assert (told["tensors"], told["types"], told["opens"]) == (2, {"F32": 1, "BF16": 1}, None)
    assert dougong("checkpoint", "verify", "again").code == 0


def test_what_is_wrong_is_one_sentence(dougong: Command, tmp_path: Path) -> None:
    assert dougong("import", "last.ckpt").code == 2
    answer = dougong("import", "last.ckpt", "--to", "new")
    assert answer.code == 2
    assert "last.ckpt does not exist" in answer.sentence
    (tmp_path / "last.ckpt").write_bytes(b"no pickle")
    answer = dougong("import", "last.ckpt", "--to", "new")
    assert answer.code == 3
    assert "must be a file of torch.save, but does not begin like one" in answer.sentence


def test_a_pickle_that_is_to_write_is_answered_with_the_line_to_type(dougong: Command, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    for words in (("generate", "model.pt", "a"), ("generate", str(tmp_path / "model.pt"), "a")):
        answer = dougong(*words)
        assert answer.code == 3
        assert "error[E-UNTRUSTED]" in answer.sentence
        assert "model.pt --to NEW" in answer.sentence
