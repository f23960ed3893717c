"""A calibration is measured, kept for this machine, and refused where it is no longer one."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.core.errors import FileError, ResourceError
from dougong.plan import calibrate as calibrating
from dougong.plan.calibrate import calibrate, calibration
from dougong.plan.kernels import Kernel, kernels
from dougong.plan.tables import Calibration

POINTS = (16.0, 1024.0, 4194304.0)


def doubled(size: float) -> Callable[[], object]:
    numbers = torch.ones(int(size))
    return lambda: numbers * 2


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kernels in place of all."""
    pair = {
        "bytes/one": Kernel((POINTS,), doubled, 1, float, 3),
        "two": Kernel((POINTS, (1.0, 2.0)), lambda a, _: doubled(a), 2),
    }
    monkeypatch.setattr(calibrating, "kernels", lambda: pair)
    monkeypatch.setattr(calibrating, "crowding_on", lambda machine: 1.25)


@pytest.fixture
def found(few: None, tmp_path: Path) -> Calibration:
    return calibrate(0.05, tmp_path / "new")


def test_what_is_measured_is_what_is_read(found: Calibration, tmp_path: Path) -> None:
    assert calibration(tmp_path / "new") == found
    assert found.tables["two"].axes == (POINTS, (1.0, 2.0))
    assert len(found.tables["two"].seconds) == 6
    assert found.crowding == 1.25
    assert all(0 < seconds < 0.1 for table in found.tables.values() for seconds in table.seconds)
    assert found.seconds > 0


def test_of_what_is_measured_again_the_shorter_holds(found: Calibration, tmp_path: Path, monkeypatch: Any) -> None:
    def slow(size: float) -> Callable[[], object]:
        return lambda: time.sleep(0.002)

    axes = {name: table.axes for name, table in found.tables.items()}
    disturbed = {name: Kernel(sizes, lambda *_: slow(1.0)) for name, sizes in axes.items()}
    monkeypatch.setattr(calibrating, "kernels", lambda: disturbed)
    monkeypatch.setattr(calibrating, "crowding_on", lambda machine: 2.0)
    again = calibrate(0.05, tmp_path / "new")
    assert again.tables["bytes/one"].seconds[0] == found.tables["bytes/one"].seconds[0]
    assert again.crowding == found.crowding
    assert all(again.overheads[name] <= seconds for name, seconds in found.overheads.items())
    fresh = calibrate(0.05, tmp_path / "other")
    assert min(fresh.tables["bytes/one"].seconds) > 0.002
    assert fresh.crowding == 2.0


def test_a_thousand_times_as_much_takes_longer(found: Calibration) -> None:
    small, _, large = found.tables["bytes/one"].seconds
    assert large > 20 * small


def test_overheads_are_microseconds(found: Calibration) -> None:
    assert set(found.overheads) == {"forward", "backward", "view", "update"}
    assert all(1e-8 < seconds < 1e-3 for seconds in found.overheads.values())


def test_there_is_none_before_and_none_for_another_machine(
    found: Calibration, tmp_path: Path, monkeypatch: Any
) -> None:
    assert calibration(tmp_path) is None
    monkeypatch.setattr(calibrating, "machine_name", lambda: "another")
    assert calibration(tmp_path / "new") is None


def test_one_of_other_kernels_or_of_another_form_is_passed_over(
    found: Calibration, tmp_path: Path, monkeypatch: Any
) -> None:
    (path,) = (tmp_path / "new").iterdir()
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "version": calibrating.VERSION - 1}))
    assert calibration(tmp_path / "new") is None
    path.write_text(json.dumps(content))
    assert calibration(tmp_path / "new") == found
    monkeypatch.setattr(calibrating, "kernels", lambda: {"bytes/one": Kernel(((1.0, 2.0),), doubled)})
    assert calibration(tmp_path / "new") is None


@pytest.mark.parametrize("content", ["[]", "{}", '{"tables": {"bytes/one": 1}}', '{"tables": {}, "machine": "x"}'])
def test_a_file_that_is_none_is_told(content: str, found: Calibration, tmp_path: Path) -> None:
    (path,) = (tmp_path / "new").iterdir()
    values = json.loads(content)
    path.write_text(json.dumps(values if isinstance(values, list) else {**values, "version": calibrating.VERSION}))
    with pytest.raises(FileError, match="must be a calibration, but is not. Remove it, and calibrate again."):
        calibration(tmp_path / "new")


def test_a_folder_that_cannot_be_written_to_is_told(few: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((ResourceError, FileError)):
        calibrate(0.05, tmp_path / "file" / "inside")


def test_every_kernel_runs_at_its_smallest_and_in_both_types() -> None:
    every = kernels()
    for name, kernel in every.items():
        smallest = [sizes[0] for sizes in kernel.axes]
        kernel.make(*smallest)()
        assert kernel.touched is None or kernel.touched(*smallest) > 0, name
        assert all(sizes == tuple(sorted(set(sizes))) for sizes in kernel.axes), name
    in_one = {name.replace("bf16", "fp32") for name in every if "bf16" in name}
    assert in_one == {name for name in every if "fp32" in name}


def test_calls_take_turns_over_more_than_a_cache_holds() -> None:
    kernel = Kernel((POINTS,), doubled, 1, float, 8)
    assert len(calibrating._turns(kernel, (16.0,))) == 8
    assert len(calibrating._turns(kernel, (calibrating.TURNS_BYTES / 4,))) == 4
    assert len(calibrating._turns(kernel, (1e12 / 1e6,))) <= 8
    assert len(calibrating._turns(Kernel((POINTS,), doubled), (16.0,))) == 1


def test_random_numbers_of_others_are_left_alone(few: None, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    calibrate(0.05, tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_a_quick_call_is_measured_many_times_and_a_slow_one_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], [0, 0]
    monkeypatch.setattr(calibrating.time, "perf_counter", lambda: now[0])

    def call(number: int, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls[number] += 1
            now[0] += seconds

        return run

    assert math.isclose(calibrating._measured([call(0, 0.001)], 0.1), 0.001, rel_tol=1e-6)
    assert math.isclose(calibrating._measured([call(1, 5.0)], 0.1), 5.0)
    assert calls[0] > 50
    assert calls[1] == 1
