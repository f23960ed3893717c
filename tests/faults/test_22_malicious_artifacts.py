"""Row 22: a malicious artifact: pickles as weights, optimizer, side files, tokenizer, arrays, under any name, in any
archive. Promise: nothing in them is executed and no unsafe way is tried; exit 3 (2 for a recipe). dougong's own formats
hold no pickle; `dougong import` opens foreign weights as weights alone, in isolation, and writes safetensors.
"""

from __future__ import annotations

import io
import json
import pickle
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dougong
from dougong.checkpoint import store, unpickle
from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.core import isolation, log
from dougong.core.errors import DougongError, FileError, UntrustedError
from dougong.run import importing
from tests.faults import hostile
from tests.faults.hostile import Call, Touch, sang, saved
from tests.tiny import tiny_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.sound_run(tmp_path_factory.mktemp("sound"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, where the canary would sing, whoever opens the pickle and wherever that one works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hostile, "CANARY", str(tmp_path / "CANARY"))
    return tmp_path


def told(*words: str | Path) -> int:
    """Runs the command line here and returns the exit code."""
    with log.listening(lambda text: None):
        return run_guarded(app, [str(word) for word in words])


# Files that hold weights, or say so: each is one payload for `dougong import`.

GOOD = hostile.weights()
ARCHIVES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "weights": ("pytorch_model.bin", lambda: saved(Touch())),
    "weights of old": ("model.pt", lambda: saved({"a": Touch()}, zipped=False)),
    "inside a good state": ("last.ckpt", lambda: saved({"state_dict": {**GOOD, "x": [{"y": Touch()}]}, "epoch": 3})),
    "storage that opens another": ("nested.pth", lambda: saved(
        {**GOOD, "x": Call(torch.storage._load_from_bytes, saved(Touch()))})),
    "a second pickle": ("two.pt", hostile.with_second_pickle),
    "getattr": ("getattr.pt", lambda: saved({**GOOD, "x": hostile.by_getattr()})),
    "tar": ("old.pt", hostile.legacy_tar),
    "plain pickle": ("plain.pkl", lambda: pickle.dumps(Touch(), protocol=2)),
    "renamed": ("model.safetensors", lambda: saved(Touch())),
    "npz": ("weights.npz", hostile.arrays),
    "npy": ("weights.npy", hostile.array),
}  # fmt: skip


def refusal(file: Path) -> DougongError | None:
    """Tries to import a file, and returns what came of it."""
    try:
        dougong.import_weights(file, file.with_suffix(".new"))
    except DougongError as error:
        return error
    return None


def test_import_refuses_every_payload_and_executes_nothing(here: Path) -> None:
    paths = {name: here / name / file for name, (file, _) in ARCHIVES.items()}
    for name, path in paths.items():
        path.parent.mkdir()
        path.write_bytes(ARCHIVES[name][1]())
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(paths, pool.map(refusal, paths.values()), strict=True))
    assert {name: error.exit_code if error else None for name, error in found.items()} == dict.fromkeys(ARCHIVES, 3)
    named = {name for name, error in found.items() if isinstance(error, UntrustedError)}
    assert named >= {"weights", "weights of old", "inside a good state", "storage that opens another", "getattr"}
    assert "asks for torch.storage._load_from_bytes" in str(found["storage that opens another"])
    assert "asks for getattr" in str(found["getattr"])
    assert not sang(here)
    assert sorted(path for path in here.rglob("*") if path.is_file()) == sorted(paths.values())


def test_the_command_line_names_what_the_pickle_asks_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a.bin").write_bytes(saved({**GOOD, "x": Touch()}))
    assert told("import", here / "a.bin", "--to", here / "new") == 3
    assert "error[E-UNTRUSTED]" in (err := capsys.readouterr().err)
    assert "asks for posix.system" in err
    assert not sang(here)


# Folders in which something is a pickle, and every way that reads them.


def train_from(folder: Path) -> int:
    recipe = tiny_recipe(folder.parent) | {"init_from": str(folder)}
    del recipe["model"]
    return told("train", json.dumps(recipe), "--run", folder.parent / "new")


