"""Row 11: NaN or infinity in a loss or a gradient, at any step, logged or not. Promise: the update is never made:
weights, averages and optimizer stay as they were; exit code 5 names the step, the samples and the first bad tensor
with its module, and the last checkpoint is untouched. `on_nonfinite: skip` and `rewind` are opt-in, counted, limited,
written down and reproducible, and a run killed after a rewind and resumed ends in the same weights.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dougong.checkpoint.store import Store, load
from dougong.core.contracts import Batch, Task
from dougong.core.errors import NonFiniteError
from dougong.train import loop
from dougong.train.loop import fit
from dougong.train.report import Report, read_run
from dougong.train.state import State
from dougong.train.step import optimizer_step
from tests.faults.small_run import dougong, newest, small_run, trace
from tests.tiny import write_recipe
from tests.train.small import Small, SmallBatches, config, job
from tests.train.test_loop import RICH, same_state

OPTIONS: dict[str, Any] = {**RICH, "checkpoint": {"every": 5}}
SPOILED = [(point, kind) for point in ("loss", "grad") for kind in ("nan", "inf")]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch):
    """Plans faults for the rest of the test."""

    def plan(fault: str) -> None:
        monkeypatch.setenv("DOUGONG_TESTING", "1")
        monkeypatch.setenv("DOUGONG_FAULT", fault)

    return plan


def bits(state: State) -> str:
    """A hash of every weight, average and moment."""
    digest = hashlib.sha256()
    for group, tensors in sorted(state.tensors().items()):
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{group}/{name}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def failing(monkeypatch: pytest.MonkeyPatch, folder: Path, **options: Any) -> tuple[list[str], NonFiniteError]:
    """The hash of the state before each step and after the one that failed, and its error."""
    hashes: list[str] = []

    def watched(state: State, batch: Batch, task: Task) -> Report:
        hashes.append(bits(state))
        try:
            return optimizer_step(state, batch, task)
        except NonFiniteError:
            hashes.append(bits(state))
            raise

    monkeypatch.setattr(loop, "optimizer_step", watched)
    with pytest.raises(NonFiniteError) as caught:
        fit(job(folder, Small(dropout=0.2), **{**OPTIONS, **options}))
    assert caught.value.exit_code == 5
    return hashes, caught.value


@pytest.mark.parametrize(("point", "kind"), SPOILED)
def test_nothing_changes_and_the_run_ends_naming_step_samples_tensor_and_module(
    tmp_path: Path, point: str, kind: str, planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(f"{point}:7:{kind}")
    hashes, error = failing(monkeypatch, tmp_path)
    assert len(hashes) == 8
    assert hashes[-1] == hashes[-2] != hashes[-3]
    what, tensor = {
        "loss": ("loss", "the loss: its sum is not finite, the output of every module is"),
        "grad": ("gradient", "the gradient of blocks.0.0.weight of blocks.0.0 (Linear) is not finite, the loss is"),
    }[point]
    assert str(error) == (
        f"step 7: every number must be finite, but the {what} is not (samples 72 to 83). "
        f"The first bad tensor: {tensor}. No weight was changed. "
        "Lower the learning rate, add clip_norm or warm-up, or look at these samples."
    )
    assert Store(tmp_path / "checkpoints").steps() == [5]
    assert load(Store(tmp_path / "checkpoints").path(5)).scalars["step"] == 5
    assert read_run(tmp_path)[0][-1]["step"] == 6


@pytest.mark.parametrize("every", [1, 1000])
def test_a_step_that_is_not_logged_is_looked_at_as_well(
    tmp_path: Path, every: int, planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned("grad:7:nan")
    hashes, error = failing(monkeypatch, tmp_path, log={"every": every, "trackers": []})
    assert hashes[-1] == hashes[-2]
    assert str(error).startswith("step 7: ")


def test_a_module_that_overflows_is_named(tmp_path: Path) -> None:
    class Doubling(torch.nn.Module):
        """Computes exp(x), which overflows above 88."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.exp()

    model = Small()
    model.blocks.append(torch.nn.Sequential(torch.nn.Linear(8, 8), Doubling()))
    batches = SmallBatches()
    huge = Batch({**batches[3].fields, "x": batches[3]["x"] * 1e4}, batches[3].samples)
    with torch.no_grad():
        model.blocks[2][0].weight.mul_(1e3)
    state = State.create(config(), model)
    with pytest.raises(NonFiniteError, match=r"blocks\.2\.1 \(Doubling\): its output is not finite, its input is"):
        optimizer_step(state, huge, job(tmp_path).task)


