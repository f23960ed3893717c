"""What using a model takes is what it really takes: its cache, its operations, its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from dougong.core.config import find_part, validate
from dougong.infer.engine import next_logits
from dougong.plan.count import task_of
from dougong.plan.inference import inference
from dougong.recipe import load
from dougong.train.measure import allocations, highest

LAYERS, DIM, TIME, VOCAB = 2, 32, 24, 50


def parts(**model: Any) -> tuple[Any, Any]:
    values = {"vocab_size": VOCAB, "max_seq_len": TIME, "num_layers": LAYERS, "num_heads": 4, "dim": DIM, **model}
    config = validate(find_part("models", "gpt").PART, values)
    return config, validate(find_part("tasks", "language_modeling").PART, {}).build(config)


@pytest.mark.parametrize("heads", [4, 2, 1])
def test_a_token_leaves_its_keys_and_values(heads: int) -> None:
    config, task = parts(num_kv_heads=heads)
    made = inference(config, task).generation
    assert made is not None
    assert made.cache_bytes_per_token == LAYERS * 2 * heads * (DIM // 4) * 4
    cache = config.build().new_cache(1, TIME)
    real = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves([cache.keys, cache.values]))
    assert made.context * made.cache_bytes_per_token == real


def test_a_generated_token_has_the_operations_of_a_real_one() -> None:
    config, task = parts()
    made = inference(config, task).generation
    assert made is not None
    network = config.build().eval()
    network.init_weights(0)
    cache = network.new_cache(1, TIME)
    cache.advance(TIME - 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        next_logits(network, torch.zeros(1, 1, dtype=torch.int64), cache)
    products = 2 * (12 * DIM * DIM * LAYERS + VOCAB * DIM)
    attention = LAYERS * 4 * TIME * DIM
    assert made.flops == products + attention
    assert counter.get_total_flops() in (products, products + attention)  # torch's table lacks a processor's attention
    weights = 4 * (12 * DIM * DIM * LAYERS + VOCAB * DIM)
    assert weights < made.bytes < 1.3 * (weights + TIME * made.cache_bytes_per_token)


def test_an_example_takes_what_is_measured() -> None:
    config, task = parts(dim=64, vocab_size=400)
    found = inference(config, task)
    network, batch = config.build().eval(), task.example_batch(1, "cpu")
    network.init_weights(0)
    with torch.no_grad():
        task.loss(network, batch)
        measured = highest(allocations(lambda: task.loss(network, batch)))
    assert found.workspace_bytes == pytest.approx(measured, rel=0.05)
    held = [*network.parameters(), *network.buffers()]
    assert found.weight_bytes == sum(tensor.numel() * tensor.element_size() for tensor in held)


def test_in_bf16_weights_and_cache_take_half() -> None:
    config, task = parts()
    full, half = inference(config, task), inference(config, task, torch.bfloat16)
    assert full.generation is not None
    assert half.generation is not None
    assert (full.dtype, half.dtype) == ("float32", "bfloat16")
    assert half.weight_bytes * 2 == full.weight_bytes
    assert half.generation.cache_bytes_per_token * 2 == full.generation.cache_bytes_per_token
    assert half.forward_flops == full.forward_flops
    assert half.generation.flops == full.generation.flops
    assert torch.get_default_dtype() == torch.float32


def test_all_of_it_is_what_the_memory_holds() -> None:
    config, task = parts(max_seq_len=4096, num_layers=8)
    found = inference(config, task)
    assert found.generation is not None
    kept = found.generation.context * found.generation.cache_bytes_per_token
    assert found.bytes == found.weight_bytes + max(found.workspace_bytes, kept)
    assert found.as_dict()["bytes"] == found.bytes


def test_what_generates_nothing_has_no_such_figures() -> None:
    recipe = load("{model: {name: stack, input: {image: {channels: 1, height: 8, width: 8}}, num_classes: 3, stages: "
                  "[{conv: 4}, {pool: mean}, classify]}, task: {name: image_classification}, data: {name: digits}, "
                  "train: {steps: 1, batch_size: 2}}")  # fmt: skip
    model: Any = recipe.model
    found = inference(model, task_of(recipe, model))
    assert found.generation is None
    assert found.bytes == found.weight_bytes + found.workspace_bytes
    assert found.forward_flops == 2 * (8 * 8 * 4 * 9 + 4 * 3)
