"""torch's optimizers from their configs, and their state as named tensors.

Weight decay falls on parameters of two or more dims (matrices, embeddings, convolutions); biases and the gains of norms
are exempt, as in GPT-2's reimplementations. Knows parameters by name and shape; knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adam, AdamW, Muon, Optimizer

from dougong.core.errors import UsageError
from dougong.train.config import AdafactorConfig, AdamConfig, AdamWConfig, MuonConfig, OptimizerConfig, SgdConfig

_IN_A_LAYER = re.compile(r"(^|\.)\d+\.")


def build_optimizers(
    config: OptimizerConfig, named: Iterable[tuple[str, nn.Parameter]], rates: Mapping[str, float] | None = None
) -> list[Optimizer]:
    """Returns the optimizer, fused where the device has it; two of them for Muon (see `muon_parameters`).

    Args:
        config: Which, and its numbers.
        named: The parameters by name; those that need no gradient are left out.
        rates: The multiple of the learning rate for some of them (see `rates.py`).

    Raises:
        UsageError: Muon was asked for, and no parameter is a matrix of a layer.
    """
    named = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    optimizers = _built(config, named)
    return optimizers if not rates else [_with_rates(optimizer, named, rates) for optimizer in optimizers]


def _built(config: OptimizerConfig, named: Sequence[tuple[str, nn.Parameter]]) -> list[Optimizer]:
    match config:
        case SgdConfig():
            groups = _groups(named, config.weight_decay)
            momentum, nesterov = config.momentum, config.nesterov
            return [SGD(groups, lr=config.lr, momentum=momentum, nesterov=nesterov, fused=_fused(named))]
        case AdamConfig():
            return [Adam(_groups(named, 0.0), config.lr, config.betas, config.eps, fused=_fused(named))]
        case AdamWConfig():
            return [_adamw(config, named)]
        case AdafactorConfig():
            groups = _groups(named, config.weight_decay)
            return [Adafactor(groups, lr=config.lr, beta2_decay=config.beta2_decay, d=config.clip_threshold)]
        case MuonConfig():
            return _muon(config, named)


def _with_rates(
    optimizer: Optimizer, named: Sequence[tuple[str, nn.Parameter]], rates: Mapping[str, float]
) -> Optimizer:
    """Divides each group of an optimizer that has no state yet into groups of equal rate, in order."""
    names = {id(parameter): name for name, parameter in named}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        factors = [rates.get(names[id(parameter)], 1.0) for parameter in group["params"]]
        for factor in dict.fromkeys(factors):
            chosen = [p for p, own in zip(group["params"], factors, strict=True) if own == factor]
            groups.append({**group, "params": chosen, "factor": factor})
    optimizer.param_groups = groups
    return optimizer


def muon_parameters(named: Iterable[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    """Returns the matrices that Muon takes: two dims, inside a numbered layer such as `blocks.3`.

    Embeddings and the head stand outside the layers, so they go to AdamW, as Jordan et al. 2024 advise.
    """
    return [(name, p) for name, p in named if p.ndim == 2 and _IN_A_LAYER.search(name)]


def set_learning_rate(optimizers: Sequence[Optimizer], config: OptimizerConfig, factor: float) -> float:
    """Sets every group's learning rate to `config.lr * factor`, times its own multiple; returns it without that."""
    rate = config.lr * factor
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
    return rate


def optimizer_tensors(optimizers: Sequence[Optimizer], names: Mapping[int, str]) -> dict[str, Tensor]:
    """Returns the whole state of the optimizers as `exp_avg/<parameter>`: every value of it is a tensor.

    Args:
        names: Each parameter's name, by `id(parameter)`.
    """
    return {
        f"{key}/{names[id(parameter)]}": value
        for optimizer in optimizers
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
        if value is not None
    }


def load_optimizer_tensors(
    optimizers: Sequence[Optimizer], named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Puts back what `optimizer_tensors` gave.

    Args:
        named: The parameters by name.
    """
    owned: dict[str, dict[str, Tensor]] = {}
    for place, tensor in tensors.items():
        key, _, name = place.partition("/")
        owned.setdefault(name, {})[key] = tensor
    for optimizer in optimizers:
        groups = optimizer.state_dict()["param_groups"]
        mine = [id(p) for group in optimizer.param_groups for p in group["params"]]
        numbers = {name: mine.index(id(p)) for name, p in named.items() if id(p) in set(mine)}
        state = {number: owned[name] for name, number in numbers.items() if name in owned}
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _groups(named: Sequence[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Returns the parameters in a group that decays and one that does not; no group is empty."""
    decayed = [p for _, p in named if p.ndim >= 2]
    exempt = [p for _, p in named if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _adamw(config: AdamWConfig | MuonConfig, named: Sequence[tuple[str, nn.Parameter]]) -> Optimizer:
    groups = _groups(named, config.weight_decay)
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=_fused(named))


def _muon(config: MuonConfig, named: Sequence[tuple[str, nn.Parameter]]) -> list[Optimizer]:
    matrices = muon_parameters(named)
    if not matrices:
        raise UsageError("muon needs matrices inside numbered layers (blocks.0...), but the model has none. Try adamw.")
    taken = {name for name, _ in matrices}
    others = [(name, p) for name, p in named if name not in taken]
    muon = Muon(
        [p for _, p in matrices],
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        nesterov=config.nesterov,
        ns_steps=config.ns_steps,
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, _adamw(config, others)] if others else [muon]


def _fused(named: Sequence[tuple[str, nn.Parameter]]) -> bool:
    """Tells whether one kernel can update all: torch has it for these devices."""
    return all(p.device.type in ("cpu", "cuda", "mps") and torch.is_floating_point(p) for _, p in named)
