from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dougong.checkpoint.store import Store, load
from dougong.core import log
from dougong.core.contracts import Batch
from dougong.core.errors import FileError, NonFiniteError, Preempted, ResourceError, UsageError
from dougong.train import loop
from dougong.train.loop import fit
from dougong.train.report import Report, read_run
from dougong.train.state import State
from tests.train.small import Small, SmallBatches, equal, job, validation, weights

# Everything that has a state: momentum, a plateau, an average, early stopping, dropout.
RICH: dict[str, Any] = {
    "steps": 12,
    "optimizer": {"name": "adamw", "lr": 0.05},
    "schedule": {"name": "plateau", "patience": 0, "rate": 0.7, "warmup_steps": 2},
    "ema": {"decay": 0.8},
    "early_stopping": {"patience": 9},
    "evaluate": {"every": 2},
    "checkpoint": {"every": 3},
    "microbatch_size": 5,
}


class StopAt:
    """Raises once so many steps are done, as a crash does."""

    def __init__(self, step: int):
        self.step = step

    def __call__(self, report: Report) -> None:
        if report.step == self.step:
            raise KeyboardInterrupt


def finish(folder: Path, model: Small | None = None, **options: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Runs to the end; returns the final weights and every tensor and scalar of the last checkpoint."""
    model = model or Small(dropout=0.2)
    fit(job(folder, model, **options))
    last = load(Store(folder / "checkpoints").newest())
    return weights(model), {"tensors": last.tensors, "scalars": last.scalars}


def same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    groups = one["tensors"].keys() == other["tensors"].keys()
    tensors = all(equal(dict(one["tensors"][g]), dict(other["tensors"][g])) for g in one["tensors"])
    return groups and tensors and one["scalars"] == other["scalars"]


def test_training_lowers_the_loss_and_leaves_a_run_folder(tmp_path: Path) -> None:
    seen: list[Report] = []
    options = {"steps": 40, "optimizer": {"name": "adamw", "lr": 0.03}, "evaluate": {"every": 10}}
    outcome = fit(job(tmp_path, **options, checkpoint={"every": 15}, observers=[seen.append]))
    assert outcome.reason == "done"
    assert outcome.steps == len(seen) == 40
    assert outcome.last == seen[-1].evaluation
    assert outcome.best["loss"] <= min(r.evaluation["loss"] for r in seen if r.evaluation) + 1e-12
    assert sum(r.loss for r in seen[-10:]) < 0.9 * sum(r.loss for r in seen[:10])
    assert [r.step for r in seen if r.evaluation] == [10, 20, 30, 40]
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000030", "step-00000040"]
    steps, events = read_run(tmp_path)
    assert [step["samples"] for step in steps[:2]] == [[[0, 11]], [[12, 23]]]
    assert events[0]["event"] == "start"


@pytest.mark.parametrize("crash", [1, 4, 6, 11])
def test_a_resumed_run_equals_an_unbroken_run(tmp_path: Path, crash: int) -> None:
    unbroken, state = finish(tmp_path / "unbroken", **RICH)
    with pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path / "broken", Small(dropout=0.2), observers=[StopAt(crash)], **RICH))
    resumed, resumed_state = finish(tmp_path / "broken", resume=True, **RICH)
    assert equal(unbroken, resumed)
    assert same_state(state, resumed_state)
    read = [read_run(tmp_path / name)[0] for name in ("unbroken", "broken")]
    for name in ("step", "loss", "lr", "grad_norm", "samples", "evaluation"):
        assert [step.get(name) for step in read[0]] == [step.get(name) for step in read[1]]


FORGETTING = {
    "the optimizer": lambda tensors, scalars: tensors.update(optimizer={}),
    "the step": lambda tensors, scalars: scalars.update(step=5),
    "the schedule": lambda tensors, scalars: scalars["schedule"].update(scale=1.0),
    "the weights": lambda tensors, scalars: tensors["model"].update({"out.bias": torch.zeros(1)}),
    "the average": lambda tensors, scalars: tensors["average"].update({"out.bias": torch.zeros(1)}),
}


@pytest.mark.parametrize("part", list(FORGETTING))
def test_forgetting_any_part_of_the_state_would_show(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, state = finish(tmp_path / "unbroken", **RICH)
    with pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path / "broken", Small(dropout=0.2), observers=[StopAt(8)], **RICH))
    original = State.load

    def forgetful(self: State, tensors: Any, scalars: Any) -> None:
        tensors, scalars = {name: dict(group) for name, group in tensors.items()}, dict(scalars)
        FORGETTING[part](tensors, scalars)
        original(self, tensors, scalars)

    monkeypatch.setattr(State, "load", forgetful)
    _, resumed = finish(tmp_path / "broken", resume=True, **RICH)
    assert not same_state(state, resumed)


def test_early_stopping_remembers_over_a_crash(tmp_path: Path) -> None:
    options = {**RICH, "early_stopping": {"patience": 2, "min_delta": 9.0}, "steps": 30}
    unbroken = fit(job(tmp_path / "unbroken", Small(), **options))
    with pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path / "broken", Small(), observers=[StopAt(4)], **options))
    resumed = fit(job(tmp_path / "broken", Small(), resume=True, **options))
    assert (unbroken.reason, unbroken.steps) == (resumed.reason, resumed.steps) == ("early stopping", 6)
    again = fit(job(tmp_path / "broken", Small(), resume=True, **options))
    assert (again.reason, again.steps) == ("early stopping", 6)


def test_a_run_that_is_done_resumes_to_the_same_weights(tmp_path: Path) -> None:
    first, _ = finish(tmp_path, **RICH)
    again, _ = finish(tmp_path, resume=True, **RICH)
    assert equal(first, again)


def test_final_weights_are_the_best_then_the_averaged_then_the_last(tmp_path: Path) -> None:
    plain = {"steps": 12, "optimizer": {"name": "adamw", "lr": 0.05}}
    last, state = finish(tmp_path / "last", **plain)
    assert equal(last, dict(state["tensors"]["model"]))
    averaged, state = finish(tmp_path / "averaged", **plain, ema={"decay": 0.8})
    assert equal(averaged, dict(state["tensors"]["average"]))
    assert not equal(averaged, last)
    best, state = finish(tmp_path / "best", **plain, early_stopping={"patience": 12}, evaluate={"every": 1})
    assert equal(best, dict(state["tensors"]["best"]))


PROGRAM = """
import sys
from collections.abc import Iterator
from pathlib import Path
from dougong.core.errors import DougongError
from dougong.train.loop import fit
from tests.train.small import Small, job
from tests.train.test_loop import RICH
import time

def slow(report):
    print(report.step, flush=True)
    time.sleep(0.05)

options = {**RICH, "steps": int(sys.argv[2])}
try:
    fit(job(Path(sys.argv[1]), Small(dropout=0.2), resume=True, observers=[slow], **options))
except DougongError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@contextlib.contextmanager
def started(folder: Path, steps: int = 12, program: str = PROGRAM) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program, str(folder), str(steps)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        yield process


def wait_for(process: subprocess.Popen[str], step: int) -> None:
    for line in process.stdout:
        if int(line) == step:
            return
    raise AssertionError(process.stderr.read())


def test_a_killed_run_resumes_bit_by_bit(tmp_path: Path) -> None:
    with started(tmp_path / "broken") as process:
        wait_for(process, 8)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert load(Store(tmp_path / "broken/checkpoints").newest()).scalars["step"] == 6
    unbroken, state = finish(tmp_path / "unbroken", **RICH)
    resumed, resumed_state = finish(tmp_path / "broken", resume=True, **RICH)
    assert equal(unbroken, resumed)
    assert same_state(state, resumed_state)
    samples = [[step["samples"] for step in read_run(tmp_path / name)[0]] for name in ("unbroken", "broken")]
    assert samples[0] == samples[1]
    assert len(samples[0]) == 12


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(tmp_path: Path, number: signal.Signals) -> None:
    class Signalling(SmallBatches):
        def __getitem__(self, step: int) -> Batch:
            if step == 4:
                signal.raise_signal(number)
            return super().__getitem__(step)

    before = signal.getsignal(number)
    with pytest.raises(Preempted, match=rf"{number.name} asked .* saved at step 5") as caught:
        fit(job(tmp_path, batches=Signalling()))
    assert caught.value.exit_code == 75
    assert signal.getsignal(number) is before
    assert load(Store(tmp_path / "checkpoints").newest()).scalars["step"] == 5
    assert read_run(tmp_path)[0][-1]["step"] == 5


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    slow = PROGRAM.replace("time.sleep(0.05)", "time.sleep(0.05 if report.step < 4 else 60)")
    with started(tmp_path, 100, slow) as process:
        wait_for(process, 4)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == -signal.SIGTERM
    assert load(Store(tmp_path / "checkpoints").newest()).scalars["step"] == 3


def test_a_preempted_run_resumes_to_the_unbroken_one_even_within_an_evaluation(tmp_path: Path) -> None:
    unbroken, state = finish(tmp_path / "unbroken", **RICH)
    calls = []

    def interrupted() -> Any:
        calls.append(1)
        for number, batch in enumerate(validation()):
            if len(calls) == 3 and number == 0:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="SIGTERM .* step 6") as caught:
        fit(job(tmp_path / "broken", Small(dropout=0.2), validation=interrupted, **RICH))
    assert caught.value.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert load(Store(tmp_path / "broken/checkpoints").newest()).scalars["evaluated"] == 4
    resumed, resumed_state = finish(tmp_path / "broken", resume=True, **RICH)
    assert equal(unbroken, resumed)
    assert same_state(state, resumed_state)


