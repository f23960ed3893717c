"""Checkpoints as files. What becomes of them when saving is killed, the disk fills or bits flip: `tests/faults`."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from dougong.checkpoint import store as stores
from dougong.checkpoint.store import Store, checkpoint_bytes, load, read_scalars
from dougong.core import files, log
from dougong.core.errors import FileError, ResourceError

TENSORS = {
    "model": {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.tensor([1.5, -0.0])},
    "optimizer": {"step/a.weight": torch.tensor(7.0), "exp_avg/a.weight": torch.full((3, 4), 1e-30)},
    "average": {},
}
SCALARS = {"step": 20, "last": {"loss": 1.25}, "best": None, "text": "Brücke"}


def digest(folder: Path) -> str:
    """One hash of every file's name and content."""
    content = [(p.name, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def saved(folder: Path, *steps: int, keep: int = 9) -> Store:
    store = Store(folder, keep)
    for step in steps or (20,):
        store.save(step, TENSORS, {**SCALARS, "step": step})
    return store


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    checkpoint = load(saved(tmp_path).newest())
    assert checkpoint.scalars == SCALARS
    assert set(checkpoint.tensors) == {"model", "optimizer"}
    for group, named in checkpoint.tensors.items():
        assert named.keys() == TENSORS[group].keys()
        for name, tensor in named.items():
            assert tensor.numpy().tobytes() == TENSORS[group][name].numpy().tobytes()


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    assert digest(saved(tmp_path / "one").newest()) == digest(saved(tmp_path / "other").newest())


def test_a_checkpoint_holds_only_safetensors_and_json(tmp_path: Path) -> None:
    names = {path.suffix for path in saved(tmp_path).newest().iterdir()}
    assert names == {".safetensors", ".json"}


def test_the_newest_is_that_of_the_highest_number(tmp_path: Path) -> None:
    store = saved(tmp_path, 9, 100_000_000, 10)
    assert store.steps() == [9, 10, 100_000_000]
    assert store.newest().name == "step-100000000"
    assert Store(tmp_path / "nowhere").newest() is None
    assert Store(tmp_path / "nowhere").load_newest() is None


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = saved(tmp_path)
    store.save(20, {"model": {"b": torch.zeros(2)}}, {"step": 20})
    assert load(store.newest()).tensors["model"].keys() == {"b"}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000020"]


def test_a_replacement_that_fails_leaves_what_stood_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = saved(tmp_path)
    before, rename = digest(tmp_path), os.rename

    def fail(source: Path, target: Path) -> None:
        if ".partial-" in str(source) and not str(source).endswith(".old"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(files.os, "rename", fail)
    with pytest.raises(ResourceError):
        store.save(20, {"model": {"b": torch.zeros(2)}}, {"step": 20})
    assert digest(tmp_path) == before


def test_a_manifest_cannot_name_files_outside(tmp_path: Path) -> None:
    from dougong.checkpoint import seal

    folder = saved(tmp_path).newest()
    (tmp_path / "x").write_bytes(b"x")
    listed = {"../x": {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}}
    (folder / "manifest.json").write_text(seal._text(listed))
    with pytest.raises(FileError):
        load(folder)


def test_a_sealed_folder_without_a_state_is_refused(tmp_path: Path) -> None:
    from dougong.checkpoint.seal import seal

    folder = tmp_path / "step-00000001"
    folder.mkdir()
    seal(folder)
    with pytest.raises(FileError, match=r"state\.json must be there and hold a state"):
        load(folder)
    (folder / "state.json").write_text("[1]")
    with pytest.raises(FileError, match="must be there and hold a state"):
        read_scalars(folder)


def test_leftovers_of_cut_off_saves_are_removed(tmp_path: Path) -> None:
    store = saved(tmp_path)
    (tmp_path / ".step-00000030.partial-abc").mkdir()
    (tmp_path / ".mine").mkdir()
    store.clean()
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000020", ".mine"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
def test_what_the_library_says_of_a_failed_write_becomes_the_systems_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = saved(tmp_path)
    before = digest(tmp_path)

    def fail(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})")

    monkeypatch.setattr(stores, "save_file", fail)
    with pytest.raises(ResourceError) as caught:
        store.save(30, TENSORS, SCALARS)
    assert (caught.value.exit_code, caught.value.name) == (4, "E-DISK")
    assert os.strerror(code) in str(caught.value)
    assert "step 20 is kept" in str(caught.value)
    assert digest(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000020"]


def test_a_disk_without_space_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = saved(tmp_path)
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    with pytest.raises(ResourceError, match=r"need 0\.1 MB, but 0\.0 MB are free in .*; step 20 is kept"):
        store.save(30, TENSORS, SCALARS)


def test_the_size_foretold_is_not_too_small(tmp_path: Path) -> None:
    tensors = {"model": {f"layer.{i}": torch.zeros(1000) for i in range(50)}}
    folder = Store(tmp_path).save(1, tensors, {})
    real = sum(path.stat().st_size for path in folder.iterdir())
    assert real <= checkpoint_bytes(tensors) <= real + 100_000


def test_a_damaged_checkpoint_is_set_aside_under_a_name_of_its_own(tmp_path: Path) -> None:
    store = saved(tmp_path, 10)
    said: list[str] = []
    for _ in range(2):
        store.save(20, TENSORS, SCALARS)
        (store.path(20) / "state.json").write_text("{}")
        with log.listening(said.append):
            assert store.load_newest(fallback=True).scalars["step"] == 10
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"step-00000010", "damaged-step-00000020", "damaged-step-00000020-2"}
    assert store.steps() == [10]
    (store.path(10) / "state.json").write_text("{}")
    with pytest.raises(FileError, match=r"state\.json must have") as caught:
        store.load_newest(fallback=True)
    assert "--fallback" not in str(caught.value), "there is nothing to fall back to"
