"""Figures accumulated over any number of batches in constant memory.

Knows numbers only; what they mean is for the task to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Z_95 = 1.959963984540054


class Mean:
    """A weighted mean, from sums."""

    def __init__(self) -> None:
        self.sum = 0.0
        self.weight = 0.0

    def add(self, total: float, weight: float) -> None:
        """Adds a sum of values and their weight."""
        self.sum += total
        self.weight += weight

    @property
    def value(self) -> float:
        """The mean so far; not a number before anything was added."""
        return self.sum / self.weight if self.weight else math.nan


class Ratio:
    """The ratio of two totals over independent units, with its interval.

    The classical ratio estimator (Cochran 1977, "Sampling techniques", section 2.11): with units (a_d, b_d) the ratio
    is R = sum a / sum b, and its variance n/(n-1) * sum (a_d - R b_d)^2 / (sum b)^2, which needs five sums alone.
    """

    def __init__(self) -> None:
        self.count = 0
        self.above = 0.0
        self.below = 0.0
        self._squares = [0.0, 0.0, 0.0]

    def add(self, above: Sequence[float], below: Sequence[float]) -> None:
        """Adds units, each with its share of the numerator and of the denominator."""
        for a, b in zip(above, below, strict=True):
            self.count += 1
            self.above += a
            self.below += b
            self._squares[0] += a * a
            self._squares[1] += a * b
            self._squares[2] += b * b

    @property
    def value(self) -> float:
        """The ratio so far; not a number while the denominator is 0."""
        return self.above / self.below if self.below else math.nan

    def interval(self) -> tuple[float, float] | None:
        """Returns the ends of the 95 % confidence interval; None for fewer than two units."""
        if self.count < 2 or not self.below:
            return None
        ratio = self.value
        aa, ab, bb = self._squares
        spread = max(0.0, aa - 2 * ratio * ab + ratio * ratio * bb)
        half = Z_95 * math.sqrt(self.count / (self.count - 1) * spread) / self.below
        return ratio - half, ratio + half
