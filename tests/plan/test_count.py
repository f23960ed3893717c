"""What is counted on the meta device is what is there on a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.core.config import find_part
from dougong.core.errors import UsageError
from dougong.plan.count import (
    build_on_meta,
    count,
    flops_per_sample,
    known_model,
    optimizer_bytes,
    parameters_by_block,
    state_bytes,
)
from dougong.recipe import load
from dougong.train.optim import build_optimizers, optimizer_tensors
from tests.tiny import tiny_recipe


def recipe_of(tmp_path: Path, **changes: Any) -> Any:
    return load(tiny_recipe(tmp_path, model={"vocab_size": 257}, **changes))


def test_parameters_by_block_add_up_to_the_real_model(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    counted = count(recipe)
    real = sum(p.numel() for p in recipe.model.build().parameters())
    assert counted.parameters == sum(counted.parameters_by_block.values()) == real
    assert counted.weight_bytes == counted.gradient_bytes == 4 * real


def test_layers_are_added_up_under_one_name() -> None:
    model = build_on_meta(find_part("models", "gpt").PART(vocab_size=100, num_layers=3, num_heads=2, dim=8))
    blocks = parameters_by_block(model)
    assert not any(character.isdigit() for name in blocks for character in name)
    assert blocks["blocks.*.attention"] == 3 * (4 * 8 * 8 + 4 * 8)


def test_operations_are_those_of_the_formula() -> None:
    layers, dim, time, vocab = 2, 32, 16, 100
    config = find_part("models", "gpt").PART(
        vocab_size=vocab, max_seq_len=time, num_layers=layers, num_heads=2, dim=dim
    )
    task = find_part("tasks", "language_modeling").PART().build(config)
    products = 6 * time * (12 * dim * dim * layers + vocab * dim)
    attention = 3 * layers * 2 * (2 * time * time * dim)
    assert flops_per_sample(build_on_meta(config), task) == products + attention


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adafactor", "muon"])
def test_optimizer_state_has_the_bytes_of_the_real_one(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, train={"optimizer": {"name": name}})
    model = recipe.model.build()
    model.init_weights(0)
    named = dict(model.named_parameters())
    optimizers = build_optimizers(recipe.train.optimizer, named.items())
    for parameter in named.values():
        parameter.grad = torch.ones_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    tensors = optimizer_tensors(optimizers, {id(p): n for n, p in named.items()})
    real = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert optimizer_bytes(build_on_meta(recipe.model), recipe.train.optimizer) == real


def test_a_full_batch_has_no_operations_per_step_before_the_data_is_read(tmp_path: Path) -> None:
    assert count(recipe_of(tmp_path, train={"batch_size": "all"})).flops_per_step is None
    counted = count(recipe_of(tmp_path))
    assert counted.flops_per_step == 4 * counted.flops_per_sample


def test_a_shorter_context_of_the_data_takes_fewer_operations(tmp_path: Path) -> None:
    full, half = count(recipe_of(tmp_path)), count(recipe_of(tmp_path, data={"seq_len": 8}))
    assert half.flops_per_sample < full.flops_per_sample / 2
    assert half.parameters == full.parameters


def test_the_vocabulary_may_be_told_by_the_tokenizer_but_must_be_known(tmp_path: Path) -> None:
    assert known_model(load("gpt-stdlib")).vocab_size == 1024  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="model.vocab_size must be known"):
        count(load(tiny_recipe(tmp_path)))


def test_nothing_is_allocated_for_the_largest_model() -> None:
    model = build_on_meta(load("gpt3-175b").model)
    assert all(p.is_meta for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) == 174_604_259_328


def test_the_state_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    counted = count(recipe)
    parts = (counted.weight_bytes, counted.gradient_bytes, counted.optimizer_bytes)
    assert state_bytes(recipe) == counted.state_bytes == sum(parts)
