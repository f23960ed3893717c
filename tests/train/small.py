"""A model, a task and batches that train in milliseconds, for the tests of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dougong.core import seed as seeds
from dougong.core.config import Config, validate
from dougong.core.contracts import Batch, Loss
from dougong.train.config import TrainConfig
from dougong.train.loop import Job

QUIET = {"log": {"every": 1000, "trackers": []}, "precision": "fp32", "compile": False}


class SmallConfig(Config):
    dropout: float = 0.0
    """Probability of dropping a hidden value."""


class Layer(nn.ModuleList):
    """A block of its own class: torch.compile leaves torch's containers alone."""

    def __init__(self) -> None:
        super().__init__([nn.Linear(8, 8)])

    def forward(self, x: Tensor) -> Tensor:
        return self[0](x).tanh()


class Small(nn.Module):
    """Two blocks of width 8, with an embedding's, a bias's and a gain's kinds of parameter."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.config = SmallConfig(dropout=dropout)
        self.blocks = nn.ModuleList([Layer() for _ in range(2)])
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 1)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                draw = torch.randn(parameter.shape, generator=seeds.generator(0, "init", name))
                parameter.copy_(0.3 * draw + (name == "norm.weight"))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x)
        if noise is not None:
            bits = seeds.draw_bits(noise, (8,), place=0)
            x = x * (bits >= self.config.dropout * 2**24) / (1 - self.config.dropout)
        return self.out(self.norm(x)).squeeze(-1)


class Squares:
    """Squared error; an example may count more or less, and not at all with weight 0."""

    item = "examples"

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        errors = (model(batch["x"], batch.noise) - batch["y"]).square() * batch["weight"]
        return Loss(errors.sum(), batch["weight"].sum(), {"half": errors.sum() / 2})

    def metrics(self) -> SquaresMetric:
        return SquaresMetric()

    def collate(self, examples: Sequence[Batch], samples: Sequence[int]) -> Batch:
        return examples[0]

    def decode(self, outputs: Tensor) -> list[float]:
        return outputs.tolist()

    def example_batch(self, batch_size: int, device: torch.device | str = "meta") -> Batch:
        return SmallBatches(batch_size)[0].to(device)


class SquaresMetric:
    def __init__(self) -> None:
        self.sum, self.weight = 0.0, 0.0

    def update(self, model: nn.Module, batch: Batch) -> None:
        self.sum += (model(batch["x"]) - batch["y"]).square().sum().item()
        self.weight += len(batch)

    def compute(self) -> dict[str, float]:
        return {"loss": self.sum / self.weight}


class SmallBatches:
    """Batch `k` is a function of `k`; `poison` makes the loss of some batches NaN, `loud` multiplies that of others."""

    def __init__(
        self,
        size: int = 12,
        poison: int | Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
        loud: Mapping[int, float] | None = None,
    ):
        self.size, self.dtype, self.loud = size, dtype, loud or {}
        self.poison = (poison,) if isinstance(poison, int) else poison or ()

    def __getitem__(self, number: int) -> Batch:
        generator = seeds.generator(7, "data", number)
        x = torch.randn(self.size, 8, generator=generator, dtype=self.dtype)
        y = x.sum(1).sin() * self.loud.get(number, 1.0)
        weight = torch.randint(0, 4, (self.size,), generator=generator).to(self.dtype)
        if number in self.poison:
            y = y * float("nan")
        samples = torch.arange(number * self.size, (number + 1) * self.size)
        return Batch({"x": x, "y": y, "weight": weight}, samples)


def validation() -> list[Batch]:
    """Two batches that training never sees."""
    return [SmallBatches()[10**6 + number] for number in range(2)]


def config(**options: Any) -> TrainConfig:
    """A quiet config of 8 steps of SGD."""
    return validate(TrainConfig, {"steps": 8, "optimizer": {"name": "sgd", "lr": 0.05}, **QUIET, **options})


def job(folder: Path, model: nn.Module | None = None, **options: Any) -> Job:
    """A job over `Small`; keywords that a `Job` knows go to it, all others to the config."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {name: options.pop(name) for name in list(options) if name in Job.__dataclass_fields__}
    given: dict[str, Any] = {"batches": SmallBatches(), "validation": validation, **known}
    return Job(config(**options), model or Small(), Squares(), folder=folder, **given)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
