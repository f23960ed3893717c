"""Evaluating a model on batches in order, and doing so now and then while training.

Knows metrics through their contract; does not know what they measure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import nn

from dougong.core.contracts import Batch, Metric, Task
from dougong.core.every import Every
from dougong.train.state import State


def evaluate(
    model: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    dtype: torch.dtype = torch.float32,
    proceed: Callable[[], bool] = lambda: True,
) -> dict[str, float] | None:
    """Returns the task's figures over all batches, in bounded memory, with nothing dropped and nothing drawn.

    Args:
        dtype: The type of matrix products.
        proceed: Asked before each batch; once it says no, the evaluation is given up and None returned.
    """
    metrics = measured(model, task, batches, dtype, proceed)
    return None if metrics is None else metrics.compute()


@torch.inference_mode()
def measured(
    model: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    dtype: torch.dtype = torch.float32,
    proceed: Callable[[], bool] = lambda: True,
) -> Metric | None:
    """Returns the metrics fed with all batches; else as `evaluate`."""
    device, metrics = next(model.parameters()).device, task.metrics()
    plain = dtype in (torch.float32, torch.float64)
    training = model.training
    model.eval()
    try:
        for batch in batches:
            if not proceed():
                return None
            with contextlib.nullcontext() if plain else torch.autocast(device.type, dtype=dtype):
                metrics.update(model, batch.to(device).with_noise(None))
    finally:
        model.train(training)
    return metrics


class Evaluator:
    """Evaluates the averaged weights, if they are kept, at every multiple of some steps and at the last one.

    Args:
        every: When.
        task: Gives the metrics.
        batches: Gives a fresh iterator over the validation batches; None makes an evaluator that does nothing.
        limit: How many batches each evaluation takes; all if None.
        proceed: Asked before each batch; no gives the evaluation up, and it is made up for after resuming.
    """

    def __init__(
        self,
        every: Every,
        task: Task,
        batches: Callable[[], Iterable[Batch]] | None,
        limit: int | None,
        proceed: Callable[[], bool],
    ):
        self.every, self.task, self.batches, self.limit, self.proceed = every, task, batches, limit, proceed

    def maybe_run(self, state: State) -> dict[str, float] | None:
        """Evaluates if it is due and not yet done at this step; the state takes note. Returns the figures."""
        due = self.every.due(state.step, state.config.steps) and state.evaluated != state.step
        if self.batches is None or not due:
            return None
        with state.shown():
            batches = islice(self.batches(), self.limit)
            figures = evaluate(state.model, self.task, batches, state.dtype, self.proceed)
            if figures is not None:
                state.observe(figures)
        return figures
