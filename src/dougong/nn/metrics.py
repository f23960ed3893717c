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


class Classification:
    """Mean loss, accuracy with its interval, and F1 by class, from counts alone.

    Args:
        num_classes: How many classes there are.
    """

    def __init__(self, num_classes: int):
        self.loss = Mean()
        self.hits, self.said, self.there = ([0] * num_classes for _ in range(3))

    def add(self, nats: float, predicted: Sequence[int], labels: Sequence[int]) -> None:
        """Adds examples: the sum of their losses, and the class predicted for each beside the true one."""
        self.loss.add(nats, float(len(labels)))
        for p, y in zip(predicted, labels, strict=True):
            self.said[p] += 1
            self.there[y] += 1
            self.hits[y] += p == y

    def compute(self) -> dict[str, float]:
        """Returns loss, accuracy with the ends of its 95 % interval, and the mean F1 of the classes that occur."""
        right, count = sum(self.hits), sum(self.there)
        figures = {"loss": self.loss.value, "accuracy": right / count if count else math.nan}
        interval = wilson(right, count)
        if interval is not None:
            figures["accuracy_low"], figures["accuracy_high"] = interval
        found = [
            2 * hits / (said + there)
            for hits, said, there in zip(self.hits, self.said, self.there, strict=True)
            if said + there
        ]
        return {**figures, "macro_f1": sum(found) / len(found) if found else math.nan}


def wilson(right: int, count: int) -> tuple[float, float] | None:
    """Returns the ends of the 95 % interval of a share (Wilson 1927); None where there is nothing."""
    if not count:
        return None
    share, square = right / count, Z_95**2 / count
    centre = (share + square / 2) / (1 + square)
    half = Z_95 * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)
