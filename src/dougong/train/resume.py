"""Whether a saved state may be gone on with, and what holds then: which fields may differ, and which bits are equal.

Knows names and values; does not know how a state is saved.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dougong.core import log
from dougong.core.config import did_you_mean
from dougong.core.device import DTYPES
from dougong.core.errors import UsageError
from dougong.train.report import versions
from dougong.train.state import State

MAY_CHANGE = (
    "steps", "optimizer.lr", "device", "compile", "recompute", "microbatch_size", "workers", "checkpoint", "evaluate",
    "log", "samples", "profile", "on_nonfinite", "max_nonfinite", "spike", "grace",
)  # fmt: skip
"""Options of training that may differ between two calls."""
NOT_WHILE_REWINDING = ("checkpoint.every", "spike")
"""Of these, those that a run which goes back to its checkpoints must keep: they decide where it goes back to."""
OVER_ALL_STEPS = ("linear", "polynomial", "cosine", "wsd")
"""Schedules whose learning rate at any step depends on the number of all steps."""
NEVER = ("train.optimizer.name",)
"""Fields that nobody can allow to differ: what is saved would mean nothing."""


@dataclass(frozen=True)
class Resume:
    """How a run is gone on with.

    Attributes:
        allow: Fields that may differ from those the run was begun with, such as `train.seed` or `data`.
        fallback: If the newest checkpoint is damaged, take the one before it.
    """

    allow: Sequence[str] = ()
    fallback: bool = False


def resume_of(given: Resume | bool | None) -> Resume | None:
    """Returns how a run is gone on with, or None for not at all; True is with nothing allowed."""
    return (Resume() if given else None) if given is None or isinstance(given, bool) else given


@dataclass(frozen=True)
class Changes:
    """What differs from the call before, all of it permitted.

    Attributes:
        free: Fields that may always differ: what they were and are.
        allowed: Fields that the person allows to differ.
        altering: Those of the free ones with which the unbroken run would have had other numbers.
    """

    free: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    allowed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    altering: Sequence[str] = ()

    def say(self) -> None:
        """Tells the person."""
        for name, (old, new) in self.free.items():
            log.say(f"{name} was {_short(old)} and is now {_short(new)}")
        for name, (old, new) in self.allowed.items():
            log.warn(f"{name} was {_short(old)} and is now {_short(new)}, as --allow permits: it is now another run")

    def record(self) -> dict[str, dict[str, list[Any]]]:
        """Returns the changes as JSON values."""
        pairs = {"changed": self.free, "allowed": self.allowed}
        return {kind: {name: list(pair) for name, pair in found.items()} for kind, found in pairs.items()}


def permitted(before: Mapping[str, Any], now: Mapping[str, Any], allow: Sequence[str]) -> Changes:
    """Returns what differs between a saved run's fields and the present ones, if all of it may.

    Args:
        before: The fields in the checkpoint, nested.
        now: Those of this call.
        allow: Names of fields, or of sections, that may differ besides those that always may.

    Raises:
        UsageError: Something else differs; the message has a table of it.
    """
    changes = dict(_differences(before, now))
    rewinding, same_data = _rewinds(before.get("train", {})), "data.fingerprint" not in changes
    free = {
        name: pair
        for name, pair in changes.items()
        if _may_change(name, rewinding) or (name.startswith("data.") and same_data)  # it stands for all of them
    }
    allowed = {
        name: pair for name, pair in changes.items() if name not in free and _under(name, allow) and name not in NEVER
    }
    refuse_changes({name: pair for name, pair in changes.items() if name not in free and name not in allowed})
    return Changes(free, allowed, [name for name in free if _alters(name, now.get("train", {}))])


def refuse_changes(changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Complains of fields that may not differ, if there are any.

    Raises:
        UsageError: With a table: each field, what it was and what it is.
    """
    if not changes:
        return
    table = "".join(f"\n  {name}: was {_short(old)}, is {_short(new)}" for name, (old, new) in changes.items())
    possible = not changes.keys() & set(NEVER)
    advice = f", or permit it with {' '.join(f'--allow {name}' for name in changes)}" if possible else ""
    raise UsageError(
        f"a resumed run must be the one that was begun, but differs in {len(changes)} of its fields:{table}\n"
        f"Undo the changes, start a new run{advice}.",
        name="E-CHANGED",
    )


