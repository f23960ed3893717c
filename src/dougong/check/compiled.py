"""Compiled blocks compute what the blocks as written compute."""

from __future__ import annotations

from dougong.check.result import Claim, Result
from dougong.check.subject import EXACT, Subject, compared, stepped
from dougong.train.blocks import choose_compile, prepared_blocks

CLAIM = Claim("compiled", "compiled blocks give the loss and gradient of the blocks as written")


def compiled(subject: Subject) -> Result:
    """Compares the real step with and without torch.compile, in fp64; skipped where none will be, however long the run.

    In fp32 both round, each elsewhere, and what a rounding decides (which side of a ReLU, which of a maximum) may move
    a gradient by a hundredth: a wrong kernel would hide in that.
    """
    if subject.config.compile is False:
        return CLAIM.skipped("train.compile is false.")
    model = subject.model().double().to(subject.device).train()
    chosen, reason = choose_compile(subject.config, model, float("inf"))
    if not chosen:
        return CLAIM.skipped(f"it will not be compiled: {reason}.")
    if not len(getattr(model, "blocks", ())):
        return CLAIM.skipped("the model has no repeated blocks.")
    batch = subject.rows(2, subject.limits.exact / 2)
    plain = stepped(subject, model, batch)
    with prepared_blocks(model, True, subject.config.recompute):
        fast = stepped(subject, model, batch)
    difference, worst = compared(fast, plain)
    return CLAIM.judged(
        difference,
        EXACT,
        f"{worst} differs most between compiled and eager (loss {plain.loss:.10g} eager, {fast.loss:.10g} compiled). "
        "Train with --set train.compile=false until the block or the compiler is mended.",
    )
