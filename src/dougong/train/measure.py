"""The memory that a step really takes on a CPU: every allocation that torch makes and gives back, in order.

Measured by torch's profiler, so that neither the interpreter nor the libraries count. Knows a state and a batch.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator

from dougong.core.contracts import Batch, Task
from dougong.train.blocks import prepared_blocks
from dougong.train.state import State
from dougong.train.step import optimizer_step


def step_peak(state: State, batch: Batch, task: Task) -> int:
    """Returns the bytes of the state, and on top the most that a step holds, after a first step that is not measured.

    The state is two steps further afterwards.
    """
    with prepared_blocks(state.model, False, state.config.recompute):
        optimizer_step(state, batch, task)
        changes = allocations(lambda: optimizer_step(state, batch, task))
    held = [*state.model.parameters(), *state.model.buffers()]
    held += [tensor for name in ("optimizer", "average") for tensor in state.tensors()[name].values()]
    return sum({t.data_ptr(): t.untyped_storage().nbytes() for t in held}.values()) + highest(changes)


def allocations(work: Callable[[], object]) -> list[int]:
    """Returns every allocation (above 0) and release (below) of torch's memory on the CPU, in order."""
    from torch.profiler import ProfilerActivity, profile

    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        work()
    results = trace.profiler.kineto_results if trace.profiler is not None else None
    events = [] if results is None else [event for event in results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def highest(changes: Iterable[int]) -> int:
    """Returns the highest sum that changes reach one after the other, beginning at 0."""
    now = found = 0
    for change in changes:
        now += change
        found = max(found, now)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within this context nothing reaches standard error: the profiler announces itself there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
