"""Row 18: which checkpoints are removed. Promise: never the only good one and never the one just saved; at least two
stay; the order is that of the numbers, not of the names; what cannot be removed is a warning; folders that are not
checkpoints are left alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.checkpoint import store as stores
from dougong.checkpoint.store import Retention, Store, load
from dougong.core import log
from dougong.core.errors import ResourceError, UsageError
from dougong.run import prune_checkpoints, verify_checkpoints
from dougong.run.folder import claimed
from dougong.train.loop import fit
from tests.train.small import Small, job

TENSORS = {"model": {"w": torch.arange(12.0)}}


def saved(folder: Path, *steps: int, retention: Retention | int = 9, best: int | None = None) -> Store:
    store = Store(folder, retention)
    for step in steps:
        store.save(step, TENSORS, {"step": step}, best)
    return store


def damage(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")


def test_the_newest_stay_by_number_and_not_by_name(tmp_path: Path) -> None:
    store = saved(tmp_path, 9, 10, 99_999_999, 100_000_000, retention=2)
    assert store.steps() == [99_999_999, 100_000_000]
    assert store.newest().name == "step-100000000"
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "step-99999999", "by name it would be another"


def test_without_order_by_number_the_newest_would_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_name(self: Retention, steps: Any, best: int | None = None) -> dict[int, list[str]]:
        return {step: ["newest"] for step in sorted(steps, key=lambda step: f"step-{step:08d}")[-2:]}

    monkeypatch.setattr(Retention, "reasons", by_name)
    store = saved(tmp_path, 99_999_998, 99_999_999, 100_000_000, 100_000_001)
    assert store.steps()[:2] == [99_999_998, 99_999_999]
    assert 100_000_000 not in store.steps()


def test_foreign_folders_and_files_survive(tmp_path: Path) -> None:
    for name in ("step-mine", "step-1", "notes", ".step-mine", "damaged-step-00000001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    (tmp_path / "step-00000004").write_text("a file, not a folder")
    store = saved(tmp_path, 1, 2, 3, 5, 6, retention=2)
    store.clean()
    assert store.steps() == [5, 6]
    assert len(list(tmp_path.glob("*/thesis.txt"))) == 5
    assert (tmp_path / "step-00000004").read_text() == "a file, not a folder"


@pytest.mark.parametrize("fault", ["rename", "rmtree", "injected"])
def test_what_cannot_be_removed_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    store = saved(tmp_path, 1, 2)
    store.retention = Retention(2)

    def refuse(path: Path, *rest: object) -> None:
        if fault == "rmtree" or "partial" not in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        os.replace(path, *rest)

    if fault == "injected":
        monkeypatch.setenv("DOUGONG_TESTING", "1")
        monkeypatch.setenv("DOUGONG_FAULT", "ckpt.prune:3:eio")
    else:
        monkeypatch.setattr(stores.os if fault == "rename" else stores.shutil, fault, refuse)
    said: list[str] = []
    with log.listening(said.append):
        store.save(3, TENSORS, {"step": 3})
    monkeypatch.undo()
    assert "cannot be removed" in said[0]
    assert store.steps() == ([2, 3] if fault == "rmtree" else [1, 2, 3])
    assert load(store.newest()).scalars["step"] == 3


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that is ours, as a user whom permissions bind: root drops its own for the time of a test."""
    folder, user = Path(tempfile.mkdtemp()), os.geteuid()
    if user == 0:
        try:
            os.chown(folder, 65534, 65534)
        except OSError:
            pytest.skip("this root may not give a folder to another user; the injected faults show the same")
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    for path in folder.iterdir():
        path.chmod(0o700)
    shutil.rmtree(folder)


def test_a_folder_that_is_write_protected_is_a_warning(as_nobody: Path) -> None:
    store = saved(as_nobody, 1, 2)
    store.retention = Retention(2)
    store.path(1).chmod(0o500)  # what is in it cannot be removed
    said: list[str] = []
    with log.listening(said.append):
        store.save(3, TENSORS, {"step": 3})
    assert "cannot be removed: Permission denied" in said[0]
    assert load(store.newest()).scalars["step"] == 3


