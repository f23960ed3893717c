"""A calibration of round numbers, for the tests that read one."""

from __future__ import annotations

import math
from typing import Any

from dougong.plan.kernels import kernels
from dougong.plan.tables import Calibration, Table

OVERHEADS = {"forward": 4e-6, "backward": 3e-6, "view": 1e-6, "update": 2e-6}


def made(**changes: Any) -> Calibration:
    """A machine on which a kernel takes, at each of its points, a nanosecond times all its sizes."""
    tables = {name: table(kernel.axes) for name, kernel in kernels().items()}
    values = {"machine": "made", "tables": tables, "overheads": OVERHEADS, "crowding": 1.0, "seconds": 0.0, **changes}
    return Calibration(**values)


def table(axes: tuple[tuple[float, ...], ...]) -> Table:
    points: list[tuple[float, ...]] = [()]
    for sizes in axes:
        points = [(*point, size) for point in points for size in sizes]
    return Table(axes, tuple(1e-9 * math.prod(point) for point in points))