def train_with_tokenizer(path: Path) -> int:
    recipe = tiny_recipe(path.parent)
    recipe["data"] |= {"tokenizer": {"name": "file", "path": str(path)}}
    return told("train", json.dumps(recipe), "--run", path.parent / "new")


IN_MODELS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "weights": ("pytorch_model.bin", lambda: saved(Touch())),
    "renamed weights": ("model.safetensors", lambda: saved(Touch())),
    "renamed plain pickle": ("model.safetensors", lambda: pickle.dumps(Touch(), protocol=0)),
    "config": ("config.json", lambda: pickle.dumps(Touch())),
    "tokenizer": ("tokenizer.json", lambda: pickle.dumps(Touch())),
    "settings of the tokenizer": ("tokenizer_config.json", lambda: pickle.dumps(Touch(), protocol=0)),
    "index": ("model.safetensors.index.json", lambda: pickle.dumps(Touch())),
}


@pytest.mark.parametrize("name", IN_MODELS)
def test_a_model_folder_with_a_pickle_is_refused_on_every_way(name: str, here: Path) -> None:
    file, content = IN_MODELS[name]
    folder = hostile.sound_model(here / "model")
    if file in ("pytorch_model.bin", "model.safetensors.index.json"):
        (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(content())
    ways = [told("generate", folder, "a")]
    if "token" in file:
        ways.append(train_with_tokenizer(folder))
    else:
        ways.append(train_from(folder))
    assert ways == [3, 3]
    with pytest.raises(FileError):
        dougong.load(folder)
    assert not sang(here)


IN_CHECKPOINTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "side file": ("rng.pt", lambda: saved(Touch())),
    "metadata": (".metadata", lambda: pickle.dumps(Touch())),
    "optimizer": ("optimizer.safetensors", lambda: saved(Touch())),
    "state": ("state.json", lambda: pickle.dumps(Touch(), protocol=0)),
    "manifest": ("manifest.json", lambda: pickle.dumps(Touch())),
}


def forged(checkpoint: Path) -> None:
    """Writes a manifest that is right about every file, as somebody who knows the format would."""
    from dougong.checkpoint import seal

    manifest = checkpoint / "manifest.json"
    manifest.unlink()
    try:
        seal.seal(checkpoint)
    except DougongError:  # it cannot be sealed, as it is no safetensors file; then it is refused for lack of a seal
        manifest.write_text("{}")


@pytest.mark.parametrize("name", IN_CHECKPOINTS)
def test_a_checkpoint_with_a_pickle_is_refused_on_every_way(name: str, run: Path, here: Path) -> None:
    file, content = IN_CHECKPOINTS[name]
    mine = hostile.copied(run, here / "run")
    checkpoint = mine / "checkpoints/step-00000008"
    (checkpoint / file).write_bytes(content())
    if file != "manifest.json":
        forged(checkpoint)
    only_read_to_load = name in ("optimizer", "state")  # which verify compares with the seal, byte for byte
    assert told("checkpoint", "verify", mine) == (0 if only_read_to_load else 3)
    assert told("train", mine, "--resume", "--set", "train.steps=9") == 3
    with pytest.raises(FileError):
        store.load(checkpoint)
    assert not sang(here)


def test_a_run_whose_model_is_a_pickle_is_not_used(run: Path, here: Path) -> None:
    mine = hostile.copied(run, here / "run")
    (mine / "model/manifest.json").unlink(missing_ok=True)
    (mine / "model/model.safetensors").write_bytes(saved(Touch()))
    assert [told("evaluate", mine), told("generate", mine, "a"), told("checkpoint", "verify", mine)] == [3, 3, 3]
    assert not sang(here)


def test_a_recipe_that_asks_for_objects_is_refused_on_every_way(run: Path, here: Path) -> None:
    mine = hostile.copied(run, here / "run")
    recipe = (mine / "recipe.yaml").read_text(encoding="utf-8")
    for tag in ("!!python/object/apply:os.system", "!!python/object/new:os.system"):
        (mine / "recipe.yaml").write_text(f"{recipe}\nextra: {tag} ['touch CANARY']\n", encoding="utf-8")
        assert [told(verb, mine) for verb in ("evaluate", "recipe", "train")] == [2, 2, 2]
        assert told("train", mine, "--resume") == 2
    assert not sang(here)


