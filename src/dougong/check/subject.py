"""What is put to the proof: a recipe's parts, as functions that give a fresh one each time.

Knows training through its public parts; does not know where the parts come from (`run/checking.py` wires them).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dougong.core import seed as seeds
from dougong.core.contracts import Batch, Task
from dougong.nn.norm import OVER_BATCH
from dougong.train.config import TrainConfig
from dougong.train.loop import Batches
from dougong.train.state import State
from dougong.train.step import draws_noise, optimizer_step

EXACT = 1e-10  # relative, in fp64: what rounding alone can do is about a millionth of it


@dataclass(frozen=True)
class Limits:
    """How much a check may compute, in floating point operations; the sizes of its batch follow from it.

    Attributes:
        exact: Of one pass in fp64, or of some steps in fp32.
        narrow: Of one pass in bf16, which few processors compute fast.
        samples: How many samples are read.
        seconds: After which a check that goes on step by step gives up.
        overfit_steps: How many updates a batch has to be learned in.
    """

    exact: float = 4e11
    narrow: float = 8e9
    samples: int = 1000
    seconds: float = 120.0
    overfit_steps: int = 300


@dataclass(frozen=True)
class Subject:
    """A recipe's parts.

    Attributes:
        config: How it is trained.
        model: Gives a freshly initialised model, with the weights that training starts from.
        blank: Gives the model on the meta device.
        task: The objective.
        batches: Gives a fresh loader of the training batches; no value of it depends on when it was made.
        rows: Gives the first so many training examples as a batch, cut short (where the data can be) so that a pass
            over it costs at most so many operations; at least one example.
        sections: The recipe's `model`, `task`, `adapter` and `init_new` as plain data, from which another process
            builds the same.
        device: Where it is trained.
        dtype: The type of matrix products in which it is trained.
        samples: How many training samples there are.
        from_scratch: Whether training starts from random weights.
        predicted: Gives the predicted peak memory of a step over a batch, with a config, in bytes; None if unknown.
        limits: How much may be computed.
    """

    config: TrainConfig
    model: Callable[[], nn.Module]
    blank: Callable[[], nn.Module]
    task: Task
    batches: Callable[[], Batches]
    rows: Callable[[int, float], Batch]
    sections: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    samples: int
    from_scratch: bool = True
    predicted: Callable[[Batch, TrainConfig], int] | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def allowance(self) -> float:
        """How many operations a check may spend in the type in which is trained."""
        return self.limits.exact if self.dtype == torch.float32 else self.limits.narrow

    def stirred(self) -> nn.Module:
        """Returns a model in fp64 whose parameters all differ a little from their start, so that none is zero.

        Weights that start as zero would hide what comes before them. On the CPU where the device has no fp64.
        """
        model = self.model().double().to("cpu" if self.device.type == "mps" else self.device)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                draw = torch.randn(parameter.shape, generator=seeds.generator(self.config.seed, "stirred", name))
                parameter.add_(draw.to(parameter), alpha=0.02)
        return model.train()


@dataclass(frozen=True)
class Outcome:
    """What a step would have done: the loss, and each parameter's gradient by name, both as means over the batch."""

    loss: float
    gradients: Mapping[str, Tensor]


class _Witness(Optimizer):
    """An optimizer that changes nothing, and keeps the gradients that it is given."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__(list(parameters.values()), {"lr": 0.0})
        self.parameters, self.gradients = parameters, dict[str, Tensor]()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Keeps the gradients."""
        self.gradients = {name: p.grad.clone() for name, p in self.parameters.items() if p.grad is not None}


def stepped(
    subject: Subject,
    model: nn.Module,
    batch: Batch,
    dtype: torch.dtype = torch.float64,
    microbatch_size: int | None = None,
    step: int = 0,
) -> Outcome:
    """Returns what the real step computes, without its update.

    Args:
        model: On the device that is to compute.
        dtype: The type of matrix products.
        microbatch_size: Examples per pass; absent: all at once.
        step: The number of the step, which decides what is dropped.

    Raises:
        NonFiniteError: The loss or the gradient is not finite.
    """
    config = subject.config.replace(
        batch_size=len(batch),
        batch_ramp=None,
        microbatch_size=microbatch_size,
        optimizer={"name": "sgd"},
        clip_norm=None,
        ema=None,
        early_stopping=None,
        on_nonfinite="stop",
        max_nonfinite=None,
    )
    state = State.create(config, model, dtype)
    witness = _Witness(state.parameters)
    state.optimizers, state.step = [witness], step
    report = optimizer_step(state, batch, subject.task)
    while report.skipped:  # fp16 overflowed: again, with the smaller scale that it leaves
        state.step = step
        report = optimizer_step(state, batch, subject.task)
    return Outcome(report.loss, witness.gradients)


def compared(one: Outcome, other: Outcome) -> tuple[float, str]:
    """Returns the largest relative difference of two outcomes, and what has it: `the loss`, or a parameter.

    A gradient's difference is relative to its norm, or where that is smaller to 1/10,000 of all gradients' norm: a
    gradient that is zero but for rounding has no relative difference.
    """
    norms = {name: _norm(gradient) for name, gradient in other.gradients.items()}
    floor = 1e-4 * sum(norm**2 for norm in norms.values()) ** 0.5
    found = {"the loss": abs(one.loss - other.loss) / max(abs(other.loss), 1e-30)}
    for name, gradient in other.gradients.items():
        mine = one.gradients.get(name)
        off = norms[name] if mine is None else _norm(mine.to(gradient) - gradient)
        found[f"the gradient of {name}"] = off / max(norms[name], floor, 1e-30)
    for name in one.gradients.keys() - other.gradients.keys():
        found[f"the gradient of {name}"] = 1.0
    # A number that is none compares as false to all: it is the worst.
    worst = max(found, key=lambda name: found[name] if found[name] == found[name] else float("inf"))
    return found[worst], worst


def frozen(model: nn.Module) -> list[str]:
    """Lets norms over the batch take their running statistics, as after training; returns the norms' names.

    With those of the batch, a part of a batch is by their nature no part of the whole; all else can be proved still.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, OVER_BATCH)}
    for norm in norms.values():
        norm.eval()
    return list(norms)


def noisy(subject: Subject, model: nn.Module, batch: Batch, step: int = 0) -> Batch:
    """Returns the batch with the noise keys that training would give it at a step, if the model drops anything."""
    if not draws_noise(model):
        return batch.with_noise(None)
    return batch.with_noise(seeds.sample_keys(batch.samples, subject.config.seed, "dropout", step))


@contextlib.contextmanager
def global_randomness(seed: int) -> Iterator[None]:
    """Within this context the global generators of torch, numpy and Python stand elsewhere; then as before."""
    mine, numbers = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(mine)
            np.random.set_state(numbers)


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double() if tensor.device.type != "mps" else tensor))
