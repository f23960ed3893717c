from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dougong.core.config import validate
from dougong.core.errors import UsageError
from dougong.train.config import TrainConfig
from dougong.train.optim import (
    build_optimizers,
    load_optimizer_tensors,
    muon_parameters,
    optimizer_tensors,
    set_learning_rate,
)
from tests.train.small import Small

OPTIMIZERS = {
    "sgd": {"momentum": 0.9},
    "adam": {},
    "adamw": {},
    "adafactor": {},
    "muon": {},
}


def options(name: str, **values: Any):
    return validate(TrainConfig, {"optimizer": {"name": name, **values}}).optimizer


def run(model: nn.Module, optimizers: list, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


def test_gradient_descent_is_the_formula() -> None:
    model = Small()
    before = [p.detach().clone() for p in model.parameters()]
    run(model, build_optimizers(options("sgd", lr=0.5), model.named_parameters()), 1)
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.5 * new.grad)


def test_nesterov_momentum_is_the_formula() -> None:
    model = Small()
    weight, velocity = model.out.weight.detach().clone(), torch.zeros(1, 8)
    optimizers = build_optimizers(options("sgd", lr=0.1, momentum=0.9, nesterov=True), model.named_parameters())
    for step in range(3):
        run(model, optimizers, 1, step)
        velocity = 0.9 * velocity + model.out.weight.grad
        weight = weight - 0.1 * (model.out.weight.grad + 0.9 * velocity)
    torch.testing.assert_close(model.out.weight.detach(), weight)


def test_adamw_is_algorithm_2_and_spares_biases_and_norms() -> None:
    model = Small()
    config = options("adamw", lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.5)
    names = ("out.weight", "out.bias", "norm.weight")
    expected = {name: model.get_parameter(name).detach().clone() for name in names}
    moments = {name: (torch.zeros_like(expected[name]), torch.zeros_like(expected[name])) for name in names}
    optimizers = build_optimizers(config, model.named_parameters())
    for step in range(3):
        run(model, optimizers, 1, step)
        for name in names:
            gradient = model.get_parameter(name).grad
            first, second = moments[name]
            first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient.square()
            moments[name] = first, second
            decay = 0.5 if name == "out.weight" else 0.0
            hat = (first / (1 - 0.8 ** (step + 1)), second / (1 - 0.9 ** (step + 1)))
            expected[name] -= 0.01 * decay * expected[name] + 0.01 * hat[0] / (hat[1].sqrt() + 1e-6)
    for name in names:
        torch.testing.assert_close(model.get_parameter(name).detach(), expected[name])


def test_muon_takes_the_matrices_of_layers_and_adamw_the_rest() -> None:
    model = Small()
    assert [name for name, _ in muon_parameters(model.named_parameters())] == ["blocks.0.0.weight", "blocks.1.0.weight"]
    muon, rest = build_optimizers(options("muon", weight_decay=0.0, lr=0.1), model.named_parameters())
    owned = [id(p) for optimizer in (muon, rest) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    before = model.blocks[0][0].weight.detach().clone()
    run(model, [muon, rest], 1)
    # A Muon update is nearly orthogonal: all its singular values are of one size.
    values = torch.linalg.svdvals(model.blocks[0][0].weight.detach() - before)
    assert values.max() < 2.0 * values.min()


def test_muon_without_layers_is_refused() -> None:
    with pytest.raises(UsageError, match="numbered layers"):
        build_optimizers(options("muon"), nn.Linear(3, 3).named_parameters())


def test_a_frozen_parameter_is_no_one_s() -> None:
    model = Small()
    model.out.weight.requires_grad_(False)
    (optimizer,) = build_optimizers(options("adamw"), model.named_parameters())
    assert id(model.out.weight) not in {id(p) for group in optimizer.param_groups for p in group["params"]}


def test_the_schedule_moves_every_group() -> None:
    optimizers = build_optimizers(options("muon", lr=0.2), Small().named_parameters())
    assert set_learning_rate(optimizers, options("muon", lr=0.2), 0.5) == 0.1
    assert {group["lr"] for optimizer in optimizers for group in optimizer.param_groups} == {0.1}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("restored", [True, False])
def test_an_optimizer_goes_on_from_its_tensors_alone(name: str, restored: bool) -> None:
    config = options(name, **OPTIMIZERS[name])
    unbroken = Small()
    optimizers = build_optimizers(config, unbroken.named_parameters())
    run(unbroken, optimizers, 3)
    names = {id(p): n for n, p in unbroken.named_parameters()}
    tensors = {key: tensor.clone() for key, tensor in optimizer_tensors(optimizers, names).items()}
    resumed = Small()
    resumed.load_state_dict(unbroken.state_dict())
    fresh = build_optimizers(config, resumed.named_parameters())
    if restored:
        load_optimizer_tensors(fresh, dict(resumed.named_parameters()), tensors)
    run(unbroken, optimizers, 3, 3)
    run(resumed, fresh, 3, 3)
    same = all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True))
    assert same is restored


FIELDS = {
    "sgd": {"lr": 0.3, "momentum": 0.5, "nesterov": True, "weight_decay": 0.5},
    "adam": {"lr": 0.3, "betas": (0.5, 0.5), "eps": 0.1},
    "adamw": {"lr": 0.3, "betas": (0.5, 0.5), "eps": 0.1, "weight_decay": 0.5},
    "adafactor": {"lr": 0.3, "beta2_decay": -0.3, "clip_threshold": 2.0, "weight_decay": 0.5},
    "muon": {
        "lr": 0.3,
        "momentum": 0.5,
        "nesterov": False,
        "ns_steps": 2,
        "betas": (0.5, 0.5),
        "eps": 0.1,
        "weight_decay": 0.5,
    },
}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in FIELDS.items() for field in fields])
def test_every_field_of_every_optimizer_changes_the_weights(name: str, field: str) -> None:
    config = options(name, **({"momentum": 0.9} if name == "sgd" else {}))
    assert set(FIELDS[name]) == set(type(config).model_fields) - {"name"}
    results = []
    for chosen in (config, config.replace(**{field: FIELDS[name][field]})):
        model = Small()
        run(model, build_optimizers(chosen, model.named_parameters()), 3)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(*results)
