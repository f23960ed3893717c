"""What is imported is what was pickled, bit by bit, and nothing else comes with it."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import dougong
from dougong.checkpoint.weights import load_model
from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.core import isolation, log
from dougong.core.config import find_part, validate
from dougong.core.errors import FileError, IsolationError, ResourceError, UsageError
from dougong.run import importing
from tests.data.pictures import encoded, gradient
from tests.faults import hostile


def every_kind() -> dict[str, Tensor]:
    """Tensors of every type and form that a state dict may hold."""
    shared = torch.randn(4, 4)
    types = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    types += [torch.uint8, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16]
    return {
        **{str(kind): torch.randn(3).to(kind) for kind in types},
        "tied": shared,
        "tied again": shared,
        "part": shared[1:3, 1:],
        "turned": shared.T,
        "expanded": torch.ones(1).expand(5),
        "number": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "true": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "not finite": torch.tensor([float("nan"), -float("inf"), -0.0]),
    }


def bits(tensor: Tensor) -> tuple[Any, ...]:
    plain = tensor.detach().clone(memory_format=torch.contiguous_format)
    return tensor.dtype, tuple(tensor.shape), plain.flatten().view(torch.uint8).tolist()


def test_tensors_of_every_kind_are_the_same_bit_by_bit(tmp_path: Path) -> None:
    tensors = every_kind()
    state = {"state_dict": tensors, "epoch": 3, "optimizer": {"state": {0: {"m": torch.ones(2)}}, "lr": 0.1}}
    torch.save(state, tmp_path / "last.ckpt")
    done = dougong.import_weights(tmp_path / "last.ckpt", tmp_path / "new")
    found = load_file(tmp_path / "new/model.safetensors")
    assert {name: bits(tensor) for name, tensor in found.items()} == {name: bits(t) for name, t in tensors.items()}
    assert (done.key, done.tensors, done.opens) == ("state_dict", len(tensors), None)
    assert done.bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert done.types["F32"] == 9
    assert list(done.left_out) == [("epoch", "int"), ("optimizer", "dict of 2")]
    assert sorted(done.files) == ["manifest.json", "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir() if path.name != "last.ckpt"] == ["new"]


def test_files_of_before_torch_1_6_are_imported_too(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in every_kind().items() if "float8" not in name and "uint16" not in name}
    torch.save(OrderedDict(tensors), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    dougong.import_weights(tmp_path / "old.bin", tmp_path / "new")
    found = load_file(tmp_path / "new/model.safetensors")
    assert {name: bits(tensor) for name, tensor in found.items()} == {name: bits(t) for name, t in tensors.items()}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A GPT-2 folder as the hub had them: two pickled shards, with files beside them."""
    folder = hostile.sound_model(tmp_path / "foreign")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, half in enumerate((names[:10], names[10:]), start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in half}, folder / file)
        weight_map |= dict.fromkeys(half, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "modeling_x.py").write_text("raise SystemExit")
    (folder / "optimizer.pt").write_bytes(b"never opened")
    return folder


