"""One small batch can be learned by heart: the shortest proof that loss, gradient and update belong together."""

from __future__ import annotations

import time

import torch
from torch.optim import Adam

from dougong.check.result import Claim, Result
from dougong.check.subject import Subject
from dougong.core.contracts import Batch
from dougong.core.errors import NonFiniteError

CLAIM = Claim("overfit", "one small batch can be learned by heart")
SHARE = 0.3
LR = 3e-3
CLIP = 1.0


def overfit(subject: Subject) -> Result:
    """Trains on two examples with Adam, nothing dropped, until the loss has fallen to three tenths of what it was.

    Weights beside an adapter learn as well here: what the adapter alone can learn depends on what they have learned.
    """
    model = subject.model().to(subject.device).train()
    if hasattr(model, "adapter"):
        model.requires_grad_(True)
    batch = subject.rows(2, subject.limits.exact / 8).to(subject.device).with_noise(None)
    optimizer = Adam(model.parameters(), LR)
    losses: list[float] = []
    begin = time.monotonic()
    for _ in range(subject.limits.overfit_steps):
        losses.append(_update(subject, model, batch, optimizer))
        if losses[-1] <= SHARE * losses[0]:
            break
        if time.monotonic() - begin > subject.limits.seconds:
            return CLAIM.skipped(f"in {subject.limits.seconds:.0f} s only {len(losses)} updates could be done.")
    measured, allowed = f"{losses[-1] / losses[0]:.2f} of the loss after {len(losses)} updates", f"{SHARE:g}"
    if losses[-1] <= SHARE * losses[0]:
        return CLAIM.held(measured, allowed, losses[-1] / losses[0], SHARE)
    return CLAIM.broken(
        f"the loss on one batch must fall to {SHARE:g} of what it was, but fell from {losses[0]:.4f} to "
        f"{min(losses):.4f} in {len(losses)} updates. Either the targets do not follow from the inputs, or the "
        "gradient is not that of the loss.",
        measured,
        allowed,
    )


def _update(subject: Subject, model: torch.nn.Module, batch: Batch, optimizer: Adam) -> float:
    """Does one update; returns the mean loss before it.

    Raises:
        NonFiniteError: The loss is not finite.
    """
    loss = subject.task.loss(model, batch)
    mean = loss.sum / loss.weight
    value = float(mean.detach())
    if value != value or value in (float("inf"), float("-inf")):
        raise NonFiniteError(f"the loss of one small batch must stay finite, but became {value} while it was learned.")
    optimizer.zero_grad()
    mean.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    return value
