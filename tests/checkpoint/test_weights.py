"""A model folder is read as data or refused with its reason, and written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dougong.checkpoint.convert import dialect_of, dialects
from dougong.checkpoint.weights import load_model, load_weights, read_config, save_model
from dougong.core.config import validate
from dougong.core.errors import FileError, ResourceError, UntrustedError, UsageError
from dougong.models.gpt import GPT, SMALL, GPTConfig


def small(kind: str = "gpt2", seed: int = 0, **changes) -> GPT:
    model = validate(GPTConfig, SMALL[kind] | changes).build()
    model.init_weights(seed)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound GPT-2 folder as from elsewhere: without a manifest."""
    save_model(small(), tmp_path / "model")
    (tmp_path / "model/manifest.json").unlink()
    return tmp_path / "model"


def edit_config(folder: Path, **changes: Any) -> None:
    (folder / "manifest.json").unlink(missing_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


# Forms


@pytest.mark.parametrize(
    ("kind", "changes", "model_type"),
    [
        ("gpt2", {}, "gpt2"),
        ("gpt3", {}, "dougong-gpt"),
        ("llama", {}, "llama"),
        ("qwen3", {}, "qwen3"),
        ("qwen3", {"attention_pattern": ["dense", "banded"], "band": 3}, "qwen3"),
        ("gpt2", {"bias": False}, "dougong-gpt"),
        ("gpt2", {"num_kv_heads": 2}, "dougong-gpt"),
        ("gpt2", {"head_dim": 6}, "dougong-gpt"),
        ("llama", {"gated_mlp": False}, "dougong-gpt"),
        ("llama", {"attention_pattern": ["banded"], "band": 3}, "dougong-gpt"),
        ("qwen3", {"bias": True}, "dougong-gpt"),
    ],
)
def test_every_model_is_written_in_a_form_that_computes_it(
    kind: str, changes: dict, model_type: str, tmp_path: Path
) -> None:
    model = small(kind, **changes)
    save_model(model, tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == model_type
    again = load_model(tmp_path / "model")
    assert again.config.filled() == model.config.filled()
    assert equal(model, again)


def test_every_dialect_is_found_by_its_model_type() -> None:
    assert [dialect_of({"model_type": dialect.MODEL_TYPE}) for dialect in dialects()] == dialects()
    assert {dialect.MODEL_TYPE for dialect in dialects()} >= {"gpt2", "llama", "qwen3"}


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_shards_hold_each_tensor_once_and_no_more_than_their_size(kind: str, tmp_path: Path) -> None:
    model = small(kind)
    save_model(model, tmp_path, shard_bytes=9000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = {path.name: load_file(path) for path in tmp_path.glob("*.safetensors")}
    assert len(shards) > 2
    assert index["weight_map"] == {name: shard for shard, tensors in shards.items() for name in tensors}
    sizes = {shard: sum(tensor.nbytes for tensor in tensors.values()) for shard, tensors in shards.items()}
    assert sum(sizes.values()) == index["metadata"]["total_size"]
    assert all(size <= 9000 or len(shards[shard]) == 1 for shard, size in sizes.items())
    assert equal(load_model(tmp_path), model)


def test_precision_is_that_of_the_files_unless_asked_for(tmp_path: Path) -> None:
    save_model(small().to(torch.bfloat16), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_model(tmp_path).head_weight.dtype == torch.bfloat16
    wide = load_model(tmp_path, dtype=torch.float32)
    assert wide.head_weight.dtype == torch.float32
    assert equal(wide.to(torch.bfloat16), load_model(tmp_path))


def test_further_files_and_the_end_of_text_are_written(tmp_path: Path) -> None:
    save_model(small(), tmp_path / "model", {"tokenizer.json": b"{}", "notes/a.md": b"a"}, eos_id=5)
    assert (tmp_path / "model/tokenizer.json").read_bytes() == b"{}"
    assert (tmp_path / "model/notes/a.md").read_bytes() == b"a"
    assert json.loads((tmp_path / "model/generation_config.json").read_text())["eos_token_id"] == 5
    with pytest.raises(FileError, match="leads outside"):
        save_model(small(), tmp_path / "model", {"../outside": b""})
    assert not (tmp_path / "outside").exists()


def test_a_built_model_is_filled_from_a_folder(folder: Path) -> None:
    model = small(seed=1, dropout=0.5)
    load_weights(model, folder)
    assert equal(model, small())
    assert model.config.dropout == 0.5
    with pytest.raises(FileError, match=r"of the model, but .* \(token_embedding.weight is \[61, 32\] for \[62, 32\]"):
        load_weights(small(vocab_size=62), folder)
    with pytest.raises(FileError, match=r"are missing .*; \d+ are unknown .*init_new"):
        load_weights(small("llama"), folder)


def test_loaded_parameters_can_be_trained(folder: Path) -> None:
    model = load_model(folder)
    before = model.head_weight.detach().clone()
    model(torch.zeros(1, 3, dtype=torch.int64)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.head_weight, before)
    assert equal(load_model(folder), small()), "training must not write into the file"


def test_a_head_saved_a_second_time_must_be_the_embedding(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()}))
    assert equal(load_model(folder), small())
    edit_tensors(folder, lambda t: t["lm_head.weight"].add_(1))
    with pytest.raises(FileError, match="lm_head.weight differs from transformer.wte.weight"):
        load_model(folder)


def test_names_as_on_the_hub_are_read_and_saved_masks_ignored(folder: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 24, 24)

    edit_tensors(folder, rename)
    assert equal(load_model(folder), small())


def test_the_hub_cache_and_its_links_are_read(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b/snapshots/abc", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        (blobs / f"{file.name}-hash").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}-hash")
    assert equal(load_model(snapshot), small())


# Refusals

TENSORS = {
    "1 is missing (transformer.ln_f.bias)": lambda t: t.pop("transformer.ln_f.bias"),
    "1 is unknown (odd)": lambda t: t.update({"odd": torch.zeros(2)}),
    "1 is unknown (transformer.h.7.ln_1.weight)": lambda t: t.update({"transformer.h.7.ln_1.weight": torch.zeros(32)}),
    "1 is of another kind (transformer.ln_f.bias is [31] for [32])": lambda t: t.update(
        {"transformer.ln_f.bias": torch.zeros(31)}
    ),
    "transformer.ln_f.bias is torch.int64 for torch.float32": lambda t: t.update(
        {"transformer.ln_f.bias": torch.zeros(32, dtype=torch.int64)}
    ),
    "transformer.ln_f.bias is quantized for torch.float32": lambda t: t.update(
        {"transformer.ln_f.bias": torch.zeros(32, dtype=torch.float8_e4m3fn)}
    ),
    "1 is missing (transformer.ln_f.bias); 1 is unknown (odd)": lambda t: t.update(odd=t.pop("transformer.ln_f.bias")),
    "7 are missing (": lambda t: [t.pop(name) for name in sorted(t)[:7]],
}


@pytest.mark.parametrize("sentence", TENSORS)
def test_tensors_that_do_not_fit_are_named(sentence: str, folder: Path) -> None:
    load_model(folder)
    edit_tensors(folder, TENSORS[sentence])
    with pytest.raises(FileError) as caught:
        load_model(folder)
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 3


CONFIGS: dict[str, dict[str, Any]] = {
    "model_type in config.json must be one of": {"model_type": "mamba"},
    "but is None": {"model_type": None},
    "n_layer in config.json": {"n_layer": None},
    "scale_attn_weights in config.json must be true": {"scale_attn_weights": False},
    "activation_function in config.json must be one of": {"activation_function": "tanh"},
    "quantized": {"quantization_config": {"bits": 4}},
    "vocab_size must be": {"vocab_size": "many"},
    "dim must be": {"n_embd": -3},
    "num_heads must divide dim": {"n_head": 5},
    "for [99, 32]": {"n_positions": 99},
    "but holds 28 tensors": {"n_layer": 10**9},
    "must describe a model that can be built": {"n_embd": 2**62},
}


@pytest.mark.parametrize("sentence", CONFIGS)
def test_a_config_that_describes_no_model_is_explained(sentence: str, folder: Path) -> None:
    edit_config(folder, **CONFIGS[sentence])
    if sentence.startswith("n_layer"):
        sentence = "config.json must have n_layer"
    with pytest.raises(FileError) as caught:
        load_model(folder)
    assert sentence in str(caught.value)


LLAMA_CONFIGS: dict[str, dict[str, Any]] = {
    "mlp_bias": {"mlp_bias": True},
    "rope_type": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
    "must have factor": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}},
    "partial_rotary_factor": {"partial_rotary_factor": 0.5},
    "rope_parameters": {"rope_parameters": [1]},
    "layer_types": {"model_type": "qwen3", "layer_types": ["chunked_attention"] * 2},
    "use_sliding_window": {"model_type": "qwen3", "layer_types": ["sliding_attention"] * 2},
    "attention_bias": {"model_type": "qwen3", "attention_bias": True, "mlp_bias": True},
    "num_hidden_layers": {"model_type": "qwen3", "num_hidden_layers": 10**9},
}


