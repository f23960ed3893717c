"""Row 21: the memory is full while training or loading. Promise: what a step will take is printed before the first one;
when the memory is full the run ends with exit code 4, the step, that estimate and three things to turn, and the
checkpoints that were saved are whole.

The memory is limited for real in one test, and said to be full at a chosen step in the others.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dougong
from dougong.checkpoint.store import Store
from dougong.core.errors import ResourceError
from dougong.run import generation, memory
from dougong.run.memory import MemoryWatch
from tests.tiny import tiny_recipe, write_recipe

KNOBS = ("train.microbatch_size", "train.recompute=true", "data.seq_len")
LIMIT = 4 * 2**30  # bytes of address space: enough to start, not enough for the second step's scores


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def full_at_step_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_TESTING", "1")
    monkeypatch.setenv("DOUGONG_FAULT", "grad:3:memory")


def recipe(folder: Path) -> dict[str, Any]:
    return tiny_recipe(folder, train={"checkpoint": {"every": 2}, "samples": {"prompts": []}})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit the address space")
def test_a_memory_that_is_really_full_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    """The first step is small; the second holds all scores of attention, gigabytes of them."""
    write_recipe(
        tmp_path,
        model={"max_seq_len": 512, "num_heads": 16, "attention_dropout": 0.1},
        train={"batch_size": 300, "batch_ramp": {"start": 1, "steps": 1}, "checkpoint": {"every": 1}},
    )
    command = [sys.executable, "-m", "dougong", "train", str(tmp_path / "tiny.yaml"), "--run", str(tmp_path / "run")]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.rstrip().split("\n")
    plan = next(number for number, line in enumerate(lines) if line.startswith("plan: "))
    begun = next(number for number, line in enumerate(lines) if line.startswith("training "))
    estimate = re.search(r"[\d,]+ MB at the peak of a step", lines[plan])
    assert plan < begun
    assert estimate is not None
    assert any(line.startswith("dougong: warning: a step will take") for line in lines[:begun])
    assert lines[-1].startswith("dougong: error[E-MEMORY]: step 2: the memory must hold about " + estimate[0])
    assert all(knob in lines[-1] for knob in KNOBS)
    newest = Store(tmp_path / "run" / "checkpoints", 2).newest()
    assert newest is not None
    assert newest.name == "step-00000001"


@pytest.mark.usefixtures("full_at_step_3")
def test_the_step_is_named_and_the_run_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ResourceError, match="^step 3: the memory must hold about .* at the peak of a step") as caught:
        dougong.train(recipe(tmp_path), run=tmp_path / "run")
    assert (caught.value.exit_code, caught.value.name) == (4, "E-MEMORY")
    assert all(knob in str(caught.value) for knob in KNOBS)
    monkeypatch.delenv("DOUGONG_FAULT")
    resumed = dougong.train(tmp_path / "run", run=tmp_path / "run", resume=True)
    unbroken = dougong.train(recipe(tmp_path), run=tmp_path / "other")
    assert resumed.steps == unbroken.steps == 8
    last = "checkpoints/step-00000008"
    assert (
        content(tmp_path / "run" / last)["model.safetensors"] == content(tmp_path / "other" / last)["model.safetensors"]
    )


@pytest.mark.usefixtures("full_at_step_3")
def test_without_the_watch_the_bare_error_would_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryWatch, "__exit__", lambda *_: None)
    with pytest.raises(MemoryError):
        dougong.train(recipe(tmp_path), run=tmp_path / "run")


def loads(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(generation, "load_language_model", full)
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(bytes(3_000_000))
    dougong.load(folder)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] can't allocate memory: ..."),
    ],
    ids=["python", "torch"],
)
def test_a_model_that_does_not_fit_is_told_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with pytest.raises(ResourceError, match="whose weights have 3 MB on the disk, but is full") as caught:
        loads(tmp_path / "model", monkeypatch, error)
    assert (caught.value.exit_code, caught.value.name) == (4, "E-MEMORY")


def test_another_error_is_not_taken_for_a_full_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        loads(tmp_path / "model", monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_step_that_cannot_be_predicted_is_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unpredictable(*_: Any) -> Any:
        raise RuntimeError("this operation needs numbers")

    monkeypatch.setattr(memory, "step_memory", unpredictable)
    assert dougong.train(recipe(tmp_path), run=tmp_path / "run", steps=2).steps == 2
    told = capsys.readouterr().err
    assert "could not be predicted (RuntimeError: this operation needs numbers)" in told
    assert "MB of weights, gradients and optimizer state, and activations on top" in told
