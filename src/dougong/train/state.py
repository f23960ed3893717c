"""All that a run needs to go on as if it had never stopped, as plain tensors and JSON values.

Randomness is not in it: every draw is a function of the seed and the step (law 1). Knows no files.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dougong.core.errors import NonFiniteError, UsageError
from dougong.train.adapter.lora import unchanging
from dougong.train.average import Average, NoAverage
from dougong.train.blocks import eager
from dougong.train.config import EarlyStoppingConfig, TrainConfig
from dougong.train.optim import build_optimizers, load_optimizer_tensors, optimizer_tensors
from dougong.train.rates import freeze, rates
from dougong.train.schedule import Schedule
from dougong.train.spike import SpikeDetector


@dataclass
class LossScale:
    """What the loss is multiplied by so that fp16 gradients do not vanish (Micikevicius et al. 2018, section 3.2).

    Halved when a gradient overflows (that update is skipped), doubled after 1000 good steps. Fixed at 1 otherwise.
    """

    value: float = 1.0
    good: int = 0
    dynamic: bool = False

    def passed(self) -> None:
        """Takes note of a step whose gradients were finite."""
        self.good += 1
        if self.dynamic and self.good >= 1000:
            self.value, self.good = self.value * 2, 0

    def failed(self) -> bool:
        """Takes note of an overflow; tells whether a smaller scale may help."""
        self.good = 0
        self.value = self.value / 2 if self.dynamic else self.value
        return self.dynamic and self.value >= 2.0**-20


class Stopping:
    """Early stopping: how long the validation loss has not fallen, and the weights of its best evaluation.

    Without a config it never stops and holds no weights.
    """

    def __init__(self, config: EarlyStoppingConfig | None):
        self.config = config
        self.best, self.bad = math.inf, 0
        self.weights: dict[str, Tensor] = {}

    @property
    def stopped(self) -> bool:
        """Whether the run is to end."""
        return self.config is not None and self.bad >= self.config.patience

    def observe(self, loss: float, weights: Mapping[str, Tensor]) -> None:
        """Takes note of a validation loss and, if it is the best, of the weights that reached it."""
        if self.config is None:
            return
        if loss < self.best - self.config.min_delta:
            self.best, self.bad = loss, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        else:
            self.bad += 1


@dataclass
class State:
    """The state of a run after `step` steps.

    Attributes:
        config: How it is trained.
        model: The model, on its device.
        parameters: Its trainable parameters by name, each once.
        optimizers: What updates them.
        schedule: The learning rate's course.
        average: The averaged weights, or what stands for them.
        stopping: Early stopping.
        dtype: The type of matrix products.
        step: Steps done.
        skipped: How many of these changed nothing: fp16 overflowed, or a number was not finite.
        nonfinite: How many of these count against `max_nonfinite`.
        items: Items (tokens) seen.
        evaluated: The step of the last evaluation.
        last, best: The figures of the last evaluation, and of the one with the lowest loss.
        scale: The loss scale of fp16.
        spikes: What watches for loss spikes.
        passed_over: Ranges [first, last] of numbers of batches that are never asked for again, ascending and disjoint.
        rewinds: How often the run went back, by cause; a cause that never struck is absent.

    Going back to a checkpoint (`rewind.py`) loads all of this but the last two, which are what the run has learnt since
    and must not forget: forgotten, it would meet the same batch again, for ever. All else belongs to the steps that are
    done again, the updates skipped among them (and so their count), the losses that spikes are held against, and the
    scale of fp16. A run killed after going back meets the batch again, finds the same, and goes back to the same place.
    """

    config: TrainConfig
    model: nn.Module
    parameters: dict[str, nn.Parameter]
    optimizers: list[Optimizer]
    schedule: Schedule
    average: Average | NoAverage
    stopping: Stopping
    dtype: torch.dtype
    step: int = 0
    skipped: int = 0
    nonfinite: int = 0
    items: float = 0.0
    evaluated: int = 0
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    scale: LossScale = field(default_factory=LossScale)
    spikes: SpikeDetector = field(default_factory=lambda: SpikeDetector(None))
    passed_over: list[tuple[int, int]] = field(default_factory=list)
    rewinds: dict[str, int] = field(default_factory=dict)

    @classmethod
    def create(cls, config: TrainConfig, model: nn.Module, dtype: torch.dtype = torch.float32) -> State:
        """Returns the state before the first step, for a model that is initialised and on its device."""
        freeze(model, config)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not parameters:
            raise UsageError("the model must have a trainable parameter, but has none. Unfreeze some.")
        return cls(
            config,
            model,
            parameters,
            build_optimizers(config.optimizer, parameters.items(), rates(model, config)),
            Schedule(config.schedule, config.steps),
            Average(parameters, config.ema.decay) if config.ema else NoAverage(),
            Stopping(config.early_stopping),
            dtype,
            scale=LossScale(2.0**16, dynamic=True) if dtype == torch.float16 else LossScale(),
            spikes=SpikeDetector(config.spike),
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(iter(self.parameters.values())).device

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return self.step >= self.config.steps or self.stopping.stopped

    @property
    def batch_number(self) -> int:
        """The number of the next step's batch: that of the step, counted from 0, beyond what is passed over."""
        number = self.step
        for first, last in self.passed_over:
            number += last - first + 1 if first <= number else 0
        return number

    def pass_over(self, first: int, last: int) -> None:
        """Leaves a range of batches out, from the first that is still to come."""
        merged: list[tuple[int, int]] = []
        for begin, end in sorted([*self.passed_over, (max(first, self.batch_number), last)]):
            if merged and begin <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        self.passed_over = merged

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Gives the context in which matrix products run in the state's type."""
        if self.dtype in (torch.float32, torch.float64):
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Within this context the model has the weights that are evaluated (the averaged ones, if kept), uncompiled."""
        with self.average.in_place(), eager(self.model):
            yield

    def observe(self, figures: Mapping[str, float]) -> None:
        """Takes note of an evaluation; called while the evaluated weights are shown.

        Raises:
            NonFiniteError: The loss is not finite.
        """
        loss = figures["loss"]
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"step {self.step}: the validation loss must be finite, but is {loss}. "
                "Go on from an older checkpoint with a lower learning rate, or look at the validation data."
            )
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        self.last, self.evaluated = figures, self.step
        if not self.best or loss < self.best["loss"]:
            self.best = {**figures, "step": float(self.step)}
        self.schedule.observe(loss)
        self.stopping.observe(loss, self.parameters)

    @torch.no_grad()
    def place_final_weights(self) -> None:
        """Leaves in the model what the run is for: the best weights if it stops early, else the average, if any."""
        for name, tensor in (self.stopping.weights or self.average.tensors).items():
            self.parameters[name].copy_(tensor)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Returns all tensors, by file and name; they share memory with the state.

        What an adapter leaves as it is, is not among them: it comes from where the run began.
        """
        names = {id(p): name for name, p in self.parameters.items()}
        staying = unchanging(self.model)
        model = _once(self.model.state_dict(keep_vars=True))
        return {
            "model": {name: tensor for name, tensor in model.items() if name not in staying},
            "optimizer": optimizer_tensors(self.optimizers, names),
            "average": dict(self.average.tensors),
            "best": self.stopping.weights,
        }

    def scalars(self) -> dict[str, Any]:
        """Returns all that is no tensor, as JSON values."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "nonfinite": self.nonfinite,
            "items": self.items,
            "evaluated": self.evaluated,
            "last": self.last,
            "best": self.best,
            "schedule": self.schedule.state(),
            "stopping": {
                "best": None if math.isinf(self.stopping.best) else self.stopping.best,
                "bad": self.stopping.bad,
            },
            "scale": [self.scale.value, self.scale.good],
            "spikes": self.spikes.state(),
            "passed_over": [list(numbers) for numbers in self.passed_over],
            "rewinds": self.rewinds,
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Mapping[str, Tensor]], scalars: Mapping[str, Any]) -> None:
        """Takes what `tensors` and `scalars` gave; casts nothing and leaves nothing out.

        Raises:
            UsageError: A tensor is missing, is one too many, or has another shape or type.
        """
        mine = self.tensors()
        _same("model", mine["model"], tensors.get("model", {}))
        _same("average", mine["average"], tensors.get("average", {}))
        for group in ("model", "average"):
            for name, tensor in mine[group].items():
                tensor.copy_(tensors[group][name])
        load_optimizer_tensors(self.optimizers, self.parameters, tensors.get("optimizer", {}))
        self.stopping.weights = {name: t.to(self.device) for name, t in tensors.get("best", {}).items()}
        for name in ("step", "skipped", "nonfinite", "items", "evaluated", "last", "best"):
            setattr(self, name, scalars[name])
        self.schedule.load(scalars["schedule"])
        best = scalars["stopping"]["best"]
        self.stopping.best, self.stopping.bad = math.inf if best is None else best, scalars["stopping"]["bad"]
        self.scale.value, self.scale.good = scalars["scale"]
        self.spikes.load(scalars["spikes"])
        self.passed_over = [(first, last) for first, last in scalars["passed_over"]]
        self.rewinds = dict(scalars["rewinds"])


def _once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tied tensors under their first name alone."""
    seen: dict[int, str] = {}
    return {name: t.detach() for name, t in tensors.items() if seen.setdefault(id(t), name) == name}


def _same(group: str, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    lines = [f"{name}: absent in the checkpoint" for name in mine.keys() - theirs.keys()]
    lines += [f"{name}: unknown to the model" for name in theirs.keys() - mine.keys()]
    for name in sorted(mine.keys() & theirs.keys()):
        here, there = _form(mine[name]), _form(theirs[name])
        if here != there:
            lines.append(f"{name}: {there} in the checkpoint, {here} here")
    if lines:
        more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise UsageError(
            f"the {group} tensors of a resumed run must be those of its checkpoint, but are not: "
            f"{'; '.join(sorted(lines)[:5])}{more}. Undo the change, or start a new run.",
            name="E-CHANGED",
        )


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
