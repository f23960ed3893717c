"""pass@k: the chance that at least one of k programs passes, estimated without bias from n of them.

Knows two counts; knows no programs.
"""

from __future__ import annotations

import math

from dougong.core.errors import UsageError


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Returns the share of all choices of `k` of the samples in which at least one passed.

    That is 1 - C(n - c, k) / C(n, k), as a product in which nothing is large (Chen et al. 2021, "Evaluating large
    language models trained on code", equation 1).

    Raises:
        UsageError: `k` is not from 1 to the number of samples, or more passed than there are.
    """
    if not 1 <= k <= samples:
        raise UsageError(f"k must be from 1 to the {samples} samples of a problem, but is {k}. Take more samples.")
    if not 0 <= passed <= samples:
        raise UsageError(f"of {samples} samples, from 0 to {samples} must have passed, but {passed} have.")
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - passed + 1, samples + 1))
