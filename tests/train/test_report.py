from __future__ import annotations

import contextlib
import json
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dougong.core import log
from dougong.core.errors import MissingExtra, ResourceError
from dougong.train.report import Recorder, as_record, duration, read_run, versions
from dougong.train.step import Report


def report(step: int, **more: object) -> Report:
    return Report(step, 2.5, 1e-3, 0.5, 64.0, [(0, 3)], seconds=0.5, items_per_second=128.0, **more)


def recorder(folder: Path, every: int = 2, trackers: tuple[str, ...] = ()) -> Recorder:
    return Recorder(folder, 10, every, trackers, "tokens")


def test_lines_are_held_back_and_come_with_a_flush(tmp_path: Path) -> None:
    with log.listening(lambda text: None), recorder(tmp_path) as record:
        record.write(report(1))
        assert (tmp_path / "run.jsonl").read_text() == ""
        record.flush(sync=True)
        assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 1
        record.write(report(2))
    assert [step["step"] for step in read_run(tmp_path)[0]] == [1, 2]


def test_lines_come_even_when_the_run_breaks(tmp_path: Path) -> None:
    with contextlib.suppress(KeyError), recorder(tmp_path) as record:
        record.write(report(1))
        raise KeyError
    assert len(read_run(tmp_path)[0]) == 1


def test_the_last_attempt_of_a_step_counts_and_a_torn_line_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text('{"step":1,"loss":1.0}\n{"step":2,"loss":9.0}\n{"step":3,"lo')
    with recorder(tmp_path) as record:
        record.event("start", 1, parameters=3)
        record.write(report(2))
    steps, events = read_run(tmp_path)
    assert [(step["step"], step["loss"]) for step in steps] == [(1, 1.0), (2, 2.5)]
    assert events[0]["parameters"] == 3
    assert (
        (tmp_path / "run.jsonl").read_text().startswith('{"step":1,"loss":1.0}\n{"step":2,"loss":9.0}\n{"step":3,"lo\n')
    )


def test_what_is_not_finite_is_null_and_what_is_zero_stays() -> None:
    record = as_record(report(1, skipped=True, evaluation={"loss": float("inf")}, data_seconds=0.0))
    assert json.loads(json.dumps(record, allow_nan=False))["evaluation"] == {"loss": None}
    assert record["data_seconds"] == 0.0
    assert record["skipped"] is True
    assert "mfu" not in record


def test_the_terminal_gets_a_line_when_due_or_evaluated(tmp_path: Path) -> None:
    said: list[str] = []
    with log.listening(said.append), recorder(tmp_path, every=4) as record:
        for step in range(1, 5):
            record.write(report(step, mfu=0.25, evaluation={"loss": 1.5} if step == 3 else None))
    assert said == [
        "step 3/10  loss 2.5000  validation loss 1.5000  lr 1.00e-03  128 tokens/s  25% of peak  4 s left",
        "step 4/10  loss 2.5000  lr 1.00e-03  128 tokens/s  25% of peak  3 s left",
    ]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with recorder(tmp_path) as record:
        record.event("start", 0, text="x" * 1000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(ResourceError, match=r"run\.jsonl cannot be written: File too large") as caught:
                record.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.exit_code == 4
    assert read_run(tmp_path)[1][0]["event"] == "start"


def test_tensorboard_has_the_curves(tmp_path: Path) -> None:
    with log.listening(lambda text: None), recorder(tmp_path, 1, ("tensorboard",)) as record:
        for step in (1, 2):
            record.write(report(step, evaluation={"loss": 1.5}, parts={"nll": 2.0}))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "train/nll", "validation/loss"} <= set(events.Tags()["scalars"])
    assert [(point.step, point.value) for point in events.Scalars("train/loss")] == [(1, 2.5), (2, 2.5)]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_says_what_to_type(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'dougong\[{name}\]'"), recorder(tmp_path, 1, (name,)):
        pass


def test_other_trackers_get_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    run = SimpleNamespace(log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append(("end",)))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: run))
    mlflow = SimpleNamespace(
        set_experiment=lambda name: None,
        start_run=lambda run_name: None,
        log_metrics=lambda values, step: calls.append((step, values)),
        end_run=lambda: calls.append(("end",)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    with log.listening(lambda text: None), recorder(tmp_path, 1, ("wandb", "mlflow")) as record:
        record.write(report(1))
    assert calls[0][0] == calls[1][0] == 1
    assert calls[0][1]["train/loss"] == calls[1][1]["train.loss"] == 2.5
    assert calls[2:] == [("end",), ("end",)]


def test_durations_are_read_by_people() -> None:
    assert [duration(s) for s in (0.4, 59.0, 130.0, 3730.0)] == ["0 s", "59 s", "2:10", "1:02:10"]


def test_versions_name_what_numbers_depend_on() -> None:
    assert {"dougong", "python", "torch", "machine"} == versions().keys()


def test_lines_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    lines = [b"\xff\xfe", b"[" * 100_000, b"7", b'{"step": "x"}', b'{"step":1,"loss":1.0}']
    (tmp_path / "run.jsonl").write_bytes(b"\n".join(lines))
    assert read_run(tmp_path) == ([{"step": 1, "loss": 1.0}], [])
