"""Products in fewer bits stay near products in fp32."""

from __future__ import annotations

import torch

from dougong.check.result import Claim, Result
from dougong.check.subject import Outcome, Subject, stepped
from dougong.core.device import DTYPES

CLAIM = Claim("precision", "with products in bf16 (or fp16) loss and gradient stay near those in fp32")
LOSS_BOUND, COSINE_BOUND = 1e-2, 0.99


def precision(subject: Subject) -> Result:
    """Compares the real step in both types: the relative difference of the loss, the angle of the whole gradient."""
    name = subject.config.precision
    if name == "fp32":
        return CLAIM.skipped("train.precision is fp32.")
    name = "bf16" if name == "auto" else name
    model = subject.model().to(subject.device).train()
    batch = subject.rows(2, subject.limits.narrow)
    plain = stepped(subject, model, batch, torch.float32)
    narrow = stepped(subject, model, batch, DTYPES[name])
    difference, cosine = abs(narrow.loss - plain.loss) / max(abs(plain.loss), 1e-30), _cosine(narrow, plain)
    measured = f"loss {difference:.1e}, cosine {cosine:.4f}"
    allowed = f"{LOSS_BOUND:.0e}, at least {COSINE_BOUND}"
    if difference <= LOSS_BOUND and cosine >= COSINE_BOUND:
        return CLAIM.held(measured, allowed, difference, LOSS_BOUND)
    return CLAIM.broken(
        f"in {name} the loss is {narrow.loss:.6g}, in fp32 {plain.loss:.6g}; the gradients' cosine is {cosine:.4f}. "
        "Something in the model needs more bits: compute it in fp32, or train with --set train.precision=fp32.",
        measured,
        allowed,
    )


def _cosine(one: Outcome, other: Outcome) -> float:
    """Returns the cosine of two whole gradients."""
    pairs = [(one.gradients[name].double(), gradient.double()) for name, gradient in other.gradients.items()]
    product = sum(float((a * b).sum()) for a, b in pairs)
    norms = [sum(float(pair[i].square().sum()) for pair in pairs) ** 0.5 for i in (0, 1)]
    return product / max(norms[0] * norms[1], 1e-300)
