"""What a check found: a claim, what was measured, what is allowed, and what is wrong where.

Knows no check. An error that a check runs into is a finding too, with the exit code of its kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dougong.core.errors import DougongError, ResourceError, is_memory

Verdict = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Result:
    """The finding of one check.

    Attributes:
        name: The check, as its file is named.
        claim: What holds if it passes, in words.
        verdict: Whether it does.
        measured: What was measured, for a person.
        allowed: What was allowed, for a person.
        difference: The number that decided, where one did.
        bound: What it was held against.
        detail: What is wrong and where; of a skipped check, why it was skipped.
        exit_code: What the process returns if this is what failed; 0 if nothing did.
        seconds: How long it took.
    """

    name: str
    claim: str
    verdict: Verdict
    measured: str = ""
    allowed: str = ""
    difference: float | None = None
    bound: float | None = None
    detail: str = ""
    exit_code: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Claim:
    """A check's name and claim, from which its results are made.

    Attributes:
        name: The check, as its file is named.
        text: What holds if it passes, in words.
        exit_code: What a failure returns.
    """

    name: str
    text: str
    exit_code: int = 1

    def held(self, measured: str, allowed: str, difference: float | None = None, bound: float | None = None) -> Result:
        """Returns that it holds."""
        return Result(self.name, self.text, "passed", measured, allowed, difference, bound)

    def broken(self, detail: str, measured: str = "", allowed: str = "") -> Result:
        """Returns that it does not hold, with a sentence that names what is wrong."""
        return Result(self.name, self.text, "failed", measured, allowed, detail=detail, exit_code=self.exit_code)

    def skipped(self, reason: str) -> Result:
        """Returns that it was not asked, and why."""
        return Result(self.name, self.text, "skipped", detail=reason)

    def judged(self, difference: float, bound: float, detail: str, unit: str = "relative") -> Result:
        """Returns whether a difference is within its bound; a number that is none is not.

        Args:
            detail: What to say if it is not.
        """
        measured, allowed = f"{difference:.1e} {unit}" if difference else f"0 {unit}", f"{bound:.0e}"
        if difference <= bound:
            return self.held(measured, allowed, difference, bound)
        return replace(self.broken(detail, measured, allowed), difference=difference, bound=bound)


def found(claim: Claim, check: Callable[[], Result]) -> Result:
    """Returns what a check finds, with its time; an error it runs into is a failure with the exit code of its kind."""
    begin = time.perf_counter()
    try:
        result = check()
    except DougongError as error:
        result = replace(claim.broken(str(error)), exit_code=error.exit_code)
    except Exception as error:  # of the model, the task or the data under proof: it is their finding, not our end
        text = f"{type(error).__name__}: {error}".strip().split("\n")[0].rstrip(". ")[:300]
        result = claim.broken(f"an error was raised: {text}.")
        if is_memory(error):
            full = f"the memory is full ({text}). Lower train.microbatch_size, or take a smaller model or context."
            result = replace(claim.broken(full), exit_code=ResourceError.exit_code)
    return replace(result, seconds=time.perf_counter() - begin)
