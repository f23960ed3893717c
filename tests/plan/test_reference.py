"""The step that every calibration ends with is small, really runs, and says how crowded a step is."""

from __future__ import annotations

import pytest

from dougong.plan import reference
from dougong.plan.match import calibrated, is_crowded
from tests.plan.calibrated import made


def shares(machine: object) -> tuple[float, float]:
    """Seconds of what computes and of what moves numbers."""
    taken = [calibrated(one, machine) for one in reference._trace().operations]  # type: ignore[arg-type]
    light = sum(seconds for kind, seconds in taken if is_crowded(kind))
    return sum(seconds for _, seconds in taken) - light, light


@pytest.mark.parametrize(("times", "expected"), [(1.5, 1.5), (0.2, reference.LEAST), (9.0, reference.MOST)])
def test_crowding_is_what_a_step_takes_beyond_its_operations(
    times: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = made()
    heavy, light = shares(machine)
    monkeypatch.setattr(reference, "_measured", lambda seconds: heavy + times * light)
    assert reference.crowding_on(machine) == pytest.approx(expected)


def test_its_step_has_all_phases_and_mostly_moves_numbers() -> None:
    operations = reference._trace().operations
    assert {operation.phase for operation in operations} == {"forward", "backward", "update"}
    assert any(operation.flops for operation in operations)
    assert sum(not operation.flops for operation in operations) > 0.8 * len(operations)


def test_its_step_is_measured_in_milliseconds() -> None:
    assert 1e-4 < reference._measured(0.01) < 1.0
