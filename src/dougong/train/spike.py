"""Loss spikes: a loss far above the last ones, measured by their median and median absolute deviation.

Knows losses in their order, and nothing of where they come from; what is done about a spike, `rewind.py` knows. Both
measures hardly mind a few wild values (Huber 1981, section 5.1), so a spike does not hide the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from dougong.train.config import SpikeConfig

FLOOR = 0.01
LEAST = 1e-4


@dataclass(frozen=True)
class Spike:
    """A loss far above the last ones.

    Attributes:
        loss: That loss.
        median: Of the losses before it.
        deviation: Their median absolute deviation, or the floor of it.
    """

    loss: float
    median: float
    deviation: float


class SpikeDetector:
    """Holds each loss against the last ones. Without a config it sees nothing and remembers nothing.

    It needs a full window, so the steps after the start, where losses fall fast, are only learnt from; it looks upward
    alone; and a deviation counts as at least 1 % of the median and 0.0001, so that losses which hardly vary raise no
    alarm. A spike that lasts is one spike; once its losses are most of the window, they are the new measure.

    Attributes:
        losses: The last ones.
        high: Whether the last loss was a spike.
    """

    def __init__(self, config: SpikeConfig | None):
        self.config = config
        self.losses: list[float] = []
        self.high = False

    def observe(self, loss: float) -> Spike | None:
        """Takes note of a finite loss; returns a spike where one begins."""
        if self.config is None:
            return None
        spike, before = self._measured(loss, self.config), self.high
        self.high = spike is not None
        self.losses = [*self.losses, loss][-self.config.window :]
        return None if before else spike

    def _measured(self, loss: float, config: SpikeConfig) -> Spike | None:
        if len(self.losses) < config.window:
            return None
        middle = median(self.losses)
        if loss <= middle:
            return None
        deviation = max(median(abs(value - middle) for value in self.losses), FLOOR * abs(middle), LEAST)
        return Spike(loss, middle, deviation) if loss > middle + config.threshold * deviation else None

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON values."""
        return {"losses": self.losses, "high": self.high}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes a state from `state()`."""
        self.losses, self.high = list(state["losses"]), state["high"]
