"""Which parameters train, and at which multiple of the learning rate: frozen ones, rates by name, rates by layer.

Knows parameters by their names and a model by its `blocks`; knows no optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from dougong.core.errors import UsageError
from dougong.core.sentence import did_you_mean
from dougong.train.config import TrainConfig


def freeze(model: nn.Module, config: TrainConfig) -> None:
    """Lets the parameters that `train.frozen` names need no gradient.

    Raises:
        UsageError: A pattern fits no parameter, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    _require_hits("train.frozen", config.frozen, names)
    for name, parameter in model.named_parameters():
        if fits(name, config.frozen):
            parameter.requires_grad_(False)
    if config.frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError("train.frozen must leave a parameter to train, but fits all of them. Name fewer.")


def rates(model: nn.Module, config: TrainConfig) -> dict[str, float]:
    """Returns the multiple of the learning rate for each trainable parameter that has one; absent: 1.

    Layer-wise (Howard and Ruder 2018, section 3.2): with n blocks, block i (from 0) has `layer_decay^(n - i)`, what
    stands before it and behind the block before has `layer_decay^(n - i + 1)`, and what stands after the last, the
    head, has 1. A matrix with several uses stands where the model lists it.

    Raises:
        UsageError: A pattern fits no trainable parameter, or the model has no blocks to tell layers apart by.
    """
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    _require_hits("train.rates", [rate.parameters for rate in config.rates], trainable)
    decay = config.layer_decay
    found = {} if decay is None else {name: decay**depth for name, depth in _depths(model).items() if depth}
    for name in trainable:
        rate = next((rate.factor for rate in config.rates if fnmatchcase(name, rate.parameters)), None)
        if rate is not None:
            found[name] = found.get(name, 1.0) * rate
    return {name: factor for name, factor in found.items() if name in set(trainable)}


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Tells whether a parameter's name fits one of the patterns, in which `*` stands for anything."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _depths(model: nn.Module) -> Mapping[str, int]:
    """Returns how many layers stand after each parameter, its own included; 0 for the head."""
    blocks = list(getattr(model, "blocks", ()))
    if not blocks:
        raise UsageError("train.layer_decay needs a model with blocks, but this one has none. Use train.rates.")
    owner = {id(parameter): number for number, block in enumerate(blocks) for parameter in block.parameters()}
    depths, above = {}, 0
    for name, parameter in reversed(list(model.named_parameters())):
        number = owner.get(id(parameter))
        above = above if number is None else len(blocks) - number
        depths[name] = above if number is not None else above + bool(above)
    return depths


def _require_hits(option: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    for number, pattern in enumerate(patterns):
        if not any(fnmatchcase(name, pattern) for name in names):
            near = did_you_mean(pattern, names) or f" The first is {names[0]}."
            raise UsageError(f"{option}[{number}] must fit a parameter's name, but {pattern!r} fits none.{near}")
