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

from dougong.core.config import Config, validate
from dougong.core.contracts import Task
from dougong.core.errors import UsageError
from dougong.nn.norm import OVER_BATCH
from dougong.plan.trace import trace_loss
from dougong.recipe import Recipe
from dougong.train.adapter import Adapted
from dougong.train.adapter.lora import all_used, unchanging
from dougong.train.config import AdafactorConfig, OptimizerConfig
from dougong.train.optim import build_optimizers, optimizer_tensors
from dougong.train.rates import freeze

DECIDED = ("vocab_size", "num_classes", "image_shape")  # what of a model the data may decide, told or not


@dataclass(frozen=True)
class Count:
    """What one step of a recipe takes.

    Attributes:
        parameters: Learnable numbers, each counted once (a tied embedding is one); those of an adapter among them.
        trained: Those of them that train: not what is frozen.
        parameters_by_block: The same by part of the model; `blocks.*.attention` is that of all layers together.
        flops_per_sample: Floating point operations of forward and backward over one example: two for a product and its
            sum. Only products count (matrices, convolutions, attention, recurrences), causal attention as the full
            square, and not what recomputation does again.
        forward_flops: Those of the forward pass.
        backward_flops: Those of the backward pass.
        recompute_flops: What recomputation, if the recipe asks for it, does again.
        flops_per_step: `flops_per_sample` over the whole batch (absent for a full batch, whose size the data decides).
        uncounted: Operations that may have products which no formula counts, by torch's names.
        weight_bytes: The parameters, in fp32.
        gradient_bytes: Their gradients.
        optimizer_bytes: The optimizer's state.
    """

    parameters: int
    trained: int
    parameters_by_block: dict[str, int]
    flops_per_sample: int
    forward_flops: int
    backward_flops: int
    recompute_flops: int
    flops_per_step: int | None
    uncounted: tuple[str, ...]
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
    model = build_on_meta(recipe.trained(config))
    freeze(model, recipe.train)
    traced = examples_traced(model)
    task = task_of(recipe, config)
    with all_used(model):
        trace = trace_loss(model, task, task.example_batch(traced, "meta"), recipe.train.recompute)
    forward, backward, again = (trace.flops(phase) // traced for phase in ("forward", "backward", "recompute"))
    flops = forward + backward
    batch = recipe.train.batch_size
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return Count(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parameters_by_block=parameters_by_block(model),
        flops_per_sample=flops,
        forward_flops=forward,
        backward_flops=backward,
        recompute_flops=again,
        flops_per_step=flops * batch if isinstance(batch, int) else None,
        uncounted=tuple(trace.unknown),
        weight_bytes=weights,
        gradient_bytes=sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad),
        optimizer_bytes=optimizer_bytes(model, recipe.train.optimizer),
    )


def state_bytes(recipe: Recipe) -> int:
    """Returns `Count.state_bytes` alone, which is quick: nothing is run, not even on the meta device."""
    model = build_on_meta(recipe.trained(known_model(recipe)))
    freeze(model, recipe.train)
    weights = sum(p.numel() * p.element_size() * (1 + p.requires_grad) for p in model.parameters())
    return weights + optimizer_bytes(model, recipe.train.optimizer)


def staying_bytes(model: Any) -> int:
    """Returns the bytes of the weights that an adapter leaves as they are; 0 of a config without one."""
    if not isinstance(model, Adapted):
        return 0
    network = build_on_meta(model)
    staying = unchanging(network)
    return sum(p.numel() * p.element_size() for name, p in network.named_parameters() if name in staying)


def known_model(recipe: Recipe) -> Config:
    """Returns the model's config with the numbers that the data decides, where they are known before it is read.

    Raises:
        UsageError: One is not.
    """
    model, unknown = foreseen_model(recipe)
    if unknown:
        raise UsageError(
            f"model.{unknown[0]} must be known to count, but is decided by the data when it is read. "
            f"Set it (--set model.{unknown[0]}=N), or plan the folder of a run."
        )
    return model


def foreseen_model(recipe: Recipe) -> tuple[Config, list[str]]:
    """Returns the same, and the names of the numbers that only reading the data will give.

    A dataset tells in `foreseen()` what it decides; None stands for what it must be read for.
    """
    model: Any = recipe.model
    of_data: Any = getattr(recipe.data, "foreseen", dict)
    told = of_data()
    known = {name: value for name, value in told.items() if value is not None}
    open_ = [n for n in dict.fromkeys((*DECIDED, *told)) if model.takes(n) and getattr(model, n) is None]
    seen = {n: known[n] for n in open_ if n in known}
    return validate(type(model), {**model.model_dump(), **seen}, ("model",)), [n for n in open_ if n not in known]


def build_on_meta(config: Any) -> nn.Module:
    """Returns the model of a config, or what stands for one, without memory for its weights."""
    with torch.device("meta"):
        network: nn.Module = config.build()
    return network


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
    traced = examples_traced(model)
    return trace_loss(model, task, task.example_batch(traced, "meta")).flops() // traced


def examples_traced(model: nn.Module) -> int:
    """Returns how many examples are traced for one: two where statistics are taken over the batch."""
    return 2 if any(isinstance(module, OVER_BATCH) for module in model.modules()) else 1


def task_of(recipe: Recipe, config: Config) -> Task:
    """Returns the task of a recipe's model, whose example is as long as the data's rows."""
    length = getattr(recipe.data, "seq_len", None)
    seen = config.replace(max_seq_len=length) if length else config
    return recipe.task.build(seen)  # type: ignore[attr-defined]


def optimizer_bytes(model: nn.Module, config: OptimizerConfig) -> int:
    """Returns the bytes of the state that the optimizer makes for a model on the meta device."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
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