def test_a_number_that_is_not_finite_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="step 8"):
        fit(job(tmp_path, batches=SmallBatches(poison=7), checkpoint={"every": 5}, steps=20))
    assert load(Store(tmp_path / "checkpoints").newest()).scalars["step"] == 5
    assert read_run(tmp_path)[0][-1]["step"] == 7


def test_a_validation_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="validation loss"):
        fit(job(tmp_path, validation=lambda: [SmallBatches(poison=3)[3]], evaluate={"every": 2}))


def test_a_disk_too_small_is_seen_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Report] = []
    monkeypatch.setattr("dougong.core.files.free_bytes", lambda path: 100)
    with pytest.raises(ResourceError, match="no checkpoint is saved yet"):
        fit(job(tmp_path, observers=[seen.append]))
    assert seen == []


def test_a_disk_that_fills_up_keeps_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(report: Report) -> None:
        if report.step == 5:
            monkeypatch.setattr("dougong.core.files.free_bytes", lambda path: 100)

    # Saved in the foreground: in the background, step 3 may not be on the disk yet when the disk is full.
    saving = {"every": 3, "asynchronous": False}
    with pytest.raises(ResourceError, match="step 3 is kept") as caught:
        fit(job(tmp_path, observers=[fill], **{**RICH, "checkpoint": saving}))
    assert caught.value.exit_code == 4
    assert load(Store(tmp_path / "checkpoints").newest()).scalars["step"] == 3


