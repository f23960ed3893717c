"""The moving average of the weights. Knows tensors; does not know when it is used.

`ema = d * ema + (1 - d) * weights` after each update (Polyak and Juditsky 1992 for averaging as such), with
d = min(decay, (1 + n) / (10 + n)) at the n-th update, so that the random start is soon forgotten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """A second set of weights that follows the first.

    Args:
        parameters: The weights, by name.
        decay: Share of the average kept at each update, at most.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self.parameters, self.decay = parameters, decay
        self.tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Moves the average towards the weights, after so many updates before this one."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        weights = [p.detach() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.tensors.values()), weights, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context the model's parameters hold the average; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.tensors[name] = self.tensors[name], parameter.data


class NoAverage:
    """What stands for the average where none is kept."""

    tensors: Mapping[str, Tensor] = {}

    def update(self, updates: int) -> None:
        """Does nothing."""

    def in_place(self) -> contextlib.AbstractContextManager[None]:
        """The weights stay as they are."""
        return contextlib.nullcontext()
