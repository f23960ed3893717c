"""Compiled blocks compute what the blocks as written compute."""

from __future__ import annotations

import torch

from dougong.check.result import Claim, Result
from dougong.check.subject import Subject, compared, stepped
from dougong.core.errors import UsageError
from dougong.train.blocks import choose_compile, prepared_blocks

CLAIM = Claim("compiled", "compiled blocks give the loss and gradient of the blocks as written")
BOUND = 1e-4  # of a gradient's norm, in fp32: fused kernels round elsewhere, and a wrong kernel is off by far more


def compiled(subject: Subject) -> Result:
    """Compares the real step with and without torch.compile, in fp32; skipped where nothing will be compiled."""
    if subject.config.compile is False:
        return CLAIM.skipped("train.compile is false.")
    model = subject.model().to(subject.device).train()
    try:
        choose_compile(subject.config.replace(compile=True), model, None)
    except UsageError as error:
        if subject.config.compile is True:
            raise
        return CLAIM.skipped(str(error))
    if not len(getattr(model, "blocks", ())):
        return CLAIM.skipped("the model has no repeated blocks.")
    batch = subject.rows(2, subject.limits.exact / 2)
    plain = stepped(subject, model, batch, torch.float32)
    with prepared_blocks(model, True, subject.config.recompute):
        fast = stepped(subject, model, batch, torch.float32)
    difference, worst = compared(fast, plain)
    return CLAIM.judged(
        difference,
        BOUND,
        f"{worst} differs most between compiled and eager (loss {plain.loss:.7g} eager, {fast.loss:.7g} compiled). "
        "Train with --set train.compile=false until the block or the compiler is mended.",
    )
