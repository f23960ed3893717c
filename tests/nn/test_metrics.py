from __future__ import annotations

import math

import numpy as np

from dougong.nn.metrics import Mean, Ratio


def test_a_mean_is_a_sum_over_a_weight() -> None:
    mean = Mean()
    assert math.isnan(mean.value)
    mean.add(6.0, 2.0)
    mean.add(0.0, 1.0)
    assert mean.value == 2.0


def test_streaming_sums_give_the_ratio_and_its_interval() -> None:
    above, below = np.random.default_rng(0).uniform(1, 9, (2, 40))
    ratio = Ratio()
    ratio.add(above[:11].tolist(), below[:11].tolist())
    ratio.add(above[11:].tolist(), below[11:].tolist())
    value = above.sum() / below.sum()
    deviation = math.sqrt(40 / 39 * ((above - value * below) ** 2).sum()) / below.sum()
    low, high = ratio.interval()
    assert math.isclose(ratio.value, value)
    assert math.isclose(low, value - 1.959964 * deviation, rel_tol=1e-6)
    assert math.isclose(high, value + 1.959964 * deviation, rel_tol=1e-6)


def test_one_unit_has_no_interval() -> None:
    ratio = Ratio()
    assert ratio.interval() is None
    ratio.add([1.0], [2.0])
    assert ratio.value == 0.5
    assert ratio.interval() is None


def coverage(by_document: bool) -> float:
    """The share of 400 samples of 60 documents whose interval holds the truth; or each byte counted as a unit."""
    random, held = np.random.default_rng(1), 0
    for _ in range(400):
        lengths = random.integers(5, 60, 60).astype(float)
        rates = random.normal(2.0, 0.5, 60)
        ratio = Ratio()
        if by_document:
            ratio.add((rates * lengths).tolist(), lengths.tolist())
        else:
            ratio.add(np.repeat(rates, lengths.astype(int)).tolist(), [1.0] * int(lengths.sum()))
        low, high = ratio.interval()
        held += low <= 2.0 <= high
    return held / 400


def test_the_interval_holds_the_truth_95_times_in_100() -> None:
    assert 0.92 < coverage(by_document=True) < 0.98


def test_counting_bytes_as_independent_would_promise_too_much() -> None:
    assert coverage(by_document=False) < 0.5
