"""pass@k is what counting all choices gives, and stays exact where binomials are large."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest

from dougong.core.errors import UsageError
from dougong.nn.pass_at_k import pass_at_k

SMALL = [(n, c, k) for n in range(1, 8) for c in range(n + 1) for k in range(1, n + 1)]


def counted(samples: int, passed: int, k: int) -> Fraction:
    """The share of all choices of k samples with at least one that passed, counted one by one."""
    choices = list(itertools.combinations([number < passed for number in range(samples)], k))
    return Fraction(sum(map(any, choices)), len(choices))


def test_the_estimate_equals_an_exact_count() -> None:
    for n, c, k in SMALL:
        assert pass_at_k(n, c, k) == pytest.approx(float(counted(n, c, k)), abs=1e-12), (n, c, k)


def test_without_the_correction_the_estimate_is_biased() -> None:
    """1 - (1 - c/n)**k is what one would write at first: it is another number."""
    different = [(n, c, k) for n, c, k in SMALL if abs(1 - (1 - c / n) ** k - float(counted(n, c, k))) > 1e-3]
    assert len(different) > 20


def test_the_estimate_is_exact_where_binomials_are_too_large_for_a_float() -> None:
    n, c, k = 10_000, 37, 5_000
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    with pytest.raises(OverflowError):
        float(math.comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)
    assert pass_at_k(200, 0, 100) == 0.0
    assert pass_at_k(200, 101, 100) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(5, 1, 6), (5, 1, 0), (5, 6, 1), (5, -1, 1)])
def test_what_cannot_be_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(UsageError, match="must"):
        pass_at_k(n, c, k)
