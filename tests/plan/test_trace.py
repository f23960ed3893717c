"""The operations of a traced step are those of the real one, by phase, block and microbatch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from dougong.core.config import find_part, validate
from dougong.plan.count import build_on_meta
from dougong.plan.trace import Recorder, Trace, trace_loss, trace_step
from dougong.train.blocks import prepared_blocks
from dougong.train.config import TrainConfig
from dougong.train.state import State
from dougong.train.step import optimizer_step

LAYERS, DIM, TIME, VOCAB = 3, 32, 16, 64
BLOCKS = LAYERS * (2 * TIME * 12 * DIM * DIM + 4 * TIME * TIME * DIM)  # forward, one example
HEAD = 2 * TIME * VOCAB * DIM


def parts(**model: Any) -> tuple[Any, Any]:
    values = {"vocab_size": VOCAB, "max_seq_len": TIME, "num_layers": LAYERS, "num_heads": 2, "dim": DIM, **model}
    config = validate(find_part("models", "gpt").PART, values)
    return config, validate(find_part("tasks", "language_modeling").PART, {}).build(config)


def traced(dtype: torch.dtype = torch.float32, model: Any = None, **train: Any) -> Trace:
    config, task = parts(**(model or {}))
    train_config = validate(TrainConfig, {"batch_size": 6, **train})
    return trace_step(config, task, task.example_batch(train_config.batch_size, "cpu"), train_config, dtype)


def test_a_step_has_the_operations_of_the_formula() -> None:
    found = traced()
    assert found.flops("forward") == 6 * (BLOCKS + 3 * HEAD)  # the loss finds the head's slopes as it goes
    assert found.flops("backward") == 6 * 2 * BLOCKS
    assert found.flops("recompute") == found.flops("update") == 0
    assert found.flops() == 6 * 3 * (BLOCKS + HEAD)
    assert not found.unknown


def test_recomputation_runs_the_blocks_again() -> None:
    found, plain = traced(recompute=True), traced()
    assert found.flops("forward", "backward") == plain.flops("forward", "backward")
    down = LAYERS * 2 * TIME * 4 * DIM * DIM  # a block's last product, whose result the backward pass does not want
    assert found.flops("recompute") == 6 * (BLOCKS - down)


@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_microbatches_have_the_products_of_the_whole(size: int) -> None:
    found = traced(microbatch_size=size)
    assert found.flops() == traced().flops()
    count = -(-6 // size)
    products = [operation for operation in found.operations if operation.name == "aten.mm.default"]
    whole = [operation for operation in traced().operations if operation.name == "aten.mm.default"]
    assert len(products) == count * len(whole)


@pytest.mark.parametrize("train", [{}, {"ema": {}}, {"l2": 0.1}, {"microbatch_size": 4}], ids=str)
def test_a_traced_step_has_the_operations_of_a_real_one(train: dict[str, Any]) -> None:
    config, task = parts(bias=False)
    train_config = validate(TrainConfig, {"batch_size": 6, "precision": "fp32", **train})
    network = config.build()
    network.init_weights(0)
    state, recorder = State.create(train_config, network.train()), RealRecorder()
    batch = task.example_batch(6, "cpu")
    with prepared_blocks(network, False, False):
        optimizer_step(state, batch, task)
        with recorder:
            optimizer_step(state, batch, task)
    heavy = ("mm", "addmm", "bmm", "_fused_adamw_", "_foreach_norm", "native_layer_norm", "gelu", "embedding")

    def counted(found: Trace) -> Counter[str]:
        names = [operation.name.split(".")[1] for operation in found.operations]
        return Counter(name for name in names if name.removesuffix("_backward") in heavy)

    planned = trace_step(config, task, batch, train_config)
    assert counted(planned) == counted(recorder.trace())
    assert planned.flops() == recorder.trace().flops()


class RealRecorder(Recorder):
    """Notes the operations of a real step, whose numbers are not 1."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


def test_products_in_bf16_are_noted_as_such() -> None:
    types = {operation.dtype for operation in traced(torch.bfloat16).operations if operation.flops}
    assert types == {torch.bfloat16}
    assert {operation.dtype for operation in traced().operations if operation.flops} == {torch.float32}


def test_blocks_have_the_operations_of_their_layers() -> None:
    config, task = parts()
    found = trace_loss(build_on_meta(config), task, task.example_batch(1, "meta"))
    blocks = found.flops_by_block()
    assert sum(blocks.values()) == found.flops("forward")
    assert blocks["blocks.2.attention"] == 4 * TIME * TIME * DIM
    inner = {name: flops for name, flops in blocks.items() if name.startswith("blocks.1.")}
    assert sum(inner.values()) == BLOCKS // LAYERS


def test_an_operation_says_how_many_bytes_it_reads_and_writes() -> None:
    recorder = Recorder()
    rows = torch.empty(8, 4, device="meta")
    with recorder:
        rows.exp()
        rows.mul_(2.0)
        rows[:1].expand(8, 4).exp()
    found = [(one.read_bytes, one.written_bytes) for one in recorder.trace().operations if "exp." in one.name]
    assert found == [(128, 128), (128, 128)]  # what is expanded lies in a storage of as many bytes
    (scaled,) = [one for one in recorder.trace().operations if one.name.startswith("aten.mul_")]
    assert (scaled.read_bytes, scaled.written_bytes, scaled.shapes) == (128, 128, ((8, 4),))


def test_numbers_that_are_asked_for_are_one() -> None:
    with Recorder():
        assert torch.empty((), device="meta").item() == 1


def test_a_block_that_fails_is_left() -> None:
    """What is computed after a block that failed is not booked to it."""

    class Failing(nn.Module):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("on purpose")

    network, recorder = nn.Sequential(Failing()), Recorder()
    with recorder, recorder.within(network):
        with pytest.raises(RuntimeError, match="on purpose"):
            network(torch.empty(1, device="meta"))
        torch.empty(2, 2, device="meta").exp()
    assert recorder.trace().operations[-1].block == ""