def test_a_learning_rate_of_1e20_ends_without_a_bad_checkpoint(tmp_path: Path) -> None:
    """Here finite gradients make weights that overflow: these are seen before they are saved."""
    for name in ("sgd", "adamw"):
        options = {"optimizer": {"name": name, "lr": 1e20}, "steps": 40, "checkpoint": {"every": 1}, "validation": None}
        with pytest.raises(NonFiniteError, match=r"^step \d+: every .* must be finite") as caught:
            fit(job(tmp_path / name, Small(), **options))
        assert caught.value.exit_code == 5
        store = Store(tmp_path / name / "checkpoints")
        for step in store.steps():
            tensors = load(store.path(step)).tensors["model"].values()
            assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def test_the_command_line_exits_with_5_and_one_sentence(tmp_path: Path) -> None:
    quick = {"samples": {"prompts": []}, "log": {"trackers": []}}
    found = dougong("train", write_recipe(tmp_path, train=quick), "--run", tmp_path / "run", fault="grad:7:nan")
    assert found.returncode == 5, found.stderr
    last = found.stderr.rstrip().split("\n")[-1]
    assert last.startswith("dougong: error[E-NONFINITE]: step 7: every number must be finite, but the gradient is not")
    assert "The first bad tensor: the gradient of " in last
    assert "Traceback" not in found.stderr
    assert newest(tmp_path / "run")["scalars"]["step"] == 4


def test_skipped_steps_are_counted_written_down_and_reproducible(tmp_path: Path, planned) -> None:
    planned("grad:3:nan,loss:8:inf")
    for name in ("one", "two"):
        fit(job(tmp_path / name, Small(dropout=0.2), **OPTIONS, on_nonfinite="skip"))
    assert trace(tmp_path / "one") == trace(tmp_path / "two")
    assert same_state(newest(tmp_path / "one"), newest(tmp_path / "two"))
    skipped = [step for step in read_run(tmp_path / "one")[0] if step.get("skipped")]
    assert [(step["step"], step["samples"]) for step in skipped] == [(3, [[24, 35]]), (8, [[84, 95]])]
    assert skipped[0]["reason"].startswith("step 3: every number must be finite, but the gradient is not")
    scalars = newest(tmp_path / "one")["scalars"]
    assert (scalars["skipped"], scalars["nonfinite"]) == (2, 2)
    with pytest.raises(NonFiniteError, match=r"step 8: .*\(1 such steps were allowed\)"):
        fit(job(tmp_path / "three", Small(dropout=0.2), **OPTIONS, on_nonfinite="skip", max_nonfinite=1))


def test_going_back_is_counted_written_down_and_reproducible_even_when_killed(tmp_path: Path, planned) -> None:
    back = {**OPTIONS, "on_nonfinite": "rewind"}
    fault = "grad:8:nan,loss:9:inf"
    planned(fault)
    for name in ("one", "two"):
        fit(job(tmp_path / name, Small(dropout=0.2), **back))
    # Killed when it has gone back once, and again when it has gone back twice.
    for kill in ("step:6", "step:8"):
        assert small_run(tmp_path / "killed", f"{fault},{kill}:kill", **back).returncode == -9
    fit(job(tmp_path / "killed", Small(dropout=0.2), resume=True, **back))
    for name in ("two", "killed"):
        assert same_state(newest(tmp_path / "one"), newest(tmp_path / name))
    assert trace(tmp_path / "one") == trace(tmp_path / "two")
    steps = [read_run(tmp_path / name)[0] for name in ("one", "killed")]
    assert [step["samples"] for step in steps[0]] == [step["samples"] for step in steps[1]]
    events = [event for event in read_run(tmp_path / "one")[1] if event["event"] == "rewind"]
    assert [(e["step"], e["to"], e["passed_over"]) for e in events] == [(8, 5, [[7, 7]]), (8, 5, [[8, 8]])]
    scalars = newest(tmp_path / "one")["scalars"]
    assert (scalars["rewinds"], scalars["passed_over"]) == ({"nonfinite": 2}, [[7, 8]])
    with pytest.raises(NonFiniteError, match=r"step 8: .* The run went back 1 times already") as caught:
        fit(job(tmp_path / "limited", Small(dropout=0.2), **back, max_nonfinite=1))
    assert caught.value.exit_code == 5


def test_an_overflow_of_fp16_is_none_of_these(tmp_path: Path, planned) -> None:
    planned("grad:9:inf")
    fit(job(tmp_path, Small(dropout=0.2), **{**OPTIONS, "precision": "fp16"}))
    scalars = newest(tmp_path)["scalars"]
    assert (scalars["nonfinite"], scalars["rewinds"]) == (0, {})
    assert scalars["scale"][0] == 2.0 ** (16 - scalars["skipped"])
    step = read_run(tmp_path)[0][8]
    assert step["skipped"]
    assert "reason" not in step


@pytest.mark.parametrize("point", ["loss", "grad"])
def test_without_the_check_the_weights_are_poisoned(
    tmp_path: Path, point: str, planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(f"{point}:7:nan")
    monkeypatch.setattr("dougong.train.step.math", SimpleNamespace(isfinite=lambda value: True))
    monkeypatch.setattr(loop, "require_finite_weights", lambda state: None)
    model = Small()
    fit(job(tmp_path, model, steps=8, validation=None, spike=None))
    assert not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_without_a_memory_of_what_was_passed_over_the_run_would_not_end_well(
    tmp_path: Path, planned, monkeypatch
) -> None:
    planned("grad:8:nan")
    monkeypatch.setattr(State, "pass_over", lambda self, first, last: None)
    with pytest.raises(NonFiniteError, match="went back 10 times already"):
        fit(job(tmp_path, Small(dropout=0.2), **OPTIONS, on_nonfinite="rewind"))
