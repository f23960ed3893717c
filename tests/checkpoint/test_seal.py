"""What the seal of a folder says, and what it makes of manifests that lie."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dougong.checkpoint import seal as seals
from dougong.checkpoint.seal import Terms, fault_of_form, is_sealed, seal, tensor_hashes, verify, verify_file
from dougong.checkpoint.weights import load_model, read_config, save_model, verify_model
from dougong.core.config import validate
from dougong.core.errors import FileError
from dougong.models.gpt import SMALL, GPTConfig

TENSORS = {"w": torch.arange(6.0).reshape(2, 3), "none": torch.empty(0), "one": torch.tensor(3, dtype=torch.int64)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"format": "pt"})
    (tmp_path / "b.json").write_text("{}")
    seal(tmp_path)
    return tmp_path


def listed(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())["files"]


def test_the_manifest_has_the_hash_of_every_file_header_and_tensor(folder: Path) -> None:
    found = listed(folder)
    raw = (folder / "a.safetensors").read_bytes()
    header = raw[: 8 + int.from_bytes(raw[:8], "little")]
    assert found.keys() == {"a.safetensors", "b.json"}
    assert found["b.json"] == {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    assert found["a.safetensors"] == {
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "header": hashlib.sha256(header).hexdigest(),
        "tensors": {
            name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in sorted(TENSORS.items())
        },
    }
    assert tensor_hashes(folder) == {"a.safetensors": found["a.safetensors"]["tensors"]}
    verify(folder)
    verify_file(folder, "b.json")


def test_a_large_tensor_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "_CHUNK", 1000)
    large = torch.arange(5003.0)
    save_file({"large": large, "small": torch.ones(3)}, tmp_path / "a.safetensors")
    seal(tmp_path)
    expected = hashlib.sha256(large.numpy().tobytes()).hexdigest()
    assert tensor_hashes(tmp_path)["a.safetensors"]["large"] == expected
    verify(tmp_path)


@pytest.mark.parametrize("content", [b"", b"noise" * 9, b"\xff" * 8 + b"{}", b"\x02" + bytes(7) + b"{}extra"])
def test_a_file_that_only_has_the_name_is_sealed_as_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    seal(tmp_path)
    entry = listed(tmp_path)["a.safetensors"]
    assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    verify(tmp_path)


def test_a_header_that_shrinks_is_named(folder: Path) -> None:
    path = folder / "a.safetensors"
    raw = path.read_bytes()
    for header in (b"\x02" + bytes(7) + b"{}", b"\xff" * 8 + b"{}"):
        path.write_bytes(header + raw[len(header) :])
        with pytest.raises(FileError, match="in the header, but has"):
            verify(folder)


def test_two_changed_tensors_are_counted(folder: Path) -> None:
    other = {name: tensor + 1 for name, tensor in TENSORS.items()}
    save_file(other, folder / "a.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileError, match=r"in the tensor \w+ \(and 1 more\), but has"):
        verify(folder)


MANIFESTS: dict[str, Any] = {
    "no JSON": "{",
    "no object": "[]",
    "no files": "{}",
    "files a list": '{"files": [], "sha256": "0"}',
    "an entry that is none": {"files": {"b.json": 3}},
    "no sha256": {"files": {"b.json": {"bytes": 2}}},
    "tensors a list": {"files": {"b.json": {"bytes": 2, "sha256": "0", "tensors": [], "header": "0"}}},
    "tensors without a header": {"files": {"b.json": {"bytes": 2, "sha256": "0", "tensors": {}}}},
    "too deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", list(MANIFESTS))
def test_a_manifest_that_is_none_is_refused(folder: Path, name: str) -> None:
    value = MANIFESTS[name]
    text = value if isinstance(value, str) else seals._text(value["files"])
    (folder / "manifest.json").write_text(text)
    with pytest.raises(FileError, match=r"manifest\.json must carry its own sha256") as caught:
        verify(folder)
    assert caught.value.name == "E-CORRUPT"


def test_a_manifest_that_was_only_reformatted_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FileError, match="must carry its own sha256"):
        verify(folder)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(folder: Path) -> None:
    (folder / "b.json").unlink()
    os.mkfifo(folder / "b.json")
    with pytest.raises(FileError, match="must be a regular file"):
        verify(folder)


def test_terms_say_what_is_exempt_and_what_else_may_lie_there(tmp_path: Path) -> None:
    terms = Terms({"card.md"}, (".json",))
    (tmp_path / "a.json").write_text("1")
    (tmp_path / "card.md").write_text("1")
    seal(tmp_path, terms)
    assert listed(tmp_path).keys() == {"a.json"}
    (tmp_path / "card.md").write_text("2")
    (tmp_path / "other.txt").write_text("2")
    verify(tmp_path, terms)
    assert "card.md" in (fault_of_form(tmp_path) or "")
    (tmp_path / "b.json").write_text("2")
    assert "but holds b.json too" in (fault_of_form(tmp_path, terms) or "")


# Model folders


def test_a_model_folder_is_sealed_but_for_its_card(tmp_path: Path) -> None:
    model = validate(GPTConfig, SMALL["llama"]).build()
    model.init_weights(0)
    save_model(model, tmp_path / "model", {"README.md": b"# Card\n", "tokenizer.json": b"{}"}, shard_bytes=9000)
    assert is_sealed(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()} - {"README.md", "manifest.json"}
    assert listed(tmp_path / "model").keys() == names
    assert sum(name.endswith(".safetensors") for name in names) > 2
    assert verify_model(tmp_path / "model")
    (tmp_path / "model/manifest.json").unlink()
    assert not verify_model(tmp_path / "model"), "as of a folder from elsewhere"
    load_model(tmp_path / "model")


def test_the_config_alone_is_verified_when_it_alone_is_read(tmp_path: Path) -> None:
    model = validate(GPTConfig, SMALL["gpt2"]).build()
    model.init_weights(0)
    save_model(model, tmp_path / "model")
    path = tmp_path / "model/config.json"
    path.write_text(path.read_text().replace('"n_layer": 2', '"n_layer": 3'))
    with pytest.raises(FileError, match=r"config\.json must have sha256"):
        read_config(tmp_path / "model")
    path.unlink()
    with pytest.raises(FileError, match="must be"):
        read_config(tmp_path / "model")


def test_transformers_opens_a_sealed_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = validate(GPTConfig, SMALL["llama"]).build()
    model.init_weights(0)
    save_model(model, tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert sum(p.numel() for p in theirs.parameters()) >= sum(p.numel() for p in model.parameters())
