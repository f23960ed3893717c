"""Measures what this machine takes for the operations of training, once and in some seconds, and keeps it.

What is found lies in the cache folder, a file for each machine. Knows no model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from dougong.core import files
from dougong.core.errors import FileError
from dougong.core.heap import keep_freed_memory
from dougong.plan.kernels import Kernel, kernels
from dougong.plan.machine import machine_name
from dougong.plan.reference import crowding_on
from dougong.plan.tables import Calibration, Table

VERSION = 9

TURNS_BYTES = 48e6
"""Over so many bytes a kernel takes turns: more than lies in a processor's nearer caches."""

LONG = 0.005
"""A call of so many seconds is measured in one go: what disturbs it for a moment is little of it."""


def calibrate(seconds: float = 20.0, folder: Path | None = None) -> Calibration:
    """Measures this machine's processor, and keeps what is found for `calibration`.

    Where it was measured before, the shorter of both times holds: what others did here meanwhile is left out.

    Args:
        seconds: About how long; of it a third is left for repeating calls, as each is made and run once at least.
        folder: Where to keep it; absent: the cache folder.

    Raises:
        ResourceError: The folder cannot be written to.
    """
    begin = time.perf_counter()
    keep_freed_memory()  # as training does
    every = kernels()
    points = sum(math.prod(map(len, kernel.axes)) for kernel in every.values())
    with torch.random.fork_rng(devices=[]):
        overheads = _overheads()
        tables = {name: _table(kernel, seconds / 3 / points) for name, kernel in every.items()}
    found = Calibration(machine_name(), tables, overheads, 1.0, 0.0)
    before, path = calibration(folder), _path(folder)
    found = _shorter(found, before) if before else found
    crowding = min(crowding_on(found), before.crowding if before else math.inf)
    found = dataclasses.replace(found, crowding=crowding, seconds=time.perf_counter() - begin)
    with files.explained(path.parent, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, _written(found))
    return found


def calibration(folder: Path | None = None) -> Calibration | None:
    """Returns what was measured of this machine earlier; None if nothing, or with other kernels than today's.

    Raises:
        FileError: The file is no calibration.
    """
    path = _path(folder)
    return _read(path) if path.exists() else None


def _shorter(one: Calibration, other: Calibration) -> Calibration:
    """Returns the shorter time of each."""
    tables = {
        name: Table(table.axes, tuple(map(min, table.seconds, other.tables[name].seconds)))
        for name, table in one.tables.items()
    }
    overheads = {name: min(seconds, other.overheads[name]) for name, seconds in one.overheads.items()}
    return dataclasses.replace(one, tables=tables, overheads=overheads)


def _path(folder: Path | None) -> Path:
    digest = hashlib.sha256(machine_name().encode()).hexdigest()[:16]
    return (folder or files.cache_folder()) / f"calibration-{digest}.json"


def _table(kernel: Kernel, budget: float) -> Table:
    """Returns the seconds of a kernel, what is short measured twice, some time apart, for about a budget of seconds."""
    points = list(itertools.product(*kernel.axes))
    found = [_measured(_turns(kernel, point), 0.5 * budget) for point in points]
    for place, point in enumerate(points):
        if found[place] < LONG:
            found[place] = min(found[place], _measured(_turns(kernel, point), 0.5 * budget))
    return Table(kernel.axes, tuple(seconds / kernel.calls for seconds in found))


def _turns(kernel: Kernel, point: Sequence[float]) -> list[Callable[[], object]]:
    """Returns calls that read other tensors each.

    So does a step: what an operation reads has left the processor's nearer caches since it was made.
    """
    touched = kernel.touched
    count = 1 if touched is None else int(min(kernel.turns, max(2.0, TURNS_BYTES / touched(*point))))
    return [kernel.make(*point) for _ in range(count)]


def _measured(calls: Sequence[Callable[[], object]], budget: float) -> float:
    """Returns the lower quartile of a call's seconds, after a first round: what others do here at times is left out.

    What the last calls gave is kept, so that each writes elsewhere, as in a step.
    """
    given: deque[object] = deque(maxlen=len(calls))
    for number, call in enumerate(calls, start=1):
        begin = time.perf_counter()
        given.append(call())
        taken = time.perf_counter() - begin
        if taken > 10 * budget and number >= min(2, len(calls)):  # so long that what a first call costs more is nothing
            return taken
    found: list[float] = []
    turn, end = itertools.cycle(calls), time.perf_counter() + budget
    while not found or time.perf_counter() < end:
        call = next(turn)
        begin = time.perf_counter()
        made = call()
        found.append(time.perf_counter() - begin)
        given.append(made)
        del made
    return sorted(found)[len(found) // 4]


class _Scale(torch.nn.Module):
    """As small as a module is."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.5

    def forward(self, hidden: Float[torch.Tensor, " count"]) -> Float[torch.Tensor, " count"]:
        """Returns it scaled."""
        return hidden * self.factor


def _overheads(count: int = 200) -> dict[str, float]:
    """Returns the seconds that an operation on a few numbers takes in a graph of many, called as models do."""
    start, scale = torch.ones(8, requires_grad=True), _Scale()

    def chain(call: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        value = start
        for _ in range(count):
            value = call(value)
        return value

    output = chain(scale)
    slope = torch.ones_like(output)
    return {
        "forward": _measured([lambda: chain(scale)], 0.1) / count,
        "backward": _measured([lambda: torch.autograd.grad(output, start, slope, retain_graph=True)], 0.1) / count,
        "view": _measured([lambda: chain(lambda x: x.view(-1))], 0.1) / count,
        "update": (_measured([_update(count)], 0.1) - _measured([_update(1)], 0.1)) / count,
    }


def _update(count: int) -> Callable[[], object]:
    """Returns AdamW's step over so many parameters of few numbers."""
    parameters = [torch.nn.Parameter(torch.ones(8)) for _ in range(count)]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.1)
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True).step


def _written(found: Calibration) -> dict[str, Any]:
    tables = {name: {"axes": table.axes, "seconds": table.seconds} for name, table in found.tables.items()}
    return {
        "version": VERSION,
        "machine": found.machine,
        "seconds": found.seconds,
        "overheads": dict(found.overheads),
        "crowding": found.crowding,
        "tables": tables,
    }


def _read(path: Path) -> Calibration | None:
    content = files.read_json(path)
    if isinstance(content, dict) and content.get("version") != VERSION:
        return None
    try:
        tables = {
            name: Table(tuple(map(tuple, table["axes"])), tuple(map(float, table["seconds"])))
            for name, table in content["tables"].items()
        }
        found = Calibration(content["machine"], tables, content["overheads"], content["crowding"], content["seconds"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{path} must be a calibration, but is not. Remove it, and calibrate again.") from error
    every = kernels()
    fits = tables.keys() == every.keys() and all(tables[name].axes == kernel.axes for name, kernel in every.items())
    return found if fits else None
