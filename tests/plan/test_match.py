"""Every operation of a step is looked up in a table that is there, at its sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dougong.plan.advise import Setting
from dougong.plan.count import known_model
from dougong.plan.kernels import kernels
from dougong.plan.match import calibrated, is_crowded, is_view
from dougong.plan.trace import Operation
from dougong.recipe import load
from tests.plan.calibrated import OVERHEADS, made

PICTURES = "task: {name: image_classification}, data: {name: digits}, train: {steps: 1, batch_size: 2}"
WORDS = (
    "task: {name: text_classification}, data: {name: labelled_text, classes: [{label: a, paths: [a.txt]}, "
    "{label: b, paths: [b.txt]}]}, train: {steps: 1, batch_size: 2}"
)
TEXT = (
    "task: {name: language_modeling}, data: {name: text, sources: [{name: python_library}], tokenizer: {name: bytes}}, "
    "train: {steps: 1, batch_size: 2, l2: 0.1, ema: {decay: 0.9}, microbatch_size: 1}"
)
IMAGE = "input: {image: {channels: 3, height: 16, width: 16}}, num_classes: 3"
TOKENS = "max_seq_len: 12, vocab_size: 40, num_classes: 2"
RECIPES = {
    "images": f"{{model: {{name: stack, {IMAGE}, stages: [{{conv: 8}}, {{norm: batch}}, {{activate: relu}}, {{conv: "
    f"{{kernel: 3, depthwise: true}}}}, {{conv: {{dim: 8, kernel: 1}}}}, {{pool: {{kind: max, size: 2}}}}, "
    f"{{pool: {{kind: mean, size: 2}}}}, flatten, {{transformer: 2}}, {{pool: mean}}, classify]}}, {PICTURES}}}",
    "words": f"{{model: {{name: stack, {TOKENS}, stages: [{{embed: 8}}, {{conv: {{dim: 8, kernel: 4}}}}, {{activate: "
    f"silu}}, {{conv: {{kernel: 3, depthwise: true}}}}, {{lstm: 8}}, {{gru: 8}}, {{rnn: 8}}, {{pool: max}}, classify]}}"
    f", {WORDS}}}",
    "experts": "{model: {name: stack, max_seq_len: 12, vocab_size: 40, stages: [{embed: 8}, {residual: [norm, "
    "{attention: {num_heads: 2, causal: true, rotary: true}}]}, {residual: [norm, {mixture: {num_experts: 4, chosen: 2,"
    f" hidden_dim: 8}}}}]}}, norm, next_token]}}, {TEXT}}}",
    "gpt": f"{{model: {{name: gpt, max_seq_len: 12, vocab_size: 40, num_layers: 1, num_heads: 2, dim: 8, activation: "
    f"gelu_tanh}}, {TEXT}}}",
}


def operations(name: str, dtype: torch.dtype = torch.float32) -> tuple[Operation, ...]:
    recipe = load(RECIPES[name])
    model: Any = known_model(recipe)
    task: Any = recipe.task
    size: Any = recipe.train.batch_size
    return Setting(model, task.build, recipe.train, dtype).trace(size).operations


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", RECIPES)
def test_every_operation_has_seconds(name: str, dtype: torch.dtype) -> None:
    machine = made()
    for operation in operations(name, dtype):
        kind, seconds = calibrated(operation, machine)
        assert 0 < seconds < 1, operation
        if operation.flops and "loss" not in operation.name:
            assert not is_crowded(kind), operation


def test_products_in_bf16_are_looked_up_as_such() -> None:
    tables = {n: t if "bf16" in n else type(t)(t.axes, (1.0,) * len(t.seconds)) for n, t in made().tables.items()}
    machine = made(tables=tables)  # all but bf16 takes a second
    for operation in operations("gpt", torch.bfloat16):
        kind, seconds = calibrated(operation, machine)
        if kind in ("products", "attention"):
            assert seconds < 0.1, operation


def test_a_product_takes_its_sizes_and_the_interpreter() -> None:
    machine = made()
    product = operation("aten.addmm.default", (8,), (16, 4), (4, 8))
    assert calibrated(product, machine) == ("products", pytest.approx(1e-9 * 16 * 8 * 4 + OVERHEADS["forward"]))
    large = operation("aten.mm.default", (4096, 512), (512, 512), phase="backward")
    assert calibrated(large, machine)[1] == pytest.approx(1e-9 * 4096 * 512 * 512 + OVERHEADS["backward"])


def test_a_view_takes_a_call_alone() -> None:
    view = operation("aten.transpose.int", (4096, 4096))
    assert is_view(view)
    assert calibrated(view, made()) == ("views", OVERHEADS["view"])


def test_crowding_is_for_what_moves_numbers_and_is_small() -> None:
    alone, crowded = made(), made(crowding=2.0)
    add, product = operation("aten.add.Tensor", (64, 64), (64, 64)), operation("aten.mm.default", (64, 64), (64, 64))
    huge = operation("aten.add.Tensor", (4096, 4096), (4096, 4096))
    assert calibrated(add, crowded)[1] == 2 * calibrated(add, alone)[1]
    for same in (product, huge):
        assert calibrated(same, crowded) == calibrated(same, alone)


@pytest.mark.parametrize(
    ("name", "shapes", "kernel"),
    [
        ("aten.mul.Tensor", [(64, 64), (64, 64)], "add"),
        ("aten.mul.Tensor", [(64, 64), ()], "scale"),
        ("aten.mul_.Tensor", [(64, 64), ()], "in_place"),
        ("aten.add_.Tensor", [(64, 64), (64, 64)], "sum_in_place"),
        ("aten.gelu_tanh_backward.default", [(64, 64), (64, 64)], "gelu_tanh_backward"),
        ("aten.masked_fill.Scalar", [(64, 64), (64, 1)], "masked"),
        ("aten.max_pool2d_with_indices.default", [(2, 2, 8, 8)], "largest"),
        ("aten.native_layer_norm_backward.default", [(64, 64), (64, 64)], "layer_norm_backward"),
        ("aten.what_nobody_has_heard_of.default", [(64, 64)], "scale"),
    ],
)
def test_the_likest_kernel_is_taken(name: str, shapes: list[tuple[int, ...]], kernel: str) -> None:
    assert f"bytes/{kernel}" in kernels()
    assert calibrated(operation(name, *shapes), made())[0] == kernel


def test_what_is_scattered_counts_and_not_what_it_falls_into() -> None:
    small = operation("aten.scatter_add_.default", (4096, 50257), (4096, 1), (4096, 1))
    assert calibrated(small, made())[1] < 1e-3


def operation(name: str, *shapes: tuple[int, ...], phase: Any = "forward") -> Operation:
    sizes = [4 * torch.Size(shape).numel() for shape in shapes]
    return Operation(name, phase, "", 0, sum(sizes), max(sizes), tuple(shapes), torch.float32)
