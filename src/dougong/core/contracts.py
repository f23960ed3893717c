"""The contracts between the floors, on one page: what a loss, a batch, a task, a dataset and a model are.

Knows only tensors. Anything that satisfies these protocols can be trained, evaluated, planned and saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from dougong.core.config import Config

Example = TypeVar("Example", covariant=True)


@dataclass(frozen=True)
class Loss:
    """A loss as a sum over items and the number (or weight) of those items: never a mean.

    Attributes:
        sum: Scalar, differentiable: the sum of the losses of all items that count.
        weight: Scalar: how many items count. The mean loss of any set of batches is `sum(sums) / sum(weights)`.
        parts: Further sums to report by name (already contained in `sum`), over the same weight.
    """

    sum: Tensor
    weight: Tensor
    parts: Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """The tensors of some examples. The first dim of every field is the example.

    Attributes:
        fields: Tensors by name; the task that collated them knows their meaning.
        samples: int64 [batch], the global number of each example in the endless order of training.
        noise: int32 [batch] or None. One key per example, a pure function of (seed, step, sample): all that dropout
            and its kin may draw from. None switches such layers off (evaluation, inference).
    """

    fields: Mapping[str, Tensor]
    samples: Tensor
    noise: Tensor | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.fields[name]

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, name: str) -> Tensor | None:
        """Returns a field, or None where the task left it out."""
        return self.fields.get(name)

    def with_noise(self, noise: Tensor | None) -> Batch:
        """Returns the same batch with other noise keys."""
        return replace(self, noise=noise)

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch with every tensor on the device (asynchronously, where the memory is pinned)."""
        return Batch(
            {name: tensor.to(device, non_blocking=True) for name, tensor in self.fields.items()},
            self.samples.to(device, non_blocking=True),
            None if self.noise is None else self.noise.to(device, non_blocking=True),
        )

    def split(self, size: int) -> list[Batch]:
        """Returns microbatches of at most `size` examples, in order."""
        return [self._slice(start, start + size) for start in range(0, len(self), size)]

    def _slice(self, start: int, stop: int) -> Batch:
        return Batch(
            {name: tensor[start:stop] for name, tensor in self.fields.items()},
            self.samples[start:stop],
            None if self.noise is None else self.noise[start:stop],
        )


@runtime_checkable
class Dataset(Protocol[Example]):
    """A source with random access: example `i` depends on `i` alone.

    Attributes:
        fingerprint: A hash of the content and of everything that shaped it; equal hash, equal examples.
        licence: The licence of the content, as its source states it, or "unknown".
        source: Where the content comes from, for the model card.
    """

    fingerprint: str
    licence: str
    source: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@runtime_checkable
class Metric(Protocol):
    """An accumulator of bounded memory: fed batch by batch, asked once."""

    def update(self, model: nn.Module, batch: Batch) -> None:
        """Adds one evaluated batch; draws no random number and needs no gradient."""

    def compute(self) -> dict[str, float]:
        """Returns the figures by name; the first is the one to minimise, named `loss`."""


@runtime_checkable
class Detailed(Protocol):
    """What a metric may add: more than figures, for `evaluation.json` of a run."""

    def details(self) -> dict[str, Any]:
        """Returns tables as JSON values."""


@runtime_checkable
class Task(Protocol):
    """An objective: how examples become a batch, a batch a loss, and outputs something a person reads."""

    def collate(self, examples: Sequence[Any], samples: Sequence[int]) -> Batch:
        """Returns the tensors of some examples; `samples` are their global numbers."""

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Returns the sum of the items' losses and their weight, never the mean (law 2)."""

    def metrics(self) -> Metric:
        """Returns a fresh accumulator."""

    def decode(self, outputs: Any) -> Any:
        """Returns what a person reads for what the model puts out."""

    def example_batch(self, batch_size: int, device: torch.device | str = "meta") -> Batch:
        """Returns a batch of the right shapes and types, for the meta device."""


@runtime_checkable
class Answering(Protocol):
    """What a task adds whose trained model answers one by one (`dougong predict`)."""

    @property
    def labels(self) -> Sequence[str] | None:
        """The names of the classes, if they are known."""

    def answers(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        """Returns what a person or a program reads for each example, as JSON values; draws no random number."""


@runtime_checkable
class Provable(Protocol):
    """What a task may add so that `dougong check` proves more of it. Each is asked for by name, and may be absent."""

    def chance(self) -> float | None:
        """Returns the mean loss of a model that knows nothing, or None where that depends on the data."""

    def uneven(self, batch: Batch) -> Batch:
        """Returns the same batch with some items left out, so that no two examples have the same weight."""

    def equalities(self, batch: Batch) -> Iterator[tuple[str, Batch, Sequence[Batch]]]:
        """Yields a claim in words, a batch, and batches of the same items apart, whose losses must add up to its."""


@runtime_checkable
class Model(Protocol):
    """A plain `nn.Module` with its config, one place of initialisation, and a table of how its parameters split.

    Attributes:
        config: The frozen config that built it.
        SPLIT: Parameter name pattern (`blocks.*.attention.query.weight`) to "column", "row" or "none".
    """

    config: Config
    SPLIT: Mapping[str, str]

    def init_weights(self, seed: int) -> None:
        """Fills every parameter and buffer; each value is a function of the seed and the parameter's name."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields every parameter with its name, as any `nn.Module` does."""