@pytest.mark.parametrize("sentence", LLAMA_CONFIGS)
def test_a_computation_that_is_not_built_here_is_refused(sentence: str, tmp_path: Path) -> None:
    save_model(small("llama"), tmp_path)
    edit_config(tmp_path, **LLAMA_CONFIGS[sentence])
    with pytest.raises(FileError, match=sentence):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}},
        {"trust_remote_code": True},
        {"task": [{"deep": {"_target_": "os.system"}}]},
        {"custom_pipelines": {}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_folder_that_asks_for_code_is_refused_and_runs_none(changes: dict, folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (folder / "modeling_x.py").write_text(f"open({str(canary)!r}, 'w')")
    edit_config(folder, **changes)
    for read in (load_model, read_config, lambda path: load_weights(small(), path)):
        with pytest.raises(UntrustedError, match="_target_" if "task" in changes else next(iter(changes))) as caught:
            read(folder)
        assert caught.value.name == "E-UNTRUSTED"
    assert not canary.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "weights.pt"])
def test_pickled_weights_are_refused_unopened(name: str, folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "canary"), "w")

    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Bomb()}, folder / name)
    with pytest.raises(UntrustedError, match=f"{name}, a pickle"):
        load_model(folder)
    assert not (tmp_path / "canary").exists()


