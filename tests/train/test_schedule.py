from __future__ import annotations

import math

import pytest

from dougong.core.config import validate
from dougong.train.config import TrainConfig
from dougong.train.schedule import Schedule, factor

STEPS, WARMUP = 110, 10
NAMES = [
    "constant",
    "linear",
    "polynomial",
    "cosine",
    "exponential",
    "step",
    "milestones",
    "inverse_sqrt",
    "plateau",
    "wsd",
]


def schedule(name: str, **options: object):
    needed = {"at": [60, 90]} if name == "milestones" else {}
    return validate(TrainConfig, {"steps": STEPS, "schedule": {"name": name, **needed, **options}}).schedule


def curve(name: str, **options: object) -> list[float]:
    config = schedule(name, **options)
    return [factor(config, step, STEPS) for step in range(STEPS + 1)]


@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_warms_up_in_a_straight_line_to_exactly_one(name: str) -> None:
    values = curve(name, warmup_steps=WARMUP)
    assert values[:WARMUP] == pytest.approx([(step + 1) / (WARMUP + 1) for step in range(WARMUP)])
    assert values[WARMUP] == 1.0
    assert all(0 <= value <= 1 for value in values)
    assert all(later <= earlier for earlier, later in zip(values[WARMUP:], values[WARMUP + 1 :], strict=False))


@pytest.mark.parametrize(
    ("name", "options", "half", "end"),
    [
        ("constant", {}, 1.0, 1.0),
        ("linear", {"final": 0.0}, 0.5, 0.0),
        ("linear", {"final": 0.2}, 0.6, 0.2),
        ("polynomial", {"power": 3.0, "final": 0.1}, 0.1 + 0.9 / 8, 0.1),
        ("cosine", {"final": 0.1}, 0.55, 0.1),
        ("exponential", {"rate": 0.25, "every": 50}, 0.25, 0.0625),
        ("step", {"rate": 0.1, "every": 40}, 0.1, 0.01),
        ("milestones", {"at": [60, 61], "rate": 0.5}, 0.5, 0.25),
        ("milestones", {"at": [20, 100]}, 0.1, 0.01),
        ("inverse_sqrt", {}, math.sqrt(11 / 61), math.sqrt(11 / 111)),
        ("plateau", {}, 1.0, 1.0),
        ("wsd", {"decay": 0.25, "final": 0.1}, 1.0, 0.1),
    ],
)
def test_schedules_have_their_values_at_half_time_and_at_the_end(
    name: str, options: dict[str, float], half: float, end: float
) -> None:
    values = curve(name, warmup_steps=WARMUP, **options)
    assert values[WARMUP + 50] == pytest.approx(half)
    assert values[STEPS] == pytest.approx(end)


def test_linear_is_bounded_where_the_printed_formula_is_not() -> None:
    printed = [(1 - 0.5) / (STEPS - step) for step in range(STEPS)]
    assert printed[-1] > 50 * printed[0]
    assert curve("linear")[-1] == 0.0


def test_stable_then_decay_decays_only_at_the_end() -> None:
    values = curve("wsd", decay=0.25)
    assert set(values[:82]) == {1.0}
    assert values[96] == pytest.approx((110 - 96) / 27.5)


def test_a_plateau_waits_for_its_patience_then_falls_to_its_floor() -> None:
    plateau = Schedule(schedule("plateau", rate=0.5, patience=1, min_delta=0.1, final=0.2), STEPS)
    seen = []
    for loss in (3.0, 2.0, 1.95, 1.95, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        plateau.observe(loss)
        seen.append(plateau.factor(50))
    assert seen == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]


def test_a_plateau_goes_on_from_its_state() -> None:
    config = schedule("plateau", patience=1)
    unbroken, broken = Schedule(config, STEPS), Schedule(config, STEPS)
    for loss in (3.0, 3.0):
        unbroken.observe(loss)
        broken.observe(loss)
    resumed, forgetful = Schedule(config, STEPS), Schedule(config, STEPS)
    resumed.load(broken.state())
    for one in (unbroken, resumed, forgetful):
        one.observe(3.0)
    assert resumed.factor(9) == unbroken.factor(9) == 0.5
    assert forgetful.factor(9) == 1.0


def test_losses_do_not_move_other_schedules() -> None:
    cosine = Schedule(schedule("cosine"), STEPS)
    before = cosine.factor(50)
    for _ in range(20):
        cosine.observe(9.0)
    assert cosine.factor(50) == before
