"""Every parameter learns: none is cut off from the loss, and no gradient is NaN or infinite."""

from __future__ import annotations

import torch

from dougong.check.result import Claim, Result
from dougong.check.subject import Subject, noisy
from dougong.core.errors import NonFiniteError

CLAIM = Claim("gradients", "every parameter receives a gradient that is finite and not zero throughout")
ROUNDS = 3


def gradients(subject: Subject) -> Result:
    """Looks for a gradient in every parameter, on up to three passes with a small update between them.

    A parameter may wait for another: what stands before weights that begin as zero has no gradient at the first pass.
    """
    model = subject.model().to(subject.device).train()
    batch = subject.rows(4, subject.limits.exact / ROUNDS).to(subject.device)
    missing = {name for name, p in model.named_parameters() if p.requires_grad}
    total = len(missing)
    for number in range(ROUNDS):
        subject.task.loss(model, noisy(subject, model, batch, number)).sum.backward()
        missing -= _received(model)
        if not missing:
            return CLAIM.held(f"0 of {total:,} without", "0", 0.0, 0.0)
        _nudge(model)
    names = sorted(missing)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return CLAIM.broken(
        f"{', '.join(names[:5])}{more}: no gradient arrives. The loss does not depend on it; use it, freeze it "
        "(requires_grad) or take it out.",
        f"{len(names):,} of {total:,} without",
        "0",
    )


def _received(model: torch.nn.Module) -> set[str]:
    """Returns the parameters that have a gradient.

    Raises:
        NonFiniteError: One of them is not finite.
    """
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for name, grad in grads.items():
        if not bool(torch.isfinite(grad).all()):
            raise NonFiniteError(f"the gradient of {name} must be finite, but is not. Look at its module and the data.")
    return {name for name, grad in grads.items() if bool(grad.any())}


@torch.no_grad()
def _nudge(model: torch.nn.Module) -> None:
    """Moves each parameter a little against its gradient."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.sub_(parameter.grad * (1e-3 / parameter.grad.norm().clamp(min=1e-12)))
            parameter.grad = None
