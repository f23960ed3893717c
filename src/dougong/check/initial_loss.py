"""A model that has learned nothing does as well as chance: more is a leak, less a mistake in the start."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dougong.check.result import Claim, Result
from dougong.check.subject import Subject

CLAIM = Claim("initial_loss", "before training the loss is what chance predicts")
ROWS = 8
ITEMS = 256  # at least so many decide, or all that the work allows: of a few, chance alone may get most right
BOUND = 0.1  # of chance: logits that differ at random cost a little more than logits that are equal


@torch.no_grad()
def initial_loss(subject: Subject) -> Result:
    """Compares the mean loss of fresh weights over some examples with the task's chance."""
    of_task: Callable[[], float | None] = getattr(subject.task, "chance", lambda: None)
    chance = of_task()
    if not subject.from_scratch:
        return CLAIM.skipped("training starts from weights that have learned (init_from).")
    if chance is None:
        return CLAIM.skipped("the task predicts no chance.")
    model = subject.model().to(subject.device).train()
    work = subject.limits.exact / 2
    loss = subject.task.loss(model, subject.rows(ROWS, work).to(subject.device))
    if 0 < loss.weight < ITEMS:
        wanted = math.ceil(ROWS * ITEMS / float(loss.weight))
        loss = subject.task.loss(model, subject.rows(wanted, work).to(subject.device))
    mean = float(loss.parts.get("nll", loss.sum) / loss.weight)
    difference = abs(mean - chance) / chance
    if difference <= BOUND:
        return CLAIM.held(f"{mean:.3f}", f"{chance:.3f} within {BOUND:.0%}", difference, BOUND)
    kind = "below: the answer leaks into the input" if mean < chance else "above: the initial weights are too large"
    return CLAIM.broken(
        f"the mean loss is {mean:.4f} where chance gives {chance:.4f}. It is {kind}, or targets and outputs are not "
        "matched. Look at init_weights, at the mask, and at how targets are shifted.",
        f"{mean:.3f}",
        f"{chance:.3f} within {BOUND:.0%}",
    )
