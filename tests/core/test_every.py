"""When something periodic is due."""

from __future__ import annotations

from dougong.core.every import Every


def due(every: Every, until: int) -> list[int]:
    return [step for step in range(until + 1) if every.due(step, until)]


def test_it_is_due_at_multiples_and_at_the_end() -> None:
    assert due(Every(4), 10) == [4, 8, 10]
    assert due(Every(5), 10) == [5, 10]
    assert due(Every(4, last=False), 10) == [4, 8]


def test_zero_is_never_but_for_the_last() -> None:
    assert due(Every(0), 10) == [10]
    assert due(Every(0, last=False), 10) == []
