from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from dougong.checkpoint import store as stores
from dougong.checkpoint.store import Store, checkpoint_bytes, load, verify
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


def test_a_checkpoint_holds_only_safetensors_and_json(tmp_path: Path) -> None:
    names = {path.suffix for path in saved(tmp_path).newest().iterdir()}
    assert names == {".safetensors", ".json"}


def test_the_newest_is_that_of_the_highest_number(tmp_path: Path) -> None:
    store = saved(tmp_path, 9, 100_000_000, 10)
    assert store.steps() == [9, 10, 100_000_000]
    assert store.newest().name == "step-100000000"


def test_only_the_oldest_are_removed_and_nothing_foreign(tmp_path: Path) -> None:
    (tmp_path / "step-mine").mkdir()
    (tmp_path / "notes").mkdir()
    store = saved(tmp_path, 8, 9, 10, 11, keep=2)
    assert store.steps() == [10, 11]
    assert {path.name for path in tmp_path.iterdir()} == {"step-mine", "notes", "step-00000010", "step-00000011"}


def test_a_checkpoint_that_cannot_be_removed_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = saved(tmp_path, 1, 2)

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(stores.shutil, "rmtree", refuse)
    said: list[str] = []
    store.keep = 2
    with log.listening(said.append):
        store.save(3, TENSORS, SCALARS)
    assert store.steps() == [1, 2, 3]
    assert "cannot be removed" in said[0]


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path).newest()
    everything = [path for path in sorted(folder.iterdir())]
    chooser = random.Random(0)
    for _ in range(100):
        path = chooser.choice(everything)
        whole = path.read_bytes()
        place = chooser.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chooser.randrange(8)]) + whole[place + 1 :])
        with pytest.raises(FileError) as caught:
            load(folder)
        assert path.name in str(caught.value) or "manifest" in str(caught.value)
        path.write_bytes(whole)
    load(folder)


def test_truncated_missing_and_extra_files_are_refused_and_passed_over(tmp_path: Path) -> None:
    store = saved(tmp_path, 10, 20)
    newest = store.path(20)
    names = [path.name for path in newest.iterdir()]
    for damage in [*names, "cut", "extra"]:
        shutil.copytree(newest, tmp_path / "copy")
        if damage == "extra":
            (newest / "more.safetensors").write_bytes(b"x")
        elif damage == "cut":
            (newest / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:-1])
        else:
            (newest / damage).unlink()
        said: list[str] = []
        with log.listening(said.append):
            assert store.newest() == store.path(10)
        assert "passed over" in said[0]
        with pytest.raises(FileError):
            load(newest)
        shutil.rmtree(newest)
        (tmp_path / "copy").rename(newest)
    assert store.newest() == newest


def test_without_hashes_a_flipped_bit_would_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path).newest()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(FileError, match="sha256"):
        verify(folder)
    monkeypatch.setattr(stores, "_fault_of_content", lambda folder: None)
    load(folder)


def test_a_manifest_cannot_name_files_outside(tmp_path: Path) -> None:
    folder = saved(tmp_path).newest()
    listed = {"../x": {"bytes": 1, "sha256": "0"}}
    (tmp_path / "x").write_bytes(b"x")
    files.write_json(folder / "manifest.json", {"files": listed, "sha256": stores._seal(listed)})
    with pytest.raises(FileError):
        load(folder)


def test_leftovers_of_cut_off_saves_are_removed(tmp_path: Path) -> None:
    store = saved(tmp_path)
    (tmp_path / ".step-00000030.partial-abc").mkdir()
    (tmp_path / ".mine").mkdir()
    store.clean()
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000020", ".mine"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
def test_a_failed_write_leaves_the_older_checkpoint_and_no_trace(
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
    assert caught.value.exit_code == 4
    assert caught.value.name == "E-DISK"
    assert "step 20 is kept" in str(caught.value)
    assert digest(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000020"]


def test_a_disk_without_space_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = saved(tmp_path)
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    with pytest.raises(ResourceError, match=r"needs 0\.1 MB .* 0\.0 MB are free; step 20 is kept"):
        store.save(30, TENSORS, SCALARS)


def test_the_size_foretold_is_not_too_small(tmp_path: Path) -> None:
    tensors = {"model": {f"layer.{i}": torch.zeros(1000) for i in range(50)}}
    folder = Store(tmp_path).save(1, tensors, {})
    real = sum(path.stat().st_size for path in folder.iterdir())
    assert real <= checkpoint_bytes(tensors) <= real + 100_000


FULL = """
import sys, torch
from pathlib import Path
from dougong.checkpoint.store import Store, load
from dougong.core import files
from dougong.core.errors import ResourceError
files.free_bytes = lambda path: 10**12   # so that the disk itself is what refuses
store = Store(Path(sys.argv[1]) / "checkpoints")
store.save(10, {"model": {"w": torch.ones(150_000)}}, {"step": 10})
before = (store.path(10) / "manifest.json").read_bytes()
try:
    store.save(20, {"model": {"w": torch.ones(450_000)}}, {"step": 20})
except ResourceError as error:
    print(error.exit_code, error.name)
load(store.path(10))
assert (store.path(10) / "manifest.json").read_bytes() == before
print([path.name for path in store.folder.iterdir()])
"""


def test_a_full_disk_keeps_the_older_checkpoint(tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=2m none "{tmp_path}" && exec "{sys.executable}" -c "$1" "{tmp_path}"'
    command = ["unshare", "-rm", "bash", "-c", script, "bash", FULL]
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["4 E-DISK", "['step-00000010']"], done.stderr


SAVING = """
import itertools, sys, torch
from pathlib import Path
from dougong.checkpoint.store import Store
store = Store(Path(sys.argv[1]), keep=2)
for step in itertools.count(int(sys.argv[2])):
    store.save(step, {"model": {"w": torch.full((200_000,), float(step))}}, {"step": step})
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_newest_checkpoint(tmp_path: Path) -> None:
    store, chooser, last = Store(tmp_path), random.Random(0), 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", SAVING, tmp_path, str(last + 1)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(chooser.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        reported = [int(line) for line in process.communicate()[0].split()]
        store.clean()
        checkpoint = load(store.newest())
        step = checkpoint.scalars["step"]
        assert step >= max([last + 1, *reported])
        assert (checkpoint.tensors["model"]["w"] == step).all()
        assert all(path.name.startswith("step-") for path in tmp_path.iterdir())
        last = step


def test_a_save_without_the_last_rename_would_be_torn(tmp_path: Path) -> None:
    # The control: the same files written in place, one by one, are not whole until the manifest is there.
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(
        saved(tmp_path / "other").newest().joinpath("model.safetensors").read_bytes()
    )
    said: list[str] = []
    with log.listening(said.append):
        assert Store(tmp_path).newest() is None
    assert "manifest.json must be there" in said[0]
