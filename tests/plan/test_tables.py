"""Between the points of a table seconds are a power of each size, above them they grow in proportion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.plan.tables import Table
from tests.plan.calibrated import table

AXES = ((4.0, 32.0, 256.0), (2.0, 50.0))


def test_at_its_points_a_table_is_what_was_measured() -> None:
    found = Table(AXES, (1.0, 2.0, 3.0, 5.0, 8.0, 13.0))
    points = [(a, b) for a in AXES[0] for b in AXES[1]]
    assert [found.at(*point) for point in points] == pytest.approx([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])


@given(st.floats(4, 256), st.floats(2, 50))
def test_between_points_a_power_of_each_size_is_exact(first: float, second: float) -> None:
    assert table(AXES).at(first, second) == pytest.approx(1e-9 * first * second)


@given(st.floats(256, 1e6), st.floats(50, 1e6))
def test_above_seconds_grow_in_proportion(first: float, second: float) -> None:
    found = Table(AXES, (1.0, 1.0, 1.0, 1.0, 1.0, 7.0))
    assert found.at(first, second) == pytest.approx(7.0 * first / 256 * second / 50)


def test_below_it_is_what_the_smallest_takes() -> None:
    found = Table(AXES, (1.0, 2.0, 3.0, 5.0, 8.0, 13.0))
    assert found.at(1.0, 1.0) == found.at(0.001, 2.0) == 1.0
    assert found.at(1.0, 50.0) == 2.0


@given(st.floats(1, 1e4), st.floats(1, 1e4), st.floats(1, 4))
def test_more_never_takes_less(first: float, second: float, more: float) -> None:
    found = table(AXES)
    assert found.at(first * more, second) >= found.at(first, second) * (1 - 1e-9)
