"""Faults on purpose: a process that is killed, a disk that is full, a number that is no number, at a named point.

`DOUGONG_FAULT=point:step[:kind]` (several with commas) is honoured only with `DOUGONG_TESTING=1`. Knows points and
kinds; does not know what is promised when one strikes (`docs/reliability.md` does).
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time

from dougong.core.errors import UsageError

POINTS = {
    "data": "a batch is being made (in a worker, if there are any)",
    "loss": "the loss of a batch is known, but not yet its gradient",
    "grad": "the gradient of a batch is known",
    "step": "a step is done",
    "ckpt.shard": "a file of a checkpoint is about to be written",
    "ckpt.fsync": "a checkpoint's files are written, but not yet brought to the disk",
    "ckpt.commit": "a checkpoint is on the disk, but not yet under its name",
    "ckpt.prune": "a checkpoint has its name, and the oldest is about to be removed",
}
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "usr1": signal.SIGUSR1, "int": signal.SIGINT}
_ERRORS = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "eio": errno.EIO}
_VALUES = {"nan": float("nan"), "inf": float("inf"), "spike": 50.0}
_WITH_NUMBERS = ("loss", "grad")
_KINDS = (*_SIGNALS, *_ERRORS, *_VALUES, "memory", "bug")


def strike(point: str, step: int) -> float | None:
    """Lets the fault planned for this point and step happen; nearly always, nothing.

    Args:
        point: One of `POINTS`.
        step: The step that is being done, counted from 1. For `data`, `loss` and `grad` it is the number of the batch,
            counted from 1: the same, unless batches were passed over; so that a bad batch stays the bad one.

    Returns:
        What the caller is to multiply a number of its own by (NaN, infinity, or 50 for `spike`), else None.

    Raises:
        UsageError: `DOUGONG_FAULT` names no known point or kind, or a kind that means nothing at its point.
        OSError: A disk that is full, over quota or failing is to be met.
        MemoryError: A memory that is full is to be met.
        RuntimeError: A mistake of our own is to be met.
    """
    plan = os.environ.get("DOUGONG_FAULT")
    if not plan or os.environ.get("DOUGONG_TESTING") != "1":
        return None
    for where, when, kind in [_parsed(word) for word in plan.split(",")]:
        if (where, when) == (point, step):
            return _happen(kind)
    return None


def _parsed(word: str) -> tuple[str, int, str]:
    where, _, rest = word.strip().partition(":")
    when, _, kind = rest.partition(":")
    kind = kind or "kill"
    known = kind in _KINDS or re.fullmatch(r"sleep\d+(\.\d+)?", kind)
    if where not in POINTS or not re.fullmatch(r"\d+", when) or not known:
        raise UsageError(
            f"DOUGONG_FAULT must be point:step[:kind], but is {word!r}. Points: {', '.join(POINTS)}. "
            f"Kinds: {', '.join(_KINDS)}, sleep2 (seconds)."
        )
    if kind in _VALUES and where not in _WITH_NUMBERS:
        raise UsageError(
            f"DOUGONG_FAULT must spoil a number where there is one, but is {word!r}. "
            f"Use {kind} at {' or '.join(_WITH_NUMBERS)}."
        )
    return where, int(when), kind


def _happen(kind: str) -> float | None:
    if kind in _VALUES:
        return _VALUES[kind]
    if kind in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[kind])
    elif kind in _ERRORS:
        raise OSError(_ERRORS[kind], os.strerror(_ERRORS[kind]))
    elif kind == "memory":
        raise MemoryError("a fault on purpose")
    elif kind == "bug":
        raise RuntimeError("a fault on purpose")
    else:
        time.sleep(float(kind.removeprefix("sleep")))
    return None