def test_a_removal_that_is_cut_off_leaves_nothing_half_under_a_checkpoints_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved(tmp_path, 1, 2, 3)

    def half(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(stores.shutil, "rmtree", half)
    with pytest.raises(KeyboardInterrupt):
        store.remove(1)
    monkeypatch.undo()
    assert store.steps() == [2, 3]
    store.clean()
    assert len(list(tmp_path.iterdir())) == 2


def test_multiples_the_best_and_what_is_gone_back_to_stay(tmp_path: Path) -> None:
    store = saved(tmp_path, *range(5, 60, 5), retention=Retention(2, keep_every=20), best=35)
    assert store.steps() == [20, 35, 40, 50, 55]
    assert Retention(2, 20).reasons(store.steps(), 35) == {
        20: ["multiple of 20"],
        35: ["best"],
        40: ["multiple of 20"],
        50: ["newest"],
        55: ["newest"],
    }
    other = saved(tmp_path / "other", 10, 20, 21, 22, 23, retention=Retention(2, every=10))
    assert other.steps() == [20, 22, 23]
    assert other.retention.reasons(other.steps())[20] == ["to go back to"]


def test_the_one_just_saved_is_never_removed_whatever_has_a_higher_number(tmp_path: Path) -> None:
    store = saved(tmp_path, 30, 40, retention=2)
    for step in store.steps():
        damage(store.path(step))
    store.save(20, TENSORS, {"step": 20})
    assert store.steps() == [20, 30, 40]
    assert load(store.path(20)).scalars["step"] == 20


def test_a_failed_save_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = saved(tmp_path, 1, 2, retention=2)
    monkeypatch.setenv("DOUGONG_TESTING", "1")
    monkeypatch.setenv("DOUGONG_FAULT", "ckpt.commit:3:full")
    with pytest.raises(ResourceError, match="step 2 is kept"):
        store.save(3, TENSORS, {"step": 3})
    assert store.steps() == [1, 2]


def test_pruning_by_hand_keeps_the_only_good_one(tmp_path: Path) -> None:
    fit(job(tmp_path, steps=6, checkpoint={"every": 1, "keep": 6}))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    store = Store(tmp_path / "checkpoints")
    for step in (4, 5, 6):
        damage(store.path(step))
    assert prune_checkpoints(tmp_path, keep=2, dry_run=True) == [1, 2, 4]
    assert store.steps() == [1, 2, 3, 4, 5, 6]
    assert prune_checkpoints(tmp_path, keep=2) == [1, 2, 4]
    assert store.steps() == [3, 5, 6]
    assert load(store.path(3)).scalars["step"] == 3
    with pytest.raises(UsageError, match="--keep must be at least 1"):
        prune_checkpoints(tmp_path, keep=0)


RECIPE = """
model: {name: gpt, dim: 16, num_heads: 2}
task: {name: language_modeling}
data: {name: text, sources: [{name: python_library}], tokenizer: {name: bytes}}
train: {checkpoint: {every: 0}}
"""


def test_pruning_waits_for_nobody_and_never_touches_a_run_at_work(tmp_path: Path) -> None:
    fit(job(tmp_path, steps=3, checkpoint={"every": 1, "keep": 3}))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with claimed(tmp_path, resume=True), pytest.raises(UsageError, match=str(os.getpid())) as caught:
        prune_checkpoints(tmp_path, keep=1)
    assert caught.value.name == "E-LOCKED"
    assert prune_checkpoints(tmp_path, keep=1) == [1, 2]
    assert [Path(folder).name for folder in verify_checkpoints(tmp_path)] == ["step-00000003"]


def test_the_best_evaluation_is_saved_and_kept(tmp_path: Path) -> None:
    options = {"steps": 6, "evaluate": {"every": 1}, "checkpoint": {"every": 2, "best": {}}}
    fit(job(tmp_path, Small(), **options))
    store = Store(tmp_path / "checkpoints")
    record = load(store.newest()).scalars["best_checkpoint"]
    assert record["step"] == 3, "the loss is lowest there, and no checkpoint was due"
    assert store.steps() == [3, 4, 6]
    shutil.rmtree(store.path(6))
    fit(job(tmp_path, Small(), resume=True, **options))
    assert load(store.newest()).scalars["best_checkpoint"] == record
    with pytest.raises(UsageError, match="must be a figure of the evaluation, but is 'accuracy'. Known: loss."):
        fit(job(tmp_path / "other", Small(), **{**options, "checkpoint": {"best": {"metric": "accuracy"}}}))
