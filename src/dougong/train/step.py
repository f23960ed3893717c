"""One update of the weights: sums over microbatches, one division, the checks, then the optimizer.

Knows a state, a batch and a task; knows no files and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from dougong.core import seed as seeds
from dougong.core.contracts import Batch, Loss, Task
from dougong.core.errors import UsageError
from dougong.core.injection import strike
from dougong.train.nonfinite import NonFiniteStep, first_bad, spoiled_buffer
from dougong.train.optim import set_learning_rate
from dougong.train.state import State

ADVICE = "Lower the learning rate, add clip_norm or warm-up, or look at these samples."


@dataclass(frozen=True)
class Report:
    """The numbers of one step. The loop adds the timings and the evaluation.

    Attributes:
        step: Steps done, this one included.
        loss: Mean loss over the batch, with smoothing, penalties and L2.
        lr: Learning rate of the update.
        grad_norm: Global norm of the gradient, before clipping.
        items: How many items (tokens, pictures) the batch had that count.
        samples: Global numbers of the examples, as ranges [first, last].
        parts: Further means by name, contained in the loss.
        skipped: The update was left out: fp16 overflowed, or a number was not finite.
        reason: Which number that was, where the run skips such steps.
        seconds: Of the whole step: waiting for the batch, computing, evaluating and saving not included.
        data_seconds: Of these, waiting for the batch.
        items_per_second: Items over seconds.
        mfu: Share of the measured peak of matrix products that the model's own operations reach; None if unknown.
        evaluation: The figures of the evaluation after this step, if there was one.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    items: float
    samples: Sequence[tuple[int, int]]
    parts: Mapping[str, float] = field(default_factory=dict)
    skipped: bool = False
    reason: str = ""
    seconds: float = 0.0
    data_seconds: float = 0.0
    items_per_second: float = 0.0
    mfu: float | None = None
    evaluation: Mapping[str, float] | None = None


@dataclass
class _Sums:
    """What the microbatches of one step add up to, on the device."""

    loss: Tensor
    weight: Tensor
    parts: dict[str, Tensor]
    unit: Tensor


def optimizer_step(state: State, batch: Batch, task: Task) -> Report:
    """Updates the weights by one batch and returns its numbers.

    The gradient is that of `sum of losses / sum of weights + l2 / (2 m) * sum of squared parameters` over the whole
    batch, however it is cut into microbatches (law 2). There is one wait for the device, before the update.

    Raises:
        NonFiniteStep: The loss or the gradient is not finite, and the run does not skip that; no weight was changed.
        UsageError: No item of the batch counts.
    """
    config, samples = state.config, batch.samples
    batch = batch.to(state.device)
    if draws_noise(state.model):
        batch = batch.with_noise(seeds.sample_keys(batch.samples, config.seed, "dropout", state.step))
    microbatches = batch.split(config.microbatch_size or len(batch))
    sums = _backward(state, microbatches, task)
    gradients = [p.grad for p in state.parameters.values() if p.grad is not None]
    _spoil(gradients, strike("grad", state.batch_number + 1))
    remaining = sums.unit / (state.scale.value * sums.weight)
    penalty = sums.loss.new_zeros(())
    if config.l2:
        remaining, penalty = _add_l2(state, gradients, remaining)
    norm = _norm(gradients) * remaining
    values = [sums.loss / sums.weight + penalty, norm, sums.weight, remaining]
    numbers = _read([*values, *(part / sums.weight for part in sums.parts.values())])
    loss, grad_norm, weight, factor = numbers[:4]
    if weight == 0:
        raise UsageError(f"a batch must have an item that counts, but step {state.step + 1} has none. Check the data.")
    skipped = not (math.isfinite(loss) and math.isfinite(grad_norm))
    lr = set_learning_rate(state.optimizers, config.optimizer, state.schedule.factor(state.step))
    reason = ""
    if skipped:
        reason = _skip(state, microbatches, task, loss)
    else:
        _update(state, gradients, factor, grad_norm)
    _clear(state)
    state.step += 1
    # What a person counts: the items that weigh, or where the weight counts something else the examples.
    items = float(len(batch)) if getattr(task, "counts_examples", False) else weight
    state.items += items
    parts = dict(zip(sums.parts, numbers[4:], strict=True))
    return Report(state.step, loss, lr, grad_norm, items, ranges(samples), parts, skipped, reason)


def draws_noise(model: nn.Module) -> bool:
    """Tells whether a model drops anything: a probability of its config that is named after dropout is above 0."""
    config = getattr(model, "config", None)
    names = getattr(type(config), "model_fields", ())
    return any("dropout" in name and bool(getattr(config, name)) for name in names)


def ranges(samples: Tensor) -> list[tuple[int, int]]:
    """Returns numbers as ranges [first, last], in their order: `[(0, 3), (7, 7)]` for 0, 1, 2, 3, 7."""
    if not len(samples):
        return []
    numbers = samples.cpu().numpy()
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    if not len(breaks):
        return [(int(numbers[0]), int(numbers[-1]))]
    starts, ends = numbers[[0, *(breaks + 1)]], numbers[[*breaks, -1]]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def written(numbers: Sequence[tuple[int, int]]) -> str:
    """Returns ranges as a person reads them, the first eight of them: `0 to 3, 7`."""
    more = f" and {len(numbers) - 8} more ranges" if len(numbers) > 8 else ""
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in numbers[:8]) + more


