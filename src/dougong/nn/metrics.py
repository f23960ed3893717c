"""Figures accumulated over any number of batches in constant memory.

Knows numbers only; what they mean is for the task to say.
"""

from __future__ import annotations

import math
from collections import Counter
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
    """Mean loss, accuracy with its interval, F1 by class, top-k accuracy and calibration, from counts alone.

    Args:
        num_classes: How many classes there are.
        top: The k of top-k accuracy; not told where there are no more classes.
    """

    def __init__(self, num_classes: int, top: int = 5):
        self.num_classes, self.top = num_classes, top
        self.loss, self.calibration = Mean(), Calibration()
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.in_top = 0

    def add(
        self,
        nats: float,
        predicted: Sequence[int],
        labels: Sequence[int],
        ranks: Sequence[int],
        confidences: Sequence[float],
    ) -> None:
        """Adds examples.

        Args:
            nats: The sum of their losses.
            predicted: The likeliest class of each.
            labels: The true class of each.
            ranks: How many classes were held for likelier than the true one.
            confidences: The probability of the likeliest class.
        """
        self.loss.add(nats, float(len(labels)))
        self.pairs.update(zip(labels, predicted, strict=True))
        self.in_top += sum(rank < self.top for rank in ranks)
        self.calibration.add(confidences, [p == y for p, y in zip(predicted, labels, strict=True)])

    def compute(self) -> dict[str, float]:
        """Returns loss, accuracy with the ends of its 95 % interval, top-k accuracy, calibration error, mean F1."""
        count = self.pairs.total()
        right = sum(number for (label, said), number in self.pairs.items() if label == said)
        figures = {"loss": self.loss.value, "accuracy": right / count if count else math.nan}
        interval = wilson(right, count)
        if interval is not None:
            figures["accuracy_low"], figures["accuracy_high"] = interval
        if self.num_classes > self.top:
            figures[f"top{self.top}_accuracy"] = self.in_top / count if count else math.nan
        scores = [row["f1"] for row in self.by_class().values()]
        figures["macro_f1"] = sum(scores) / len(scores) if scores else math.nan
        return {**figures, "calibration_error": self.calibration.error}

    def by_class(self) -> dict[int, dict[str, float | int]]:
        """Returns precision, recall, F1 and the number of examples of each class that occurs or was predicted."""
        hits, said, there = Counter[int](), Counter[int](), Counter[int]()
        for (label, predicted), number in self.pairs.items():
            there[label] += number
            said[predicted] += number
            hits[label] += number * (label == predicted)
        return {
            kind: {
                "examples": there[kind],
                "precision": hits[kind] / said[kind] if said[kind] else 0.0,
                "recall": hits[kind] / there[kind] if there[kind] else 0.0,
                "f1": 2 * hits[kind] / (said[kind] + there[kind]),
            }
            for kind in sorted(there | said)
        }

    def confusions(self) -> list[tuple[int, int, int]]:
        """Returns (true class, predicted class, how often) of all wrong answers, the most frequent first."""
        wrong = [(label, said, number) for (label, said), number in self.pairs.items() if label != said]
        return sorted(wrong, key=lambda item: (-item[2], item[:2]))


class Calibration:
    """The expected calibration error: how far apart confidence and accuracy are, in bins (Guo et al. 2017, eq. 3)."""

    def __init__(self, bins: int = 15):
        self.counts, self.right, self.sums = [0] * bins, [0] * bins, [0.0] * bins

    def add(self, confidences: Sequence[float], right: Sequence[bool]) -> None:
        """Adds answers: how sure each was, and whether it was right."""
        for confidence, hit in zip(confidences, right, strict=True):
            place = min(len(self.counts) - 1, int(confidence * len(self.counts)))
            self.counts[place] += 1
            self.right[place] += hit
            self.sums[place] += confidence

    @property
    def error(self) -> float:
        """The mean distance, weighted by how many answers each bin has; not a number while there are none."""
        whole = sum(self.counts)
        apart = sum(abs(right - total) for right, total in zip(self.right, self.sums, strict=True))
        return apart / whole if whole else math.nan


def wilson(right: int, count: int) -> tuple[float, float] | None:
    """Returns the ends of the 95 % interval of a share (Wilson 1927); None where there is nothing."""
    if not count:
        return None
    share, square = right / count, Z_95**2 / count
    centre = (share + square / 2) / (1 + square)
    half = Z_95 * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)
