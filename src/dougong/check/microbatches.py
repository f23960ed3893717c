"""Accumulation changes nothing: a batch in pieces gives the loss and gradient of the batch as a whole (law 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dougong.check.result import Claim, Result
from dougong.check.subject import EXACT, Subject, compared, frozen, stepped

CLAIM = Claim("microbatches", "a batch in microbatches gives the update of the whole batch")
ROWS, PIECE = 5, 2


def microbatches(subject: Subject) -> Result:
    """Compares the real step over five examples of unequal weight, at once and as two, two and one, in fp64."""
    batch = subject.rows(ROWS, subject.limits.exact / 2)
    if len(batch) < 2:
        return CLAIM.skipped("there is only one example.")
    uneven: Callable[..., Any] | None = getattr(subject.task, "uneven", None)
    batch = batch if uneven is None else uneven(batch)
    model = subject.stirred()
    norms = frozen(model)
    if norms and _accumulates(subject):
        return CLAIM.broken(
            f"{norms[0]} takes its statistics over each microbatch, and not over the batch: train.microbatch_size "
            "changes the update. Remove it, or take a norm of each place (layer, rms) or of groups of channels (group)."
        )
    whole = stepped(subject, model, batch)
    pieces = stepped(subject, model, batch, microbatch_size=min(PIECE, len(batch) - 1))
    difference, worst = compared(pieces, whole)
    return CLAIM.judged(
        difference,
        EXACT,
        f"{worst} differs most between the whole batch and its microbatches (loss {whole.loss:.10g} against "
        f"{pieces.loss:.10g}). Pieces of unequal weight must be added as sums and divided once, not averaged as means.",
        "relative, running statistics" if norms else "relative",
    )


def _accumulates(subject: Subject) -> bool:
    """Returns whether a step of training takes more than one microbatch."""
    config = subject.config
    size = subject.samples if config.batch_size == "all" else config.batch_size
    return config.microbatch_size is not None and config.microbatch_size < size
