"""Products in fewer bits stay near products in fp32."""

from __future__ import annotations

import torch
from torch import nn

from dougong.check.result import Claim, Result
from dougong.check.subject import Outcome, Subject, stepped
from dougong.core.device import DTYPES

CLAIM = Claim("precision", "with products in bf16 (or fp16) loss and gradient stay near those in fp32")
LOSS_BOUND, COSINE_BOUND = 1e-2, 0.99
ROUNDED = 3.0  # times what rounding the weights alone moves: a pass rounds at every layer what that rounds once
SAMPLED = 0.5  # of what other examples move: so that it adds little to the noise that training has anyway
ROWS = 2


def precision(subject: Subject) -> Result:
    """Compares the real step in both types: the relative difference of the loss, the angle of the whole gradient.

    A gradient may turn further where that is no fault of how it is computed: where it turns as well when the weights
    are rounded once and all else is in fp32. Then it must stay well within what another draw of examples would give.
    """
    name = subject.config.precision
    if name == "fp32":
        return CLAIM.skipped("train.precision is fp32.")
    name = "bf16" if name == "auto" else name
    model = subject.model().to(subject.device).train()
    batch = subject.rows(ROWS, subject.limits.narrow)
    plain = stepped(subject, model, batch, torch.float32)
    narrow = stepped(subject, model, batch, DTYPES[name])
    difference, cosine = abs(narrow.loss - plain.loss) / max(abs(plain.loss), 1e-30), _cosine(narrow, plain)
    measured = f"loss {difference:.1e}, cosine {cosine:.4f}"
    allowed = f"{LOSS_BOUND:.0e}, at least {COSINE_BOUND}"
    if difference <= LOSS_BOUND and cosine >= COSINE_BOUND:
        return CLAIM.held(measured, allowed, difference, LOSS_BOUND)
    strays, bound = _strays(narrow, plain), _noise(subject, model, len(batch), DTYPES[name])
    if difference <= LOSS_BOUND and strays <= bound:
        measured, allowed = f"loss {difference:.1e}, strays {strays:.2f}", f"{LOSS_BOUND:.0e}, {bound:.2f} as noise"
        return CLAIM.held(measured, allowed, difference, LOSS_BOUND)
    return CLAIM.broken(
        f"in {name} the loss is {narrow.loss:.6g}, in fp32 {plain.loss:.6g}; the gradients' cosine is {cosine:.4f}. "
        "Something in the model needs more bits: compute it in fp32, or train with --set train.precision=fp32.",
        measured,
        allowed,
    )


def _noise(subject: Subject, model: nn.Module, size: int, dtype: torch.dtype) -> float:
    """Returns how far a gradient may stray for a reason that is none of the products'; rounds the model's weights."""
    pieces = subject.rows(2 * size, subject.limits.exact / 2).split(size)
    if len(pieces) < 2 or len(pieces[1]) < size:
        return 0.0
    plain, others = (stepped(subject, model, piece, torch.float32) for piece in pieces[:2])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    rounded = stepped(subject, model, pieces[0], torch.float32)
    return min(SAMPLED * _strays(others, plain), ROUNDED * _strays(rounded, plain))


def _strays(one: Outcome, other: Outcome) -> float:
    """Returns how far a whole gradient is from another, in norms of the other."""
    pairs = [(one.gradients[name].double(), gradient.double()) for name, gradient in other.gradients.items()]
    apart = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    return apart / max(sum(float(b.square().sum()) for _, b in pairs) ** 0.5, 1e-300)


def _cosine(one: Outcome, other: Outcome) -> float:
    """Returns the cosine of two whole gradients."""
    pairs = [(one.gradients[name].double(), gradient.double()) for name, gradient in other.gradients.items()]
    product = sum(float((a * b).sum()) for a, b in pairs)
    norms = [sum(float(pair[i].square().sum()) for pair in pairs) ** 0.5 for i in (0, 1)]
    return product / max(norms[0] * norms[1], 1e-300)