def require_known(allow: Sequence[str], *fields: Mapping[str, Any]) -> None:
    """Sees that each allowed name is that of a field or a section.

    Raises:
        UsageError: One is not; the message names the nearest.
    """
    known = sorted({name for nested in fields for name in _names(nested)})
    for name in allow:
        if name not in known:
            raise UsageError(f"--allow {name} must name a field of the run, but there is none.{_near(name, known)}")
        if name in NEVER:
            raise UsageError(
                f"--allow {name} has no effect: the saved state of one optimizer means nothing to another. "
                "Start a new run with init_from."
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _near(name: str, known: Sequence[str]) -> str:
    inner = [full for full in known if full.endswith(f".{name}")]
    return f" Did you mean {inner[0]}?" if inner else did_you_mean(name, [*known])


def _names(nested: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in nested.items():
        full = f"{path}.{name}" if path else name
        yield full
        if isinstance(value, Mapping):
            yield from _names(value, full)


def _rewinds(train: Mapping[str, Any]) -> bool:
    return train.get("on_nonfinite") == "rewind" or (train.get("spike") or {}).get("action") == "rewind"


def _alters(name: str, train: Mapping[str, Any]) -> bool:
    """Tells whether a field that may differ makes other numbers of the steps before it did."""
    schedule = (train.get("schedule") or {}).get("name")
    heeds_evaluations = schedule == "plateau" or bool(train.get("early_stopping"))
    if name == "train.steps":  # at the last step there is an evaluation, whatever the others' rhythm
        return schedule in OVER_ALL_STEPS or heeds_evaluations
    return name == "train.optimizer.lr" or (heeds_evaluations and name.startswith("train.evaluate."))


def _may_change(name: str, rewinding: bool) -> bool:
    option = name.removeprefix("train.")
    if rewinding and _under(option, NOT_WHILE_REWINDING):
        return False
    return option != name and _under(option, MAY_CHANGE)


def _under(name: str, sections: Sequence[str]) -> bool:
    return any(name == section or name.startswith(section + ".") for section in sections)


def _differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yields what differs between two nested values, by dotted path."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in [*before, *(name for name in now if name not in before)]:
            yield from _differences(before.get(name), now.get(name), f"{path}.{name}" if path else name)
        return
    before, now = (list(value) if isinstance(value, tuple) else value for value in (before, now))
    if before != now:
        yield path, (before, now)


def precision_name(dtype: torch.dtype) -> str:
    """Returns `fp32` for `torch.float32`."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def environment(state: State, compiled: bool) -> dict[str, Any]:
    """Returns what the bits of a result depend on besides the recipe, by name."""
    found, device = versions(), state.device
    return {
        "dougong": found["dougong"],
        "torch": found["torch"],
        "python": found["python"],
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "compile": compiled,
        "recompute": state.config.recompute,
        "microbatch_size": state.config.microbatch_size,
    }


def guarantee(before: Mapping[str, Any] | None, now: Mapping[str, Any], changes: Changes) -> str:
    """Returns what holds of a run that is gone on with, in a sentence.

    Args:
        before: The environment in which the checkpoint was written; None at a fresh start.
        now: That of this call.
        changes: What differs from the call before.
    """
    here = f"{now['machine']} {now['cpu']}, threads {now['threads']}, torch {now['torch']}"
    reasons = [f"{name} {old} -> {new}" for name, (old, new) in _differences(before or now, now)]
    if now["device"] != "cpu":
        reasons.append(f"{now['device']} adds in no fixed order")
    if changes.allowed or changes.altering:
        names = [*changes.altering, *changes.allowed]
        allowed = ", as allowed" if changes.allowed else ""
        return f"not the run that was begun: {', '.join(names)} differ{'s' * (len(names) == 1)}{allowed}"
    if reasons:
        what = "resumed, it is" if before is None else "it is"
        return f"{what} equal up to rounding, not bit for bit, because: {', '.join(reasons)}"
    if before is None:
        return f"resumed, it is the unbroken run bit for bit, on the same machine class, threads and versions ({here})"
    return f"it is the unbroken run bit for bit: same machine class, threads and versions ({here})"
