"""Learning rates over time, as pure functions of the step: each gives the fraction of the optimizer's lr.

A step is counted from 0. During the first `warmup_steps` w the fraction is (step + 1) / (w + 1); the functions below
are over t, the share in [0, 1] of the steps after warm-up that is done, or over n, their number. Knows no optimizer.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from dougong.train.config import PlateauConfig, ScheduleConfig


def warmup(step: int, warmup_steps: int) -> float:
    """Returns (step + 1) / (w + 1), at most 1: a straight line (Goyal et al. 2017, section 2.2)."""
    return min(1.0, (step + 1) / (warmup_steps + 1))


def linear(t: float, final: float = 0.0) -> float:
    """Returns 1 - t (1 - final): a_t = a_0 (t_max - t) / t_max for final = 0.

    This is what is meant by the formula a_t = a_0 (1 - a_max) / (t_max - t), which as printed grows without bound
    towards t_max.
    """
    return 1 - t * (1 - final)


def polynomial(t: float, power: float, final: float = 0.0) -> float:
    """Returns final + (1 - final) (1 - t)^power ("poly" of Chen et al. 2018, DeepLab, section 4.1)."""
    return final + (1 - final) * (1 - t) ** power


def cosine(t: float, final: float = 0.0) -> float:
    """Returns final + (1 - final) (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017, equation 5, without restarts)."""
    return final + (1 - final) * (1 + math.cos(math.pi * t)) / 2


def exponential(n: int, rate: float, every: int) -> float:
    """Returns rate^(n / every)."""
    return rate ** (n / every)


def stairs(n: int, rate: float, every: int) -> float:
    """Returns rate^floor(n / every) (He et al. 2016, section 3.4, divide by 10 in this way)."""
    return rate ** (n // every)


def milestones(step: int, at: Sequence[int], rate: float) -> float:
    """Returns rate^(how many of the milestones are reached) (Lin et al. 2017b, section 4.1)."""
    return rate ** bisect_right(at, step)


def inverse_sqrt(step: int, warmup_steps: int) -> float:
    """Returns sqrt((w + 1) / (step + 1)) (Vaswani et al. 2017, equation 3, scaled to 1 at the end of warm-up)."""
    return math.sqrt((warmup_steps + 1) / (step + 1))


def wsd(t: float, decay: float, final: float = 0.0) -> float:
    """Returns 1 until the last share `decay`, then a straight line to final (Hu et al. 2024, section 4)."""
    return linear(max(0.0, (t - (1 - decay)) / decay), final)


def factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Returns the fraction of lr at a step (from 0) of a run of `steps`; a plateau's own state is not in it."""
    n = step - config.warmup_steps
    if n < 0:
        return warmup(step, config.warmup_steps)
    t = min(1.0, n / max(1, steps - config.warmup_steps))
    match config.name:
        case "linear":
            return linear(t, config.final)
        case "polynomial":
            return polynomial(t, config.power, config.final)
        case "cosine":
            return cosine(t, config.final)
        case "exponential":
            return exponential(n, config.rate, config.every)
        case "step":
            return stairs(n, config.rate, config.every)
        case "milestones":
            return milestones(step, config.at, config.rate)
        case "inverse_sqrt":
            return inverse_sqrt(step, config.warmup_steps)
        case "wsd":
            return wsd(t, config.decay, config.final)
    return 1.0


class Schedule:
    """A schedule with the little state that a plateau needs: three numbers.

    Attributes:
        scale: What plateaus have left of the learning rate.
        best: The lowest validation loss seen.
        bad: Evaluations since it fell.
    """

    def __init__(self, config: ScheduleConfig, steps: int):
        self.config, self.steps = config, steps
        self.scale, self.best, self.bad = 1.0, math.inf, 0

    def factor(self, step: int) -> float:
        """Returns the fraction of lr for the update that follows `step` updates."""
        value = factor(self.config, step, self.steps) * self.scale
        if isinstance(self.config, PlateauConfig) and step >= self.config.warmup_steps:
            return max(value, self.config.final)
        return value

    def observe(self, loss: float) -> None:
        """Takes note of a validation loss; only a plateau minds."""
        if not isinstance(self.config, PlateauConfig):
            return
        if loss < self.best - self.config.min_delta:
            self.best, self.bad = loss, 0
            return
        self.bad += 1
        if self.bad > self.config.patience:
            self.scale, self.bad = self.scale * self.config.rate, 0

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON values."""
        return {"scale": self.scale, "best": None if math.isinf(self.best) else self.best, "bad": self.bad}

    def load(self, state: dict[str, Any]) -> None:
        """Takes a state from `state()`."""
        self.scale, self.bad = state["scale"], state["bad"]
        self.best = math.inf if state["best"] is None else state["best"]