def test_a_pickle_beside_safetensors_is_left_alone(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"whatever")
    assert equal(load_model(folder), small())


# Broken files


def cut(raw: bytes) -> bytes:
    return raw[:-7]


def lie(raw: bytes) -> bytes:
    return struct.pack("<Q", 1 << 60) + raw[8:]


def reshape(raw: bytes) -> bytes:
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    header["transformer.wte.weight"]["shape"] = [10**9, 10**9]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + size :]


BREAKS = {
    "cut": cut,
    "empty": lambda raw: b"",
    "noise": lambda raw: os.urandom(500),
    "lie": lie,
    "huge": reshape,
    "pickle": lambda raw: b"\x80\x04",
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_corrupt_file_is_one_sentence(how: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(BREAKS[how](path.read_bytes()))
    with pytest.raises(FileError, match="must be a whole safetensors file, but is corrupt"):
        load_model(folder)


def test_no_broken_folder_escapes_as_a_traceback(folder: Path) -> None:
    raw = (folder / "config.json").read_bytes()
    for text in (b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000, raw[: len(raw) // 2]):
        (folder / "config.json").write_bytes(text)
        with pytest.raises(FileError):
            load_model(folder)
    values = json.loads(raw)
    for key in values:
        for wrong in (None, -1, "x", [], 1e300, 10**30):
            (folder / "config.json").write_text(json.dumps(values | {key: wrong}))
            with contextlib.suppress(FileError):  # or it loads: some keys concern others
                load_model(folder)


@pytest.mark.parametrize("target", ["../outside.safetensors", "/etc/passwd", "a\0b", "", "link.safetensors"])
def test_an_index_cannot_lead_outside(target: str, folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "link.safetensors").symlink_to(outside)
    index = {"weight_map": {"transformer.wte.weight": target}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileError, match="leads outside"):
        load_model(folder)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": {}}, {"weight_map": {"a": 3}}, {"weight_map": "x"}])
def test_an_index_that_is_none_is_refused(index: Any, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileError, match="must map names of tensors to files"):
        load_model(folder)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(FileError, match="must be a regular file"):
        load_model(folder)


def test_missing_things_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="has no config.json"):
        load_model(tmp_path)
    save_model(small(), folder, shard_bytes=9000)
    (folder / "manifest.json").unlink()
    (folder / "model-00002-of-00005.safetensors").unlink(missing_ok=True)
    next(iter(sorted(folder.glob("model-*.safetensors")))).unlink()
    with pytest.raises(UsageError, match=r"model-0000\d-of-.* does not exist"):
        load_model(folder)
    for path in folder.glob("model*"):
        path.unlink()
    with pytest.raises(FileError, match=r"must hold model.safetensors, but does not"):
        load_model(folder)


# Writing


def test_a_failed_save_leaves_the_old_folder_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dougong.checkpoint.weights.save_file", fail)
    with pytest.raises(ResourceError):
        save_model(small(seed=1), folder)
    monkeypatch.undo()
    assert equal(load_model(folder), small())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing may be left over"
    save_model(small(seed=1), folder)
    assert equal(load_model(folder), small(seed=1))


def test_a_disk_too_small_is_known_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.core.files.free_bytes", lambda path: 1000)
    with pytest.raises(ResourceError, match=r"needs 0\.1 MB, but 0\.0 MB are free") as caught:
        save_model(small(), tmp_path / "model")
    assert caught.value.name == "E-DISK"
    assert list(tmp_path.iterdir()) == []
