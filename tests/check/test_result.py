"""A finding says what was measured; an error is a finding with the exit code of its kind."""

from __future__ import annotations

import math

import pytest

from dougong.check.result import Claim, Result, found
from dougong.core.errors import DougongError, FileError, NonFiniteError, ResourceError, UsageError

CLAIM = Claim("sums", "two sums are equal", 1)


def test_a_difference_within_its_bound_passes_and_one_beyond_fails() -> None:
    assert CLAIM.judged(1e-11, 1e-10, "x").verdict == "passed"
    assert CLAIM.judged(1e-10, 1e-10, "x").detail == ""
    beyond = CLAIM.judged(2e-10, 1e-10, "the sums differ")
    assert (beyond.verdict, beyond.exit_code, beyond.detail) == ("failed", 1, "the sums differ")
    assert (beyond.measured, beyond.allowed) == ("2.0e-10 relative", "1e-10")


def test_a_difference_that_is_no_number_fails() -> None:
    assert CLAIM.judged(math.nan, 1e-10, "x").verdict == "failed"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("a"), 2),
        (FileError("a"), 3),
        (ResourceError("a"), 4),
        (NonFiniteError("a"), 5),
        (MemoryError(), 4),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), 4),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 1),
        (KeyError("targets"), 1),
    ],
)
def test_an_error_is_a_failure_with_the_exit_code_of_its_kind(error: Exception, code: int) -> None:
    def failing() -> Result:
        raise error

    result = found(CLAIM, failing)
    assert (result.verdict, result.exit_code) == ("failed", code)
    assert result.seconds > 0
    assert isinstance(error, DougongError | MemoryError) or type(error).__name__ in result.detail or code == 4


def test_being_interrupted_is_no_finding() -> None:
    def interrupted() -> Result:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found(CLAIM, interrupted)