def test_a_folder_with_checkpoints_is_not_trained_over(tmp_path: Path) -> None:
    fit(job(tmp_path))
    with pytest.raises(UsageError, match="must be a new run folder, but holds step-00000008"):
        fit(job(tmp_path))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    fit(job(tmp_path))
    path = Store(tmp_path / "checkpoints").newest() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(FileError, match=r"model\.safetensors must have sha256"):
        fit(job(tmp_path, resume=True))


CHANGED = {
    "train.seed": {"seed": 3},
    "train.batch_size": {"batch_size": 4},
    "train.l2": {"l2": 0.1},
    "train.clip_norm": {"clip_norm": 1.0},
    "train.optimizer.name": {"optimizer": {"name": "adamw", "lr": 0.05}},
    "train.schedule.name": {"schedule": {"name": "cosine"}},
    "train.ema": {"ema": {}},
    "train.precision": {"precision": "bf16"},
    "data": {"identity": {"data": "other", "model": {"dim": 8}}},
    "model.dim": {"identity": {"data": "this", "model": {"dim": 16}}},
}
IDENTITY = {"data": "this", "model": {"dim": 8}}


@pytest.mark.parametrize("name", list(CHANGED))
def test_a_resumed_run_that_is_another_is_refused_by_name(tmp_path: Path, name: str) -> None:
    fit(job(tmp_path, steps=2, identity=IDENTITY))
    with pytest.raises(UsageError, match=rf"\n  {name}(\.\w+)*: was .*, is ") as caught:
        fit(job(tmp_path, resume=True, **{"steps": 2, "identity": IDENTITY, **CHANGED[name]}))
    assert caught.value.exit_code == 2