def _backward(state: State, microbatches: Sequence[Batch], task: Task) -> _Sums:
    """Adds the gradients of all microbatches, each times the loss scale over `unit`.

    The unit is the first microbatch's weight: any number would do, as it is divided out again, but with this one a
    batch in one piece needs no second pass over its gradients, and fp16 sees gradients of a mean's size.
    """
    sums: _Sums | None = None
    for microbatch in microbatches:
        loss = _loss(state, microbatch, task)
        weight = loss.weight.detach().to(loss.sum.dtype)
        unit = weight.clamp(min=1) if sums is None else sums.unit
        loss.sum.backward(gradient=state.scale.value / unit)
        parts = {name: part.detach() for name, part in loss.parts.items()}
        if sums is None:
            sums = _Sums(loss.sum.detach(), weight, parts, unit)
        else:
            sums.loss, sums.weight = sums.loss + loss.sum.detach(), sums.weight + weight
            sums.parts = {name: part + parts[name] for name, part in sums.parts.items()}
    assert sums is not None
    return sums


def _loss(state: State, microbatch: Batch, task: Task) -> Loss:
    """Returns a microbatch's loss, in the state's type."""
    with state.autocast():
        loss = task.loss(state.model, microbatch)
    factor = strike("loss", state.batch_number + 1)
    return loss if factor is None else replace(loss, sum=loss.sum * factor)


@torch.no_grad()
def _spoil(gradients: list[Tensor], factor: float | None) -> None:
    """Does to the gradient what a test asked for: all of it is multiplied, or its first tensor made not finite."""
    if factor is not None:
        torch._foreach_mul_(gradients if math.isfinite(factor) else gradients[:1], factor)


@torch.no_grad()
def _add_l2(state: State, gradients: list[Tensor], remaining: Tensor) -> tuple[Tensor, Tensor]:
    """Adds the gradient of `l2 / (2 m) * sum theta^2` to the mean gradient; returns what remains (1) and the penalty.

    m is the number of parameters that have a gradient.
    """
    weights = [p.detach() for p in state.parameters.values() if p.grad is not None]
    count = sum(weight.numel() for weight in weights)
    torch._foreach_mul_(gradients, remaining)
    torch._foreach_add_(gradients, weights, alpha=state.config.l2 / count)
    squares = _norm(weights).square()
    return torch.ones_like(remaining), state.config.l2 / (2 * count) * squares


def _norm(tensors: list[Tensor]) -> Tensor:
    """Returns the norm of all elements, in at least fp32."""
    norms = torch.stack(torch._foreach_norm(tensors))
    return torch.linalg.vector_norm(norms if norms.dtype == torch.float64 else norms.float())


def _read(values: Sequence[Tensor]) -> list[float]:
    """Brings scalars from the device: the one wait of a step."""
    wide = torch.float32 if values[0].device.type == "mps" else torch.float64
    return torch.stack([value.detach().to(wide) for value in values]).tolist()


@torch.no_grad()
def _update(state: State, gradients: list[Tensor], factor: float, grad_norm: float) -> None:
    """Scales the gradients once, if at all, by what remains and the clip factor; then updates weights and average."""
    limit = state.config.clip_norm
    if limit is not None and grad_norm > limit:
        factor *= limit / grad_norm
    if factor != 1:
        torch._foreach_mul_(gradients, factor)
    for optimizer in state.optimizers:
        optimizer.step()
    state.average.update(state.step - state.skipped)
    state.scale.passed()


def _clear(state: State) -> None:
    for parameter in state.parameters.values():
        parameter.grad = None


def _skip(state: State, microbatches: Sequence[Batch], task: Task, loss: float) -> str:
    """Leaves an update out: because fp16 overflowed, which is none of the run's faults, or because the run skips such.

    Returns:
        What was not finite; nothing for an overflow.

    Raises:
        NonFiniteStep: Neither holds, or too many were skipped, or it is in a buffer by now and would not be left out.
    """
    if math.isfinite(loss) and state.scale.failed():
        state.skipped += 1
        return ""
    what = "gradient" if math.isfinite(loss) else "loss"
    found = first_bad(state, microbatches, lambda microbatch: _loss(state, microbatch, task))
    samples = written(ranges(torch.cat([microbatch.samples for microbatch in microbatches])))
    finding = f"every number must be finite, but the {what} is not (samples {samples}). The first bad tensor: {found}."
    skips, allowed = state.config.on_nonfinite == "skip", state.config.nonfinite_allowed
    spoiled = spoiled_buffer(state.model)
    if skips and spoiled is None and state.nonfinite < allowed:
        state.skipped, state.nonfinite = state.skipped + 1, state.nonfinite + 1
        return f"step {state.step + 1}: {finding}"
    _clear(state)
    changed = "No weight was changed" if spoiled is None else f"No weight was changed, but the buffer {spoiled} was"
    used = f" ({allowed} such steps were allowed)" if skips and spoiled is None else ""
    raise NonFiniteStep(state.step + 1, finding, f"{changed}{used}. {ADVICE}")
