"""When a state is saved and what is said of it. Saving in the background and resuming: `tests/faults`, rows 6 and 7."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.checkpoint.store import Store, load
from dougong.core.errors import NonFiniteError, UsageError
from dougong.train.checkpointer import Checkpointer, _Best, _Copies
from dougong.train.config import BestConfig
from dougong.train.loop import fit
from dougong.train.report import Recorder
from dougong.train.resume import Resume, permitted, resume_of
from dougong.train.state import State
from tests.train.small import Small, SmallBatches, config, equal, job, weights


def steps(folder: Path) -> list[int]:
    return Store(folder / "checkpoints").steps()


def test_a_state_is_saved_at_multiples_and_at_the_end_and_once_each(tmp_path: Path) -> None:
    fit(job(tmp_path, steps=7, checkpoint={"every": 3, "keep": 9}))
    assert steps(tmp_path) == [3, 6, 7]
    fit(job(tmp_path / "other", steps=6, checkpoint={"every": 3, "keep": 9}))
    assert steps(tmp_path / "other") == [3, 6]
    fit(job(tmp_path / "last", steps=6, checkpoint={"every": 0}))
    assert steps(tmp_path / "last") == [6]


def test_multiples_of_another_number_are_never_removed(tmp_path: Path) -> None:
    fit(job(tmp_path, steps=12, checkpoint={"every": 1, "keep_every": 4}))
    assert steps(tmp_path) == [4, 8, 11, 12]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"checkpoint": {"every": 4, "keep_every": 6}}, "must be a multiple of every"),
        ({"checkpoint": {"every": 0, "keep_every": 6}}, "must be a multiple of every"),
        ({"checkpoint": {"best": {}}, "evaluate": {"every": 0}}, "needs evaluations while training"),
    ],
)
def test_options_without_effect_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        config(**changes)


def test_two_equal_runs_leave_the_same_bytes(tmp_path: Path) -> None:
    content = []
    for name in ("one", "other"):
        fit(job(tmp_path / name, Small(), steps=4, optimizer={"name": "adamw", "lr": 0.01}))
        folder = Store(tmp_path / name / "checkpoints").newest()
        content.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert content[0] == content[1]


def test_a_checkpoint_says_where_and_how_it_was_computed(tmp_path: Path) -> None:
    fit(job(tmp_path, steps=2, microbatch_size=5))
    scalars = load(Store(tmp_path / "checkpoints").newest()).scalars
    assert scalars["decisions"] == {"precision": "fp32", "compile": False}
    assert scalars["environment"] == {
        **scalars["environment"],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": "cpu",
        "microbatch_size": 5,
    }


@contextlib.contextmanager
def opened(folder: Path, **options: Any) -> Iterator[tuple[State, Checkpointer, Recorder]]:
    """A state, its checkpointer and an open record, as the loop has them."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = config(**options)
    state = State.create(settings, Small())
    checkpointer = Checkpointer(settings, folder, Resume(), {})
    checkpointer.find()
    checkpointer.open(state)
    checkpointer.settle(state, False)
    with Recorder(folder, settings.steps, 1000, []) as recorder:
        yield state, checkpointer, recorder
        checkpointer.close()


def test_going_back_loads_the_newest_multiple_wherever_the_run_was_stopped(tmp_path: Path) -> None:
    at_five: dict[str, torch.Tensor] = {}
    with opened(tmp_path, steps=20, checkpoint={"every": 5}) as (state, checkpointer, recorder):
        for step in range(1, 9):
            state.step = step
            with torch.no_grad():
                next(iter(state.parameters.values())).add_(1)
            checkpointer.maybe_save(state, recorder)
            if step == 5:
                at_five = weights(state.model)
        checkpointer.save(state, recorder)  # as a signal does
        assert steps(tmp_path) == [5, 8]
        assert not equal(weights(state.model), at_five)
        assert checkpointer.rewind(state) == state.step == 5
        assert equal(weights(state.model), at_five)
        state.step = 4
        with pytest.raises(NonFiniteError, match="there must be a checkpoint to go back to, but none is saved yet"):
            checkpointer.rewind(state)


