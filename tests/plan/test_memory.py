"""The predicted peak is that of the real step, category by category where that can be told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dougong.core.config import find_part, validate
from dougong.core.seed import sample_keys
from dougong.plan.memory import Ledger, Memory, step_memory
from dougong.train.blocks import prepared_blocks
from dougong.train.config import TrainConfig
from dougong.train.measure import allocations, highest
from dougong.train.state import State
from dougong.train.step import optimizer_step

SMALL = {"name": "gpt", "vocab_size": 512, "max_seq_len": 64, "num_layers": 3, "num_heads": 4, "dim": 64}
GATED = {"position": "rotary", "norm": "rmsnorm", "activation": "silu", "gated_mlp": True, "bias": False}


def parts(**model: Any) -> tuple[Any, Any]:
    config = validate(find_part("models", "gpt").PART, {**SMALL, **model})
    return config, validate(find_part("tasks", "language_modeling").PART, {}).build(config)


def measured(model: Any, task: Any, config: TrainConfig, size: int = 8) -> tuple[int, State]:
    """The real peak: of the state, and of what a step allocates on top."""
    network = model.build()
    network.init_weights(0)
    state = State.create(config, network.train())
    batch = task.example_batch(size, "cpu")
    with prepared_blocks(network, False, config.recompute):
        optimizer_step(state, batch, task)
        changes = allocations(lambda: optimizer_step(state, batch, task))
    held = [*network.parameters(), *network.buffers(), *state.tensors()["optimizer"].values()]
    held += state.tensors()["average"].values()
    sizes = {tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    return sum(sizes.values()) + highest(changes), state


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({}, {}),
        (GATED, {}),
        ({"dropout": 0.1, "attention_dropout": 0.1}, {}),
        ({}, {"recompute": True, "ema": {}}),
        (GATED, {"microbatch_size": 2, "optimizer": {"name": "muon"}}),
        ({}, {"optimizer": {"name": "sgd", "momentum": 0.9}}),
        ({"dim": 32}, {"optimizer": {"name": "adafactor"}}),
        ({"dim": 256, "num_layers": 1}, {"microbatch_size": 1, "batch_size": 8}),
    ],
    ids=str,
)
def test_the_predicted_peak_is_the_measured_one(model: dict[str, Any], train: dict[str, Any]) -> None:
    config = validate(TrainConfig, {"batch_size": 8, "precision": "fp32", **train})
    built, task = parts(**model)
    predicted = step_memory(built, task, task.example_batch(8, "cpu"), config)
    peak, _ = measured(built, task, config)
    assert predicted.peak == pytest.approx(peak, rel=0.05)


def test_the_state_is_told_apart() -> None:
    config = validate(TrainConfig, {"batch_size": 4, "ema": {}, "microbatch_size": 2})
    built, task = parts()
    found = step_memory(built, task, task.example_batch(4, "cpu"), config)
    _, state = measured(built, task, config, 4)
    size = sum(p.numel() * 4 for p in state.parameters.values())
    assert found.weights == found.average == size
    assert found.optimizer == sum(t.numel() * t.element_size() for t in state.tensors()["optimizer"].values())
    assert found.gradients == size  # those of the first microbatch are there when the second reaches its peak
    assert found.peak == sum((found.weights, found.gradients, found.optimizer, found.average)) + (
        found.activations + found.workspace
    )


def test_activations_grow_with_the_microbatch_and_recomputing_saves_them() -> None:
    built, task = parts()
    config = validate(TrainConfig, {"batch_size": 8})

    def found(size: int, **changes: Any) -> Memory:
        return step_memory(built, task, task.example_batch(size, "cpu"), config.replace(**changes))

    assert found(8).activations == pytest.approx(2 * found(4).activations, rel=0.05)
    assert found(8, microbatch_size=4).activations == pytest.approx(found(4).activations, rel=0.01)
    assert found(8, recompute=True).peak < 0.7 * found(8).peak
    assert found(4).peak - found(4).activations > 0


def test_products_in_bf16_keep_less() -> None:
    built, task = parts()
    batch, config = task.example_batch(8, "cpu"), validate(TrainConfig, {"batch_size": 8})
    assert step_memory(built, task, batch, config, torch.bfloat16).activations < (
        0.8 * step_memory(built, task, batch, config).activations
    )


def test_nothing_is_allocated() -> None:
    built, task = parts(dim=4096, num_layers=2, num_heads=32, vocab_size=50000)
    changes = allocations(
        lambda: step_memory(built, task, task.example_batch(2, "meta").to("meta"), validate(TrainConfig, {}))
    )
    assert highest(changes) < 1e6


def test_the_ledger_forgets_what_is_freed() -> None:
    """The control: without the freeing of memory the peak would be the sum of all that ever was."""
    ledger = Ledger()
    with ledger:
        one = torch.ones(100)
        one = one + 1
        one = one + 1
    ledger.tag("activations", [one])
    assert sum(ledger.at_peak().values()) == 800
    assert sum(size for _, size in ledger._entries if size > 0) == 1200


def test_a_memory_reads_as_a_sentence() -> None:
    text = str(Memory(4_000_000, 0, 8_000_000, 0, 100_000_000, 1_000_000))
    assert text == "113 MB at the peak of a step (4 weights, 8 optimizer, 100 activations, 1 workspace)"


def test_noise_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    config = validate(TrainConfig, {"batch_size": 4})
    quiet, task = parts()
    loud, _ = parts(dropout=0.1)
    batch = task.example_batch(4, "cpu")
    assert len(sample_keys(batch.samples, 0, "dropout", 0)) == 4
    assert step_memory(loud, task, batch, config).peak > step_memory(quiet, task, batch, config).peak