def test_a_folder_in_shards_becomes_a_model_that_opens(foreign: Path, tmp_path: Path) -> None:
    done = dougong.import_weights(foreign, tmp_path / "new")
    assert done.opens is True
    assert done.files == [
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    wanted = load_model(hostile.sound_model(tmp_path / "sound")).state_dict()
    found = load_model(tmp_path / "new").state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert isinstance(dougong.generate(tmp_path / "new", "a", max_new_tokens=2), str)


def test_a_folder_whose_weights_are_another_model_s_is_refused_and_absent(foreign: Path, tmp_path: Path) -> None:
    hostile.edited(foreign / "config.json", n_embd=64)
    with pytest.raises(FileError, match="must hold exactly the tensors of its config.json"):
        dougong.import_weights(foreign, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["foreign"]


def test_where_isolation_cannot_be_had_nothing_is_unpickled(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = isolation._CONFINE.read_text(encoding="utf-8")
    assert "_libc.unshare(flags) == 0" in text
    (tmp_path / "confine.py").write_text(text.replace("_libc.unshare(flags) == 0", "False"))
    monkeypatch.setattr(isolation, "_CONFINE", tmp_path / "confine.py")
    with pytest.raises(IsolationError) as caught:
        dougong.import_weights(foreign, tmp_path / "new")
    assert caught.value.exit_code == 7
    assert not (tmp_path / "new").exists()


def refusal(path: Path, folder: Path, content: Any) -> str:
    torch.save(content, path)
    with pytest.raises(FileError) as caught:
        dougong.import_weights(path, folder)
    return str(caught.value)


def test_what_is_no_plain_tensor_is_refused_by_name(tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    assert "but odd is torch.sparse_coo" in refusal(tmp_path / "a.pt", tmp_path / "new", {"odd": sparse})
    huge = {"a": torch.ones(1).expand(10**9)}
    assert "would become 4,000,000,000" in refusal(tmp_path / "a.pt", tmp_path / "new", huge)


def test_flipped_bits_in_the_pickled_file_are_noticed(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, tmp_path / "a.pt")
    raw = bytearray((tmp_path / "a.pt").read_bytes())
    raw[len(raw) // 2] ^= 4
    (tmp_path / "a.pt").write_bytes(raw)
    with pytest.raises(FileError, match="must be as it was written, but its part 'a/data/0' was changed"):
        dougong.import_weights(tmp_path / "a.pt", tmp_path / "new")


def test_what_cannot_be_imported_is_said_before_any_work(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_converted", pytest.fail)
    with pytest.raises(UsageError, match="does not exist"):
        dougong.import_weights(tmp_path / "nothing.pt", tmp_path / "new")
    with pytest.raises(UsageError, match="is a safetensors file already"):
        dougong.import_weights(hostile.sound_model(tmp_path / "m") / "model.safetensors", tmp_path / "new")
    with pytest.raises(UsageError, match="must hold pytorch_model.bin or .*, but does not. Name the file"):
        dougong.import_weights(tmp_path / "m", tmp_path / "new")
    with pytest.raises(UsageError, match="must be a new folder, but exists"):
        dougong.import_weights(foreign, tmp_path / "m")
    monkeypatch.setattr("dougong.core.files.free_bytes", lambda path: 1000)
    with pytest.raises(ResourceError, match="MB are free"):
        dougong.import_weights(foreign, tmp_path / "new")


def test_a_model_folder_of_pickles_says_how_to_import_it(foreign: Path) -> None:
    with pytest.raises(FileError, match=rf"import it: dougong import {foreign} --to NEW"):
        load_model(foreign)
    (foreign / "pytorch_model.bin.index.json").unlink()
    for path in foreign.glob("pytorch*"):
        path.unlink()
    with pytest.raises(FileError, match=rf"dougong import {foreign}/optimizer.pt --to NEW"):
        load_model(foreign)


@pytest.mark.parametrize(
    "outcome",
    [
        isolation.Outcome(-11, b"", b"", frozenset()),
        isolation.Outcome(None, b"", b"", frozenset(), "seconds"),
        isolation.Outcome(0, b"nonsense", b"", frozenset()),
        isolation.Outcome(0, b'{"key": ""}', b"", frozenset()),
        isolation.Outcome(0, b'{"refused": "x"}', b"", frozenset()),
        isolation.Outcome(0, b"[1]", b"", frozenset()),
        isolation.Outcome(66, b'{"key": "", "left_out": []}', b"\x1b[31msocket.connect", frozenset()),
    ],
    ids=["killed", "too long", "nonsense", "half an answer", "half a refusal", "a list", "caught"],
)
def test_the_isolated_process_is_not_believed(outcome: isolation.Outcome) -> None:
    with pytest.raises(FileError) as caught:
        importing._answer(Path("a.pt"), outcome)
    assert str(caught.value).isprintable()


def test_what_it_leaves_behind_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(hostile.weights(), tmp_path / "a.pt")

    def leaving(command: Any, *, writable: list[Path], **_: Any) -> isolation.Outcome:
        (writable[0] / "part-00001.safetensors").symlink_to("/etc/hostname")
        return isolation.Outcome(0, b'{"key": "", "left_out": []}', b"", frozenset())

    monkeypatch.setattr(isolation, "isolated", leaving)
    with pytest.raises(FileError, match="must become safetensors alone"):
        dougong.import_weights(tmp_path / "a.pt", tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Weights of torchvision, told by their names and shapes

WEIGHTS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet, basic": ("timm_resnet", {"name": "resnet", "depths": [1, 2], "widths": [8, 12]}),
    "resnet, bottleneck": (
        "timm_resnet",
        {"name": "resnet", "block": "bottleneck", "depths": [2, 1], "widths": [4, 6], "stem_dim": 8},
    ),
    "vgg": (
        "torchvision_vgg",
        {"name": "vgg", "depths": [1, 2], "widths": [4, 6], "pooled": 3, "hidden_dim": 10},
    ),
    "vgg, normed": (
        "torchvision_vgg",
        {"name": "vgg", "depths": [2, 1], "widths": [4, 6], "norm": "batch", "pooled": 2, "hidden_dim": 12},
    ),
}


def torchvision_file(kind: str, path: Path) -> nn.Module:
    """Writes a file of torch.save as torchvision's are: their names alone; returns our model of the same values."""
    dialect, values = WEIGHTS[kind]
    config: Any = validate(find_part("models", values["name"]).PART, {**values, "num_classes": 5})
    model = config.filled().build()
    model.init_weights(0)
    for tensor in model.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    tensors = model.state_dict()
    layout = find_part("checkpoint.convert", dialect).layout(model.config.model_dump(mode="json"), tensors)
    state = OrderedDict((layout[name][0].name, tensor) for name, tensor in tensors.items())
    counters = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    torch.save(state | {name + "num_batches_tracked": torch.tensor(3) for name in counters}, path)
    return model.eval()


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_of_torchvision_become_a_folder_that_answers(kind: str, tmp_path: Path) -> None:
    wanted = torchvision_file(kind, tmp_path / "theirs.pth")
    assert run_guarded(app, ["import", str(tmp_path / "theirs.pth"), "--to", str(tmp_path / "new")]) == 0
    model = load_model(tmp_path / "new").eval()
    images = torch.randn(2, 3, 40, 48)
    assert torch.equal(model(images), wanted(images))
    assert model.config.image_shape == (3, 224, 224)
    (tmp_path / "photo.png").write_bytes(encoded(gradient(80, 60)))
    [answer] = dougong.predict(tmp_path / "new", tmp_path / "photo.png")
    assert answer["label"] in range(5)
    said = json.loads((tmp_path / "new" / "preprocessor_config.json").read_text())
    assert (said["size"], said["crop_size"]) == ({"shortest_edge": 256}, {"height": 224, "width": 224})


@pytest.mark.parametrize("kind", [kind for kind in WEIGHTS if kind.startswith("resnet")])
def test_a_resnet_of_torchvision_opens_in_transformers(kind: str, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    wanted = torchvision_file(kind, tmp_path / "theirs.pth")
    dougong.import_weights(tmp_path / "theirs.pth", tmp_path / "new")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "new").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "new")
    images = torch.randn(2, 3, 40, 48)
    torch.testing.assert_close(theirs(images).logits, wanted(images), atol=1e-5, rtol=1e-5)
    assert processor(gradient(80, 60), return_tensors="np")["pixel_values"].shape == (1, 3, 224, 224)


def test_names_of_classes_are_put_beside_weights_that_have_none(tmp_path: Path) -> None:
    torchvision_file("resnet, basic", tmp_path / "theirs.pth")
    dougong.import_weights(tmp_path / "theirs.pth", tmp_path / "new")
    (tmp_path / "new" / "labels.json").write_text('["a", "b", "c", "d", "e"]')
    with pytest.raises(FileError, match=r"labels\.json"):
        dougong.predict(tmp_path / "new", gradient(80, 60))
    (tmp_path / "new" / "manifest.json").unlink()
    assert dougong.predict(tmp_path / "new", gradient(80, 60))[0]["label"] in "abcde"


def test_what_only_looks_like_torchvision_s_is_left_as_it_is(tmp_path: Path) -> None:
    """The control: recognition is by all names and shapes, not by a few."""
    torchvision_file("resnet, basic", tmp_path / "theirs.pth")
    state = torch.load(tmp_path / "theirs.pth", weights_only=True)
    torch.save(state | {"layer1.0.extra.weight": torch.ones(2)}, tmp_path / "more.pth")
    said: list[str] = []
    with log.listening(said.append):
        done = dougong.import_weights(tmp_path / "more.pth", tmp_path / "more")
    assert any("1 is unknown (layer1.0.extra.weight)" in line for line in said)
    assert (done.opens, "config.json" in done.files) == (None, False)
    del state["fc.weight"]
    torch.save(state, tmp_path / "headless.pth")
    done = dougong.import_weights(tmp_path / "headless.pth", tmp_path / "new")
    assert (done.opens, done.tensors, "config.json" in done.files) == (None, len(state), False)
