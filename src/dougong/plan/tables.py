"""What was measured of a machine: seconds of each kernel over its sizes, and what a step adds.

Reading a table between its points is arithmetic. Knows neither kernels nor models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Seconds of a kernel over the sizes of its axes.

    Attributes:
        axes: The sizes, rising.
        seconds: One for each combination, the last axis fastest.
    """

    axes: tuple[tuple[float, ...], ...]
    seconds: tuple[float, ...]

    def at(self, *point: float | int) -> float:
        """Returns the seconds at any sizes: between points linear in the logarithms, above them in proportion.

        Below the smallest size it is what the smallest one takes: there a call costs more than what it does.
        """
        beyond, corners = 1.0, [(0, 1.0)]
        for sizes, value in zip(self.axes, point, strict=True):
            inside = min(max(value, sizes[0]), sizes[-1])
            beyond *= max(1.0, value / sizes[-1])
            shares = _shares(sizes, inside)
            corners = [(i * len(sizes) + k, weight * share) for i, weight in corners for k, share in shares]
        return beyond * math.exp(sum(weight * math.log(self.seconds[place]) for place, weight in corners if weight))


def _shares(sizes: tuple[float, ...], value: float | int) -> list[tuple[int, float]]:
    """Returns the sizes beside a value, by number, and how much each of them counts."""
    upper = next(number for number, size in enumerate(sizes) if size >= value)
    if upper == 0:
        return [(0, 1.0)]
    share = math.log(value / sizes[upper - 1]) / math.log(sizes[upper] / sizes[upper - 1])
    return [(upper - 1, 1.0 - share), (upper, share)]


@dataclass(frozen=True)
class Calibration:
    """What a machine takes.

    Attributes:
        machine: Which one, as `machine_name` tells it.
        tables: Seconds of each of `kernels()` over its sizes.
        overheads: Seconds that the interpreter and autograd add to an operation: `forward`, `backward`, of a `view`,
            and of the `update` of a parameter.
        crowding: How many times as long as alone an operation that merely moves numbers takes within a step.
        seconds: How long it took to measure.
    """

    machine: str
    tables: Mapping[str, Table]
    overheads: Mapping[str, float]
    crowding: float
    seconds: float
