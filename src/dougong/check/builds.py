"""The recipe builds: a model without memory, and a loss through it, before anything is allocated."""

from __future__ import annotations

import torch

from dougong.check.result import Claim, Result
from dougong.check.subject import Subject

CLAIM = Claim("builds", "the recipe builds, and its loss can be computed, before a byte is allocated", 2)


def builds(subject: Subject) -> Result:
    """Builds on the meta device and runs the loss forward and backward there."""
    model = subject.blank()
    real = [name for name, tensor in model.state_dict().items() if not tensor.is_meta]
    if real:
        return CLAIM.broken(f"{real[0]} is allocated although the model is built on the meta device. Build it there.")
    loss = subject.task.loss(model, subject.task.example_batch(2, "meta"))
    if loss.sum.shape != torch.Size() or loss.weight.shape != torch.Size():
        return CLAIM.broken("a loss must be a sum and a weight, both scalars, but is not. Sum over all items.")
    loss.sum.backward()
    return CLAIM.held(f"{sum(p.numel() for p in model.parameters()):,} parameters", "")