def test_a_plan_or_a_log_that_is_a_pickle_is_not_opened_as_one(run: Path, here: Path) -> None:
    mine = hostile.copied(run, here / "run")
    (mine / "plan.json").write_bytes(pickle.dumps(Touch()))
    assert told("evaluate", mine) == 3
    (mine / "run.jsonl").write_bytes(pickle.dumps(Touch()))
    assert told("train", mine, "--resume", "--set", "train.steps=9") != 1
    assert not sang(here)


# Without the protection


def test_without_protection_every_payload_touches_the_canary(here: Path) -> None:
    for name, (_, content) in {**ARCHIVES, **IN_MODELS, **IN_CHECKPOINTS}.items():
        opened_carelessly(content())
        assert sang(here), name


def opened_carelessly(raw: bytes) -> None:
    """Opens it with the first reader of pickles that takes it."""
    readers: list[Callable[[], Any]] = [
        lambda: np.load(io.BytesIO(raw), allow_pickle=True)["weight"],
        lambda: np.load(io.BytesIO(raw), allow_pickle=True),
        lambda: second_pickle(raw),
        lambda: torch.load(io.BytesIO(raw), weights_only=False),
        lambda: pickle.loads(raw),
        lambda: tar_pickle(raw),
    ]
    for reader in readers:
        try:
            reader()
        except Exception:
            continue
        if Path(hostile.CANARY).exists():
            return


def second_pickle(raw: bytes) -> None:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        pickle.loads(archive.read(names[1]))


def tar_pickle(raw: bytes) -> None:
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        file = archive.extractfile("pickle")
        assert file is not None
        pickle.load(file)


LAYERS = {
    "the unpickler for weights": ("weights_only=True", "weights_only=False"),
    "the audit hook": ("watch(source.fileno())", "pass"),
}


def weakened(folder: Path, *layers: str) -> Path:
    """Writes the module of the isolated process with some of its layers taken away."""
    text = Path(unpickle.__file__).read_text(encoding="utf-8")
    for layer in layers:
        assert LAYERS[layer][0] in text
        text = text.replace(*LAYERS[layer])
    (folder / "weak.py").write_text(text, encoding="utf-8")
    return folder / "weak.py"


@pytest.mark.parametrize(
    ("layers", "walls", "sings"),
    [
        (["the unpickler for weights"], False, False),
        (["the audit hook"], False, False),
        (["the unpickler for weights", "the audit hook"], True, False),
        (["the unpickler for weights", "the audit hook"], False, True),
    ],
    ids=["hook alone", "unpickler alone", "walls alone", "nothing"],
)
def test_without_all_three_layers_and_only_then_the_canary_sings(
    layers: list[str], walls: bool, sings: bool, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "weak").mkdir()
    (here / "a.pt").write_bytes(saved({**GOOD, "x": Touch()}))
    program = weakened(here / "weak", *layers)
    command, readable, environment = isolation.python("unused")
    place = command.index("-m")

    def started(module: str, request: str) -> tuple[list[str], list[Path], dict[str, str]]:
        return [*command[:place], str(program), request], [*readable, here / "weak"], environment

    def unprotected(words: list[str], **_: Any) -> isolation.Outcome:
        done = subprocess.run(words, env=environment, capture_output=True, check=False)
        return isolation.Outcome(done.returncode, done.stdout, done.stderr, frozenset())

    monkeypatch.setattr(isolation, "python", started)
    if not walls:
        monkeypatch.setattr(isolation, "isolated", unprotected)
    try:
        importing.import_weights(here / "a.pt", here / "new")
    except FileError:
        assert not sings
    assert sang(here) == sings


def test_without_the_check_a_sealed_side_file_would_be_accepted(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = hostile.copied(run, here / "run")
    (mine / "checkpoints/step-00000008/rng.pt").write_bytes(saved(Touch()))
    forged(mine / "checkpoints/step-00000008")
    assert told("checkpoint", "verify", mine) == 3
    monkeypatch.setattr("dougong.core.files.PICKLES", ())
    assert told("checkpoint", "verify", mine) == 0
    assert not sang(here)
