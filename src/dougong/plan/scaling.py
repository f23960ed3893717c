"""How large a model and how many tokens a budget is best spent on, and what a run of so many tokens takes.

Compute-optimal sizes after Hoffmann et al. 2022 ("Chinchilla"), in three fits that do not agree; they are of dense
decoder-only Transformers of 44 million to 16 billion parameters on one English text, so that beyond them each is an
extrapolation, and for other models and data none holds. Knows no model; imports no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dougong.core.config import did_you_mean
from dougong.core.errors import UsageError
from dougong.plan.hardware import Hardware

FITTED = (44e6, 16e9)  # parameters of the models behind the fits (Hoffmann et al. 2022, section 3)
FLOPS_PER_PARAMETER = 6  # of a token, forward and backward, embeddings and attention left aside
SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True)
class Fit:
    """The loss of a model of N parameters after D tokens as `E + A / N^alpha + B / D^beta`, in nats per token."""

    source: str
    irreducible: float
    parameters: float
    tokens: float
    alpha: float
    beta: float

    def loss(self, parameters: float | int, tokens: float | int) -> float:
        """Returns the predicted loss (Hoffmann et al. 2022, equation 2)."""
        return self.irreducible + self.parameters / parameters**self.alpha + self.tokens / tokens**self.beta

    def parameters_for(self, flops: float | int) -> float:
        """Returns the size with the lowest loss among those that 6 N D operations allow (equation 4)."""
        balance = (self.alpha * self.parameters / (self.beta * self.tokens)) ** (1 / (self.alpha + self.beta))
        return balance * (flops / FLOPS_PER_PARAMETER) ** (self.beta / (self.alpha + self.beta))

    def tokens_for(self, parameters: float | int) -> float:
        """Returns the tokens with which a size is the best for its budget: `parameters_for` the other way round."""
        ratio = self.beta * self.tokens / (self.alpha * self.parameters)
        return (ratio * parameters**self.alpha) ** (1 / self.beta)


FITS = {
    "hoffmann": Fit("Hoffmann et al. 2022, approach 3 (equation 10)", 1.69, 406.4, 410.7, 0.34, 0.28),
    "besiroglu": Fit(
        "Besiroglu et al. 2024: approach 3 fitted again to the paper's own points",
        1.8172,
        482.01,
        2085.43,
        0.3478,
        0.3658,
    ),
}


@dataclass(frozen=True)
class Optimum:
    """Where a budget is best spent.

    Attributes:
        flops: The budget.
        parameters: The size.
        tokens: How many it is trained on.
        loss: What is predicted of it, in nats per token of the paper's text and tokenizer; None where the fit has none.
        source: Whose fit.
        extrapolated: Whether the size lies beyond the models that were fitted.
    """

    flops: float
    parameters: float
    tokens: float
    loss: float | None
    source: str
    extrapolated: bool

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return asdict(self)


def optimum(flops: float | int, fit: str = "besiroglu") -> Optimum:
    """Returns the compute-optimal size and tokens for a budget.

    Args:
        flops: The budget, in operations of training.
        fit: `approach1` (the training curves' minima: both grow with the root of the budget, about 20 tokens per
            parameter), `hoffmann` (approach 3 as printed, whose rounded constants give too many tokens), or
            `besiroglu` (the same fitted again, which agrees with approaches 1 and 2).

    Raises:
        UsageError: There is no such fit.
    """
    if fit == "approach1":
        parameters, loss, source = _approach_1(flops), None, "Hoffmann et al. 2022, approach 1 (table 3)"
    else:
        found = _fit(fit)
        parameters, source = found.parameters_for(flops), found.source
        loss = found.loss(parameters, flops / FLOPS_PER_PARAMETER / parameters)
    tokens = flops / FLOPS_PER_PARAMETER / parameters
    return Optimum(flops, parameters, tokens, loss, source, not FITTED[0] <= parameters <= FITTED[1])


def tokens_needed(parameters: float | int, fit: str = "besiroglu") -> float:
    """Returns the tokens for which a model of a size is compute-optimal.

    Raises:
        UsageError: There is no such fit.
    """
    if fit == "approach1":
        return _TOKENS_PER_PARAMETER * parameters
    return _fit(fit).tokens_for(parameters)


def predicted_loss(parameters: float | int, tokens: float | int, fit: str = "besiroglu") -> float:
    """Returns the loss that a fit predicts, in nats per token of its text and its tokenizer.

    Raises:
        UsageError: There is no such fit.
    """
    return _fit(fit).loss(parameters, tokens)


@dataclass(frozen=True)
class Bill:
    """What a run takes.

    Attributes:
        seconds: How long.
        device_hours: Over all devices.
        dollars: At the device's assumed price.
        kilowatt_hours: At the most power the devices may draw, without the rest of their nodes and cooling.
    """

    seconds: float
    device_hours: float
    dollars: float
    kilowatt_hours: float

    @property
    def days(self) -> float:
        """The same in days."""
        return self.seconds / SECONDS_PER_DAY

    def as_dict(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return {**asdict(self), "days": self.days}


def bill(seconds: float | int, count: int, hardware: Hardware) -> Bill:
    """Returns what so many devices take for so many seconds: steps times the seconds of a step."""
    hours = seconds / 3600 * count
    return Bill(seconds, hours, hours * hardware.dollars_per_hour, hours * hardware.watts / 1000)


def training_days(flops: float | int, count: int, flops_per_second: float | int) -> float:
    """Returns the days in which devices that each reach a rate do so many operations."""
    return flops / (count * flops_per_second) / SECONDS_PER_DAY


_TOKENS_PER_PARAMETER = 20.2  # approach 1's row for a billion parameters: 1.21e20 operations, 20.2 billion tokens


def _approach_1(flops: float | int) -> float:
    return (flops / (FLOPS_PER_PARAMETER * _TOKENS_PER_PARAMETER)) ** 0.5


def _fit(name: str) -> Fit:
    if name not in FITS:
        known = ["approach1", *FITS]
        raise UsageError(
            f"fit must be {', '.join(known[:-1])} or {known[-1]}, but is {name!r}.{did_you_mean(name, known)}"
        )
    return FITS[name]
