"""Nothing leaks: an example, a packed document, the past of a row have the loss that they have alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn

from dougong.check.result import Claim, Result
from dougong.check.subject import EXACT, Subject
from dougong.core.contracts import Batch

CLAIM = Claim("separate", "what is packed or batched together has the loss that it has apart")
ROWS = 3


@torch.no_grad()
def separate(subject: Subject) -> Result:
    """Compares losses in fp64, of what the task says must be equal and of each example alone."""
    model, asked, worst = subject.stirred().eval(), set[str](), 0.0
    batch = subject.rows(ROWS, subject.limits.exact).to(next(model.parameters()).device).with_noise(None)
    faults = []
    for claim, pairs in groupby(_equalities(subject, batch), key=lambda equality: equality[0]):
        asked.add(claim)
        found = [_difference(subject, model, whole, parts) for _, whole, parts in pairs]
        difference, text = max(found, key=lambda pair: pair[0] if pair[0] == pair[0] else float("inf"))
        worst = max(worst, difference) if difference == difference else float("inf")
        if not difference <= EXACT:
            faults.append(f"Broken: {claim}. {text}, a relative difference of {difference:.1e}.")
    return CLAIM.judged(worst, EXACT, " ".join(faults), f"relative, {len(asked)} claims")


def _equalities(subject: Subject, batch: Batch) -> Iterator[tuple[str, Batch, Sequence[Batch]]]:
    of_task: Callable[..., Any] | None = getattr(subject.task, "equalities", None)
    if of_task is not None:
        yield from of_task(batch)
    if len(batch) > 1:
        yield "each example of a batch equals the example alone", batch, batch.split(1)


def _difference(subject: Subject, model: nn.Module, whole: Batch, parts: Sequence[Batch]) -> tuple[float, str]:
    """Returns the relative difference of the loss together and apart, and both in words."""
    together = float(subject.task.loss(model, whole).sum)
    apart = sum(float(subject.task.loss(model, part).sum) for part in parts)
    numbers = whole.samples.tolist()
    which = f"sample {numbers[0]}" if len(numbers) == 1 else f"samples {numbers[0]} to {numbers[-1]}"
    text = f"In {which} the loss is {together:.8g} together and {apart:.8g} apart"
    return abs(together - apart) / max(abs(apart), 1e-30), text
