"""Contestants that each live in a process of their own and wait, asleep, while another has its turn.

What one does to its process (memory that it keeps, threads, compiled code) so helps and hinders itself alone. Knows
processes and clocks; knows no model.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Ticker:
    """What a contestant calls after each step: it times the steps, and at the end of a turn waits for the next one."""

    def __init__(self, pipe: Any, warmup: int):
        self.pipe, self.steps = pipe, warmup
        self.clock = [time.perf_counter()]

    def __call__(self) -> None:
        """Takes note of the end of a step.

        Raises:
            SystemExit: Nobody wants another turn.
        """
        self.clock.append(time.perf_counter())
        if len(self.clock) <= self.steps:
            return
        self.pipe.send(statistics.median(after - before for before, after in itertools.pairwise(self.clock)))
        try:
            self.steps = self.pipe.recv()
        except EOFError:
            raise SystemExit from None
        self.clock = [time.perf_counter()]


Body = Callable[..., None]
"""Steps for ever, and calls the ticker that it is given first after each of them."""


@contextlib.contextmanager
def processes(bodies: Mapping[str, tuple[Any, ...]], steps: int, warmup: int = 3) -> Iterator[dict[str, Any]]:
    """Gives for each name a function that lets a contestant do a turn and returns its median seconds of a step.

    Args:
        bodies: A `Body` and its further arguments for each name. It must be found by its module's name.
        steps: How many a turn has.
        warmup: How many steps each does at first, which are not counted; they start one after the other.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        turns: dict[str, Any] = {}
        for name, (body, *arguments) in bodies.items():
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, warmup, body, *arguments), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join, 30)
            stack.callback(mine.close)
            mine.recv()
            turns[name] = _turn(mine, steps)
        yield turns


def _turn(pipe: Any, steps: int) -> Callable[[], float]:
    def run() -> float:
        pipe.send(steps)
        seconds: float = pipe.recv()
        return seconds

    return run


def _serve(pipe: Any, warmup: int, body: Body, *arguments: Any) -> None:
    body(Ticker(pipe, warmup), *arguments)