def test_what_is_gone_back_to_outlives_stops_in_between(tmp_path: Path) -> None:
    with opened(tmp_path, steps=20, checkpoint={"every": 5}) as (state, checkpointer, recorder):
        for step in (5, 6, 7, 8):
            state.step = step
            checkpointer.save(state, recorder)
    assert steps(tmp_path) == [5, 7, 8]


def test_copies_are_not_shared_with_the_state_and_reuse_their_memory() -> None:
    copies, one = _Copies(), torch.arange(3.0)
    first = copies.take({"model": {"w": one}})["model"]["w"]
    one.add_(1)
    assert first.tolist() == [0, 1, 2]
    second = copies.take({"model": {"w": one}})["model"]["w"]
    assert second.data_ptr() == first.data_ptr()
    assert second.tolist() == [1, 2, 3]
    wider = copies.take({"model": {"w": one.double(), "b": one.expand(2, 3).T}})["model"]
    assert wider["w"].dtype == torch.float64
    assert wider["b"].is_contiguous()


def observed(best: _Best, step: int, **figures: float) -> bool:
    state = State.create(config(), Small())
    state.step = state.evaluated = step
    state.last = figures
    return best.observe(state)


def test_the_best_is_the_lowest_or_the_highest_of_its_metric() -> None:
    lowest, highest = _Best(BestConfig()), _Best(BestConfig(metric="score", mode="highest"))
    found = [observed(lowest, step, loss=loss) for step, loss in enumerate([3.0, 2.0, 2.0, 4.0, 1.0], 1)]
    assert found == [True, True, False, False, True]
    assert lowest.state() == {"step": 5, "value": 1.0, "seen": 5}
    found = [observed(highest, step, score=score) for step, score in enumerate([3.0, 2.0, 4.0], 1)]
    assert found == [True, False, True]
    assert not observed(highest, 4, loss=1.0), "not finite this time, so not among the figures"
    assert not observed(_Best(None), 1, loss=1.0)
    again = _Best(BestConfig())
    again.load(lowest.state())
    assert not observed(again, 5, loss=0.0), "this evaluation is known already"
    assert not observed(again, 6, loss=1.0)


def test_the_best_is_forgotten_where_it_is_no_longer_asked_for(tmp_path: Path) -> None:
    options = {"steps": 6, "evaluate": {"every": 1}}
    fit(job(tmp_path, **options, checkpoint={"every": 2, "best": {}}))
    fit(job(tmp_path, resume=True, **{**options, "steps": 7}, checkpoint={"every": 2}))
    assert load(Store(tmp_path / "checkpoints").newest()).scalars["best_checkpoint"] is None


def test_true_resumes_with_nothing_allowed() -> None:
    assert resume_of(True) == Resume()
    assert resume_of(False) is None
    assert resume_of(None) is None
    assert resume_of(Resume(["a"])) == Resume(["a"])


def test_sections_can_be_allowed_whole() -> None:
    before = {"train": {"ema": None, "steps": 3}, "data": "this", "model": {"dim": 3, "bias": True}}
    now = {"train": {"ema": {"decay": 0.1}, "steps": 4}, "data": "other", "model": {"dim": 4, "bias": False}}
    changes = permitted(before, now, ["train.ema", "data", "model"])
    assert changes.free == {"train.steps": (3, 4)}
    assert list(changes.allowed) == ["train.ema", "data", "model.dim", "model.bias"]
    with pytest.raises(UsageError, match="differs in 2 of its fields") as caught:
        permitted(before, now, ["train.ema", "model.dim"])
    assert "--allow data --allow model.bias" in str(caught.value)


def test_a_save_that_is_due_waits_for_the_one_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_TESTING", "1")
    monkeypatch.setenv("DOUGONG_FAULT", "ckpt.fsync:1:sleep0.3")
    fit(job(tmp_path, Small(), steps=3, checkpoint={"every": 1, "keep": 9}, batches=SmallBatches()))
    assert steps(tmp_path) == [1, 2, 3]
