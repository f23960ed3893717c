from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.checkpoint.store import Store, load
from dougong.core.contracts import Batch
from dougong.core.errors import NonFiniteError, Preempted
from dougong.train.loop import fit
from dougong.train.report import Report, read_run
from dougong.train.rewind import Rewinder
from dougong.train.state import State
from tests.train.small import Small, SmallBatches, config, equal, job, validation, weights
from tests.train.test_loop import RICH, same_state

BACK: dict[str, Any] = {**RICH, "on_nonfinite": "rewind", "batches": SmallBatches(poison=7)}


def ended(folder: Path) -> dict[str, Any]:
    last = load(Store(folder / "checkpoints").newest())
    return {"tensors": last.tensors, "scalars": {k: v for k, v in last.scalars.items() if k != "environment"}}


def rewinds(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in event.items() if name != "time"}
        for event in read_run(folder)[1]
        if event["event"] == "rewind"
    ]


RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)).map(lambda pair: (pair[0], sum(pair))), max_size=5)


@settings(deadline=None)
@given(RANGES)
def test_the_batches_asked_for_are_all_but_those_passed_over_in_order(ranges: list[tuple[int, int]]) -> None:
    state = State.create(config(), Small())
    for first, last in ranges:
        state.pass_over(first, last)
    left_out = {number for first, last in ranges for number in range(first, last + 1)}
    asked = []
    for state.step in range(40):
        asked.append(state.batch_number)
    assert asked == [number for number in range(100) if number not in left_out][:40]
    assert state.passed_over == sorted(state.passed_over)
    assert all(a[1] + 1 < b[0] for a, b in zip(state.passed_over, state.passed_over[1:], strict=False))


def test_batches_that_are_already_in_the_weights_are_not_passed_over() -> None:
    state = State.create(config(), Small())
    state.step = 10
    state.pass_over(5, 14)
    assert state.passed_over == [(10, 14)]
    assert state.batch_number == 15


def test_going_back_passes_the_bad_batch_over_and_takes_all_others_in_order(tmp_path: Path) -> None:
    seen: list[Report] = []
    fit(job(tmp_path, Small(dropout=0.2), observers=[seen.append], **BACK))
    assert [report.step for report in seen] == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12]
    steps, _ = read_run(tmp_path)
    numbers = [first // 12 for step in steps for first, _ in step["samples"]]
    assert numbers == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert rewinds(tmp_path) == [
        {
            "event": "rewind", "step": 8, "to": 6, "passed_over": [[7, 7]], "cause": "nonfinite",
            "reason": "step 8: every number must be finite, but the loss is not (samples 84 to 95). "
            "The first bad tensor: the field y of the batch is not finite.",
        }
    ]  # fmt: skip


def test_what_is_learnt_is_kept_and_all_else_is_of_the_steps_done_again(tmp_path: Path) -> None:
    states: list[dict[str, Any]] = []

    class Look:
        def maybe_run(self, state: State, report: Report) -> None:
            states.append({name: value for name, value in state.scalars().items() if name != "last"})

    options = {**BACK, "batches": SmallBatches(poison=(7, 10)), "spike": {"window": 20}}
    fit(job(tmp_path, Small(dropout=0.2), attachments=[Look()], **options))
    before, after = ([s for s in states if s["step"] == 7][place] for place in (0, 1))
    assert (before.pop("passed_over"), before.pop("rewinds")) == ([], {})
    assert (after.pop("passed_over"), after.pop("rewinds")) == ([[7, 7]], {"nonfinite": 1})
    assert before == after
    assert (states[-1]["passed_over"], states[-1]["rewinds"]) == ([[7, 7], [10, 10]], {"nonfinite": 2})


@pytest.mark.parametrize("forgotten", ["passed_over", "rewinds"])
def test_without_either_the_same_batch_would_be_met_again_and_again(
    tmp_path: Path, forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Rewinder.after_nonfinite, []

    def forgetful(self: Rewinder, state: State, *rest: Any) -> None:
        calls.append(state.step)
        if len(calls) == 30:
            raise KeyboardInterrupt
        original(self, state, *rest)
        setattr(state, forgotten, type(getattr(state, forgotten))())

    monkeypatch.setattr(Rewinder, "after_nonfinite", forgetful)
    poison = 7 if forgotten == "passed_over" else range(7, 99)
    with pytest.raises(NonFiniteError if forgotten == "passed_over" else KeyboardInterrupt):
        fit(job(tmp_path, **{**BACK, "batches": SmallBatches(poison=poison)}))
    assert len(calls) == (11 if forgotten == "passed_over" else 30)


def test_with_nothing_to_go_back_to_the_run_ends(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="must be a checkpoint to go back to, but none is saved yet") as caught:
        fit(job(tmp_path, **{**BACK, "batches": SmallBatches(poison=1)}))
    assert caught.value.exit_code == 5


class Signals(SmallBatches):
    """Asks the run to stop, at each of some batches, the first time that it is asked for."""

    def __init__(self, poison: int, at: tuple[int, ...]):
        super().__init__(poison=poison)
        self.left = list(at)

    def __getitem__(self, number: int) -> Batch:
        if self.left and number == self.left[0]:
            self.left.pop(0)
            signal.raise_signal(signal.SIGTERM)
        return super().__getitem__(number)


@pytest.mark.parametrize("stops", [(4,), (6,), (8,), (6, 8), (6, 6, 8), (5, 5)])
def test_where_a_run_was_stopped_does_not_change_where_it_goes_back_to(tmp_path: Path, stops: tuple[int, ...]) -> None:
    """Before going back, after, before and after, and twice at one step: the end is that of the unbroken run."""
    options = {**BACK, "checkpoint": {"every": 4, "keep": 2}}
    fit(job(tmp_path / "unbroken", Small(dropout=0.2), **options))
    for stop in stops:
        with pytest.raises(Preempted):
            fit(
                job(tmp_path / "broken", Small(dropout=0.2), resume=True, **{**options, "batches": Signals(7, (stop,))})
            )
    model = Small(dropout=0.2)
    fit(job(tmp_path / "broken", model, resume=True, **options))
    assert same_state(ended(tmp_path / "unbroken"), ended(tmp_path / "broken"))
    assert rewinds(tmp_path / "unbroken")[-1] == rewinds(tmp_path / "broken")[-1]


def test_an_evaluation_cut_short_is_made_up_for_after_going_back_as_well(tmp_path: Path) -> None:
    """The checkpoint gone back to was saved on a signal, within its evaluation: an unbroken run has it done by then."""
    options = {**BACK, "batches": SmallBatches(poison=7)}
    unbroken, broken = Small(dropout=0.2), Small(dropout=0.2)
    fit(job(tmp_path / "unbroken", unbroken, **options))
    calls = []

    def interrupted() -> Any:
        calls.append(1)
        for number, batch in enumerate(validation()):
            if len(calls) == 3 and number == 0:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with pytest.raises(Preempted, match="step 6"):
        fit(job(tmp_path / "broken", Small(dropout=0.2), validation=interrupted, **options))
    fit(job(tmp_path / "broken", broken, resume=True, **options))
    assert equal(weights(unbroken), weights(broken))
    assert same_state(ended(tmp_path / "unbroken"), ended(tmp_path / "broken"))
