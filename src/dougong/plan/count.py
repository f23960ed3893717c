"""Parameters, operations and bytes of a training step, counted on the meta device (law 5).

Counted, not estimated: the operations are those that torch would run, the optimizer's state is the one it would make.
Knows models and tasks through their contracts. Does not know activations, time or the machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dougong.core.config import Config
from dougong.core.contracts import Task
from dougong.core.errors import UsageError
from dougong.recipe import Recipe
from dougong.train.config import AdafactorConfig, OptimizerConfig
from dougong.train.optim import build_optimizers, optimizer_tensors

DECIDED = ("vocab_size", "num_classes")  # numbers of a model that the data may decide


@dataclass(frozen=True)
class Count:
    """What one step of a recipe takes.

    Attributes:
        parameters: Trainable numbers, each counted once (a tied embedding is one).
        parameters_by_block: The same by part of the model; `blocks.*.attention` is that of all layers together.
        flops_per_sample: Floating point operations of forward and backward over one example: two for a product and its
            sum. Only matrix products and attention count, and causal attention as the full square.
        flops_per_step: The same over the whole batch (absent for a full batch, whose size the data decides).
        weight_bytes: The parameters, in fp32.
        gradient_bytes: Their gradients.
        optimizer_bytes: The optimizer's state.
    """

    parameters: int
    parameters_by_block: dict[str, int]
    flops_per_sample: int
    flops_per_step: int | None
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int

    @property
    def state_bytes(self) -> int:
        """All of these together: what is there at every step, whatever the batch."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes


def count(recipe: Recipe) -> Count:
    """Returns what a step of the recipe takes. The vocabulary's size must be given, by the model or its tokenizer.

    Raises:
        UsageError: It is not known before the data is read.
    """
    config = known_model(recipe)
    model = build_on_meta(config)
    length = getattr(recipe.data, "seq_len", None)
    task_view = config.replace(max_seq_len=length) if length else config
    flops = flops_per_sample(model, recipe.task.build(task_view))  # type: ignore[attr-defined]
    batch = recipe.train.batch_size
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return Count(
        parameters=sum(p.numel() for p in model.parameters()),
        parameters_by_block=parameters_by_block(model),
        flops_per_sample=flops,
        flops_per_step=flops * batch if isinstance(batch, int) else None,
        weight_bytes=weights,
        gradient_bytes=weights,
        optimizer_bytes=optimizer_bytes(model, recipe.train.optimizer),
    )


def state_bytes(recipe: Recipe) -> int:
    """Returns `Count.state_bytes` alone, which is quick: nothing is run, not even on the meta device."""
    model = build_on_meta(known_model(recipe))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return 2 * weights + optimizer_bytes(model, recipe.train.optimizer)


def known_model(recipe: Recipe) -> Config:
    """Returns the model's config with the numbers that the data decides, where they are known before it is read.

    Raises:
        UsageError: One is not.
    """
    model, unknown = foreseen_model(recipe)
    if unknown:
        raise UsageError(
            f"model.{unknown[0]} must be known to count, but is decided by the data when it is read. "
            f"Set model.{unknown[0]}."
        )
    return model


def foreseen_model(recipe: Recipe) -> tuple[Config, list[str]]:
    """Returns the same, and the names of the numbers that only reading the data will give."""
    model: Any = recipe.model
    of_data: Any = getattr(recipe.data, "foreseen", dict)
    known, open_ = of_data(), [n for n in DECIDED if model.takes(n) and getattr(model, n) is None]
    return model.replace(**{n: known[n] for n in open_ if n in known}), [n for n in open_ if n not in known]


def build_on_meta(config: Config) -> nn.Module:
    """Returns the model without memory for its weights."""
    with torch.device("meta"):
        return config.build()  # type: ignore[attr-defined]


def parameters_by_block(model: nn.Module) -> dict[str, int]:
    """Returns the number of parameters of each part, layers added up."""
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parts = re.sub(r"(^|\.)\d+(?=\.)", r"\1*", name).split(".")[:-1]
        block = ".".join(parts[:3]) or name
        found[block] = found.get(block, 0) + parameter.numel()
    return found


def flops_per_sample(model: nn.Module, task: Task) -> int:
    """Returns the operations of forward and backward over one example.

    Args:
        model: On the meta device.
        task: Gives an example batch and the loss.
    """
    with FlopCounterMode(display=False) as counter:
        task.loss(model, task.example_batch(1, "meta")).sum.backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def optimizer_bytes(model: nn.Module, config: OptimizerConfig) -> int:
    """Returns the bytes of the state that the optimizer makes for a model on the meta device."""
    named = dict(model.named_parameters())
    if isinstance(config, AdafactorConfig):
        return sum(_factored(p) + 4 for p in named.values())
    optimizers = build_optimizers(config, named.items())
    for parameter in named.values():
        parameter.grad = torch.empty_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad(set_to_none=True)
    tensors = optimizer_tensors(optimizers, {id(p): name for name, p in named.items()})
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _factored(parameter: nn.Parameter) -> int:
    """Adafactor's state: a row and a column for a matrix. Its step reads numbers, which the meta device has none of."""
    count, size = parameter.numel(), parameter.element_size()
    return size * (count // parameter.shape[-1] + count // parameter.shape[-2] if parameter.ndim > 1 else count)
