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
    "loss": "the loss of a step is known",
    "grad": "the gradient of a step is known",
    "step": "a step is done",
    "ckpt.shard": "a file of a checkpoint is about to be written",
    "ckpt.fsync": "a checkpoint's files are written, but not yet brought to the disk",
    "ckpt.commit": "a checkpoint is on the disk, but not yet under its name",
    "ckpt.prune": "a checkpoint has its name, and the oldest is about to be removed",
}
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "usr1": signal.SIGUSR1, "int": signal.SIGINT}
_ERRORS = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "eio": errno.EIO}
_VALUES = ("nan", "inf", "spike")
_KINDS = (*_SIGNALS, *_ERRORS, *_VALUES, "memory", "bug")


def strike(point: str, step: int) -> str | None:
    """Lets the fault planned for this point and step happen; nearly always, nothing.

    Returns:
        `nan`, `inf` or `spike` where the caller is to spoil a number of its own, else None.

    Raises:
        UsageError: `DOUGONG_FAULT` names no known point or kind.
        OSError: A disk that is full, over quota or failing is to be met.
        MemoryError: A memory that is full is to be met.
        RuntimeError: A mistake of our own is to be met.
    """
    plan = os.environ.get("DOUGONG_FAULT")
    if not plan or os.environ.get("DOUGONG_TESTING") != "1":
        return None
    for word in plan.split(","):
        where, when, kind = _parsed(word)
        if (where, when) == (point, step):
            return _happen(kind)
    return None


def _parsed(word: str) -> tuple[str, int, str]:
    where, _, rest = word.strip().partition(":")
    when, _, kind = rest.partition(":")
    kind = kind or "kill"
    if where not in POINTS or not when.isdigit() or not (kind in _KINDS or re.fullmatch(r"sleep\d+(\.\d+)?", kind)):
        raise UsageError(
            f"DOUGONG_FAULT must be point:step[:kind], but is {word!r}. Points: {', '.join(POINTS)}. "
            f"Kinds: {', '.join(_KINDS)}, sleep2 (seconds)."
        )
    return where, int(when), kind


def _happen(kind: str) -> str | None:
    if kind in _VALUES:
        return kind
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