def test_steps_learning_rate_and_records_may_change_and_it_is_said(tmp_path: Path) -> None:
    fit(job(tmp_path, steps=2))
    said: list[str] = []
    with log.listening(said.append):
        changes = {"steps": 3, "optimizer": {"name": "sgd", "lr": 0.1}, "checkpoint": {"every": 1}, "resume": True}
        assert fit(job(tmp_path, **changes)).steps == 3
    assert "train.steps was 2 and is now 3" in said
    assert "train.optimizer.lr was 0.05 and is now 0.1" in said


def test_fewer_steps_than_are_done_are_refused(tmp_path: Path) -> None:
    fit(job(tmp_path, steps=4))
    with pytest.raises(UsageError, match=r"train\.steps must be at least the 4 steps that are done, but is 3"):
        fit(job(tmp_path, steps=3, resume=True))
    assert fit(job(tmp_path, steps=4, resume=True)).steps == 4


def test_a_model_of_other_shapes_is_refused(tmp_path: Path) -> None:
    fit(job(tmp_path))
    other = Small()
    other.out = torch.nn.Linear(8, 2)
    with pytest.raises(UsageError, match=r"out\.bias: float32\[1\] in the checkpoint, float32\[2\] here"):
        fit(job(tmp_path, other, resume=True))
    with pytest.raises(UsageError, match=r"float32\[8\] in the checkpoint, float64\[8\] here"):
        fit(job(tmp_path, Small().double(), resume=True))


def test_attachments_see_the_averaged_weights(tmp_path: Path) -> None:
    seen = []

    class Look:
        def maybe_run(self, state: State, report: Report) -> None:
            with state.shown():
                shown = weights(state.model)
            seen.append((report.step, equal(shown, dict(state.average.tensors)), equal(shown, weights(state.model))))

    fit(job(tmp_path, steps=2, ema={"decay": 0.5}, attachments=[Look()]))
    assert seen == [(1, True, False), (2, True, False)]


def test_batches_that_look_ahead_are_told_where_to_start(tmp_path: Path) -> None:
    told = []

    class Ahead(SmallBatches):
        def prefetching(self, start: int) -> Any:
            told.append(start)
            return contextlib.nullcontext()

    fit(job(tmp_path, steps=2, batches=Ahead()))
    fit(job(tmp_path, steps=3, batches=Ahead(), resume=True))
    assert told == [0, 2]


def test_the_share_of_the_peak_is_operations_over_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "matmul_peak", lambda device, dtype: 1e9)
    seen: list[Report] = []
    fit(job(tmp_path, steps=2, flops_per_sample=1e6, observers=[seen.append]))
    assert seen[0].mfu == pytest.approx(12 * 1e6 / seen[0].seconds / 1e9)
    assert seen[0].items_per_second == pytest.approx(seen[0].items / seen[0].seconds)
    assert 0 < seen[0].data_seconds < seen[0].seconds


def test_every_line_of_the_record_is_json_with_every_number(tmp_path: Path) -> None:
    fit(job(tmp_path, steps=2, evaluate={"every": 1}))
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    names = {field.name for field in dataclasses.fields(Report)} - {"mfu", "skipped", "reason"}
    assert all(names <= line.keys() for line in lines if "event" not in line)


def test_the_end_is_written_down_with_what_was_really_taken(tmp_path: Path) -> None:
    model = Small()
    fit(job(tmp_path, model, optimizer={"name": "sgd", "momentum": 0.9}))
    end = read_run(tmp_path)[1][-1]
    size = sum(4 * parameter.numel() for parameter in model.parameters())
    assert (end["event"], end["step"], end["reason"]) == ("end", 8, "done")
    assert end["weight_bytes"] == end["optimizer_bytes"] == size
    assert end["peak_memory_bytes"] > size
