"""The real loop, stopped and resumed, is compared to the bit; each thing that a checkpoint could lose is missed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dougong.check.resume import resume
from dougong.check.subject import Subject
from dougong.train.schedule import Schedule
from dougong.train.state import State

RICH = {
    "optimizer": {"name": "muon", "lr": 0.01},
    "schedule": {"name": "plateau", "warmup_steps": 2, "patience": 0, "min_delta": 100.0},
    "ema": {"decay": 0.9},
    "early_stopping": {"patience": 1},
    "microbatch_size": 2,
    "clip_norm": 0.5,
    "steps": 100,
}


def test_a_rich_recipe_resumes_to_the_bit(made: Callable[..., Subject]) -> None:
    subject = made(model={"dropout": 0.2}, data={"across_documents": False}, train=RICH)
    result = resume(subject)
    assert (result.verdict, result.detail) == ("passed", "")
    assert result.measured.startswith("0 of ")


def forgets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches off the loading of one thing."""
    if name == "schedule":
        monkeypatch.setattr(Schedule, "load", lambda self, state: None)
    else:
        monkeypatch.setattr("dougong.train.state.load_optimizer_tensors", lambda *args: None)


@pytest.mark.parametrize(("name", "found"), [("schedule", ""), ("optimizer", "optimizer ")])
def test_what_a_checkpoint_forgets_is_named(
    made: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch, name: str, found: str
) -> None:
    subject = made(train=RICH)
    forgets(name, monkeypatch)
    result = resume(subject)
    assert (result.verdict, result.exit_code) == ("failed", 1)
    assert found in result.detail
    assert "different at step 4 when the run was stopped after step 3" in result.detail


def test_a_run_that_begins_anew_instead_of_resuming_is_noticed(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(State, "load", lambda self, tensors, scalars: None)
    assert "must begin with step 3, but began with step 1" in resume(subject).detail


def test_the_global_generators_stand_as_before(subject: Subject) -> None:
    before = torch.get_rng_state()
    resume(subject)
    assert torch.equal(torch.get_rng_state(), before)
