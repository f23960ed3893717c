"""Every option of training changes something: each test of this file switches one on and names what it changed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.checkpoint.store import Store
from dougong.core import log
from dougong.core.config import Config, try_validate
from dougong.core.errors import NonFiniteError, UsageError
from dougong.train.config import TrainConfig
from dougong.train.interrupt import Interruption
from dougong.train.loop import batch_sizes, fit
from dougong.train.report import Report, read_run
from tests.train.small import Small, SmallBatches, config, equal, job, validation, weights
from tests.train.test_optim import FIELDS


def ran(folder: Path, **options: Any) -> tuple[dict[str, torch.Tensor], list[Report], list[str], Path]:
    """Weights, reports, words and folder of a run."""
    model, seen, said = Small(dropout=0.3), list[Report](), list[str]()
    with log.listening(said.append):
        fit(job(folder, model, **{"observers": [seen.append], **options}))
    return weights(model), seen, said, folder


CHANGES_THE_WEIGHTS: dict[str, Any] = {
    "seed": 5,
    "steps": 5,
    "optimizer": {"name": "adamw"},
    "schedule": {"name": "linear"},
    "frozen": ["norm.*"],
    "rates": [{"parameters": "out.*", "factor": 0.5}],
    "layer_decay": 0.5,
    "l2": 30.0,
    "clip_norm": 0.01,
    "ema": {"decay": 0.9},
    "ema.decay": {"decay": 0.1},
    "early_stopping": {"patience": 1, "min_delta": 9.0},
    "early_stopping.min_delta": {"patience": 1, "min_delta": 0.0},
    "precision": "bf16",
}
BASES: dict[str, dict[str, Any]] = {
    "ema.decay": {"ema": {"decay": 0.9}},
    "early_stopping.min_delta": {"early_stopping": {"patience": 1, "min_delta": 9.0}},
}


@pytest.mark.parametrize("field", list(CHANGES_THE_WEIGHTS))
def test_an_option_changes_the_final_weights(tmp_path: Path, field: str) -> None:
    base = {"evaluate": {"every": 1}, "optimizer": {"name": "sgd", "lr": 0.1}, **BASES.get(field, {})}
    plain = ran(tmp_path / "plain", **base)[0]
    assert equal(plain, ran(tmp_path / "again", **base)[0])
    changed = {**base, field.partition(".")[0]: CHANGES_THE_WEIGHTS[field]}
    assert not equal(plain, ran(tmp_path / "changed", **changed)[0])


SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"warmup_steps": 3},
    "linear": {"warmup_steps": 3, "final": 0.5},
    "polynomial": {"warmup_steps": 3, "power": 3.0, "final": 0.5},
    "cosine": {"warmup_steps": 3, "final": 0.5},
    "exponential": {"warmup_steps": 3, "rate": 0.9, "every": 10},
    "step": {"warmup_steps": 3, "rate": 0.9, "every": 2},
    "milestones": {"warmup_steps": 1, "at": [3], "rate": 0.9},
    "inverse_sqrt": {"warmup_steps": 3},
    "plateau": {"warmup_steps": 3, "rate": 0.9, "patience": 1, "min_delta": 0.0, "final": 0.9},
    "wsd": {"warmup_steps": 3, "decay": 0.9, "final": 0.5},
}
SCHEDULE_BASES = {
    "step": {"every": 3},
    "milestones": {"at": [2]},
    "plateau": {"patience": 0, "min_delta": 9.0},
    "inverse_sqrt": {"warmup_steps": 0},
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in SCHEDULES.items() for field in fields])
def test_every_field_of_every_schedule_changes_the_learning_rates(tmp_path: Path, name: str, field: str) -> None:
    base = {"name": name, **SCHEDULE_BASES.get(name, {})}
    fields = type(config(schedule=base).schedule).model_fields
    assert set(SCHEDULES[name]) == set(fields) - {"name"}
    rates = []
    for number, chosen in enumerate((base, {**base, field: SCHEDULES[name][field]})):
        reports = ran(tmp_path / str(number), schedule=chosen, evaluate={"every": 1})[1]
        rates.append([report.lr for report in reports])
    assert rates[0] != rates[1]


def test_batch_size_and_its_ramp_decide_the_sizes() -> None:
    assert [batch_sizes(config(batch_size=6), 99).size(k) for k in range(3)] == [6, 6, 6]
    assert batch_sizes(config(batch_size="all"), 99).size(2) == 99
    sizes = [batch_sizes(config(batch_size=6, batch_ramp={"start": 2, "steps": steps}), 99) for steps in (4, 8)]
    assert [sizes[0].size(k) for k in range(6)] == [2, 3, 4, 5, 6, 6]
    assert [sizes[1].size(k) for k in range(6)] == [2, 2, 3, 3, 4, 4]
    assert batch_sizes(config(batch_size=6, batch_ramp={"start": 3, "steps": 4}), 99).size(0) == 3


def test_patience_decides_when_a_run_stops_early(tmp_path: Path) -> None:
    def steps(patience: int) -> int:
        stopping = {"patience": patience, "min_delta": 9.0}
        return len(ran(tmp_path / str(patience), early_stopping=stopping, evaluate={"every": 1})[1])

    assert (steps(1), steps(3)) == (2, 4)


def test_microbatch_size_decides_how_many_examples_go_through_at_once(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Watching(Small):
        def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
            sizes.append(len(x))
            return super().forward(x, noise)

    fit(job(tmp_path / "a", Watching(), steps=1, validation=None))
    fit(job(tmp_path / "b", Watching(), steps=1, validation=None, microbatch_size=5))
    assert sizes == [12, 5, 5, 2]


def test_device_decides_where_the_model_goes(tmp_path: Path) -> None:
    said = ran(tmp_path, device="cpu")[2]
    assert "device: cpu" in said
    with pytest.raises(UsageError, match="device must be one this machine has"):
        ran(tmp_path / "tpu", device="tpu")


def test_on_nonfinite_and_its_limit_decide_whether_a_run_survives_bad_batches(tmp_path: Path) -> None:
    def steps(name: str, **options: Any) -> list[int]:
        reports: list[Report] = []
        batches = SmallBatches(poison=(3, 4))
        with contextlib.suppress(NonFiniteError):
            fit(job(tmp_path / name, batches=batches, checkpoint={"every": 2}, observers=[reports.append], **options))
        return [report.step for report in reports if not report.skipped]

    assert steps("stop") == [1, 2, 3]
    assert steps("skip", on_nonfinite="skip") == [1, 2, 3, 6, 7, 8]
    assert steps("skip one", on_nonfinite="skip", max_nonfinite=1) == [1, 2, 3]
    assert steps("rewind", on_nonfinite="rewind") == [1, 2, 3, 3, 3, 4, 5, 6, 7, 8]
    assert steps("rewind once", on_nonfinite="rewind", max_nonfinite=1) == [1, 2, 3, 3]


def test_every_field_of_spike_decides_when_a_run_warns_or_goes_back(tmp_path: Path) -> None:
    def found(name: str, **options: Any) -> list[tuple[str, int]]:
        batches = SmallBatches(loud={26: 40.0, 28: 5.0, 30: 40.0})
        run = {"steps": 34, "checkpoint": {"every": 5}, "optimizer": {"name": "sgd", "lr": 1e-5}, "batches": batches}
        with contextlib.suppress(NonFiniteError):
            fit(job(tmp_path / name, **run, spike=options or None))
        events = read_run(tmp_path / name)[1]
        return [(event["event"], event["step"]) for event in events if event["event"] in ("spike", "rewind")]

    assert found("none") == []
    assert found("window", window=20, threshold=100.0) == [("spike", 27), ("spike", 31)]
    assert found("a window longer than the run", window=40, threshold=100.0) == []
    assert found("threshold", window=20, threshold=10.0) == [("spike", 27), ("spike", 29), ("spike", 31)]
    going_back = {"window": 20, "threshold": 100.0, "action": "rewind"}
    assert found("action", **going_back) == [("rewind", 27)]
    assert found("pass over", **going_back, pass_over=1) == [("rewind", 27), ("rewind", 30)]
    assert found("max rewinds", **going_back, pass_over=1, max_rewinds=1) == [("rewind", 27)]


def test_grace_is_how_long_a_signal_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    class Noting(Interruption):
        def __init__(self, grace: float):
            given.append(grace)
            super().__init__(grace)

    monkeypatch.setattr("dougong.train.loop.Interruption", Noting)
    ran(tmp_path, grace=7.0)
    assert given == [7.0]


def test_checkpoint_every_and_keep_decide_what_is_on_the_disk(tmp_path: Path) -> None:
    def steps(name: str, **options: Any) -> list[int]:
        ran(tmp_path / name, **options)
        return Store(tmp_path / name / "checkpoints").steps()

    assert steps("none", checkpoint={"every": 0}) == [8]
    assert steps("two", checkpoint={"every": 3}) == [6, 8]
    assert steps("three", checkpoint={"every": 3, "keep": 3}) == [3, 6, 8]


def test_evaluate_every_and_batches_decide_when_and_on_how_much(tmp_path: Path) -> None:
    def evaluations(name: str, **options: Any) -> dict[int, float]:
        reports = ran(tmp_path / name, evaluate=options)[1]
        return {report.step: report.evaluation["loss"] for report in reports if report.evaluation}

    all_of_it = evaluations("all", every=3)
    assert list(all_of_it) == [3, 6, 8]
    assert list(evaluations("last", every=0)) == [8]
    some = evaluations("some", every=3, batches=1)
    assert len(validation()) == 2
    assert all(some[step] != all_of_it[step] for step in all_of_it)


def test_log_every_and_trackers_decide_what_is_shown_where(tmp_path: Path) -> None:
    def lines(name: str, **options: Any) -> int:
        said = ran(tmp_path / name, log=options, validation=None)[2]
        return sum(line.startswith("step ") for line in said)

    assert lines("rare", every=1000, trackers=[]) == 1
    assert lines("often", every=2, trackers=["tensorboard"]) == 4
    assert not (tmp_path / "rare" / "tensorboard").exists()
    assert (tmp_path / "often" / "tensorboard").exists()


def test_profile_start_and_steps_decide_what_is_traced(tmp_path: Path) -> None:
    ran(tmp_path / "none")
    assert not (tmp_path / "none" / "profile.json").exists()
    said = ran(tmp_path / "some", profile={"start": 2, "steps": 3})[2]
    assert (tmp_path / "some" / "profile.json").stat().st_size > 1000
    assert any(line.startswith("trace of 3 steps") for line in said)


def test_every_option_is_shown_to_change_something() -> None:
    here = {name.partition(".")[0] for name in CHANGES_THE_WEIGHTS}
    here |= {"batch_size", "batch_ramp", "microbatch_size", "device", "checkpoint", "evaluate"}
    here |= {"log", "profile", "on_nonfinite", "max_nonfinite", "spike", "grace"}
    # compile and recompute: tests/train/test_blocks.py; samples: the run draws them, which has the engine; workers:
    # tests/data/test_workers.py; bucket_batches: tests/data/test_loader.py, tests/faults/test_17_bucketed_pairs.py.
    assert here | {"compile", "recompute", "samples", "workers", "bucket_batches"} == set(TrainConfig.model_fields)
    optimizers = {_name(c) for c in _choices("optimizer")}
    assert optimizers == set(FIELDS)
    assert {_name(c) for c in _choices("schedule")} == set(SCHEDULES)


def _choices(field: str) -> tuple[type[Config], ...]:
    return TrainConfig.model_fields[field].annotation.__args__


def _name(config_class: type[Config]) -> str:
    return config_class.model_fields["name"].default


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"optimzer": {}}, "train.optimzer is not an option. Did you mean train.optimizer?"),
        (
            {"optimizer": {"name": "adamq"}},
            "train.optimizer.name must be a known name, but is 'adamq'.",
        ),
        ({"optimizer": {"name": "adam", "lr": "nan"}}, "train.optimizer.lr must be"),
        ({"optimizer": {"name": "sgd", "nesterov": True}}, "train.optimizer.nesterov needs momentum above 0"),
        ({"steps": 0}, "train.steps must be greater than 0, but is 0."),
        ({"batch_size": 4, "microbatch_size": 8}, "train.microbatch_size must be at most batch_size, but 8 > 4."),
        (
            {"batch_size": "all", "batch_ramp": {"start": 1, "steps": 2}},
            "train.batch_ramp needs a batch size",
        ),
        ({"batch_size": 4, "batch_ramp": {"start": 4, "steps": 2}}, "train.batch_ramp must start below batch_size"),
        ({"steps": 5, "schedule": {"name": "cosine", "warmup_steps": 5}}, "train.schedule must warm up in fewer"),
        ({"steps": 5, "profile": {"start": 4, "steps": 2}}, "train.profile must end before the last step"),
        ({"max_nonfinite": 3}, "train.max_nonfinite needs on_nonfinite: skip or rewind, but on_nonfinite is stop."),
        ({"on_nonfinite": "rewind", "checkpoint": {"every": 0}}, "train.on_nonfinite needs checkpoints to go back to"),
        (
            {"spike": {"action": "rewind"}, "checkpoint": {"every": 0}},
            "train.spike.action needs checkpoints to go back to, but checkpoint.every is 0.",
        ),
        ({"spike": {"pass_over": 3}}, "train.spike.pass_over needs action: rewind, but action is warn."),
        ({"spike": {"max_rewinds": 3}}, "train.spike.max_rewinds needs action: rewind, but action is warn."),
        ({"checkpoint": {"keep": 1}}, "train.checkpoint.keep must be at least 2, but is 1."),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], complaint: str) -> None:
    found, complaints = try_validate(TrainConfig, options, ("train",))
    assert found is None
    assert [c.text for c in complaints if c.text.startswith(complaint)], complaints


def test_options_are_read_without_torch() -> None:
    code = "import sys, dougong.train.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
