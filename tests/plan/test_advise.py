"""What fits is found to the last one, and what a lever is said to buy is what it buys."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from dougong.core.config import find_part, validate
from dougong.plan import advise
from dougong.plan.advise import Setting, largest_batch, levers, longest_context
from dougong.train.adapter import Adapted, LoraConfig
from dougong.train.config import TrainConfig


def setting(**train: Any) -> Setting:
    values = {"vocab_size": 64, "max_seq_len": 32, "num_layers": 3, "num_heads": 2, "dim": 32}
    model = validate(find_part("models", "gpt").PART, values)
    task = validate(find_part("tasks", "language_modeling").PART, {})
    return Setting(model, task.build, validate(TrainConfig, {"batch_size": 4, **train}))


@given(st.integers(0, 5000), st.integers(1, 40), st.integers(0, 3000), st.integers(1, 100), st.integers(0, 100000))
def test_the_largest_that_fits_is_found(fixed: int, each: int, kink: int, start: int, there: int) -> None:
    asked = []

    def peak(size: int) -> int:
        asked.append(size)
        return max(kink, fixed + each * size)  # at first something else is the peak

    found = advise._largest(peak, there, start)
    expected = (there - fixed) // each if there >= max(kink, fixed + each) else 0
    assert found.value == max(0, expected)
    assert found.limit == "memory"
    assert len(asked) == len(set(asked))
    assert len(asked) < 40
    if found.value:
        assert found.bytes == peak(found.value) <= there


def test_where_nothing_ends_it_the_search_does() -> None:
    found = advise._largest(lambda size: 5, 10, 1)
    assert (found.value, found.limit) == (advise.MOST, "search")


def test_a_batch_that_fits_fits_and_the_next_does_not() -> None:
    plan = setting()
    there = 12e6
    found = largest_batch(plan, there)
    assert found.value > 4
    assert plan.memory(found.value).peak == found.bytes <= there < plan.memory(found.value + 1).peak
    assert largest_batch(plan, there, start=found.value) == found
    assert largest_batch(plan, 1000.0).value == 0


def test_a_context_that_fits_fits_and_the_next_does_not() -> None:
    plan = setting()
    there = 12e6
    found = longest_context(plan, there, 4)
    assert found.value % 8 == 0
    assert found.value > 32  # longer than the model read before
    assert plan.longer(found.value).memory(4).peak <= there < plan.longer(found.value + 8).memory(4).peak


def test_more_memory_lets_more_in() -> None:
    plan = setting()
    assert largest_batch(plan, 24e6).value > 1.8 * largest_batch(plan, 12e6).value


def bought(plan: Setting, there: float = 12e6) -> dict[str, Any]:
    return {one.name: one for one in levers(plan, there, 4, largest_batch(plan, there).value)}


@functools.cache
def usual() -> tuple[Setting, dict[str, Any]]:
    """The setting that several tests ask for its levers, which takes seconds."""
    plan = setting()
    return plan, bought(plan)


def test_levers_buy_what_a_step_with_them_saves() -> None:
    plan, found = usual()
    plain = plan.memory(4).peak
    assert set(found) == {
        "recomputation",
        "accumulation, microbatches of 2",
        "optimizer state in bf16",
        "LoRA of rank 8",
    }
    again, less = found["recomputation"], found["accumulation, microbatches of 2"]
    assert again.bytes == plan.memory(4, recompute=True).peak
    assert less.bytes == plan.memory(4, microbatch_size=2).peak
    assert all(lever.bytes + lever.saved == plain and lever.saved > 0 for lever in found.values())
    assert again.flops > 1.2
    assert less.flops == 1.0
    most = largest_batch(plan, 12e6).value
    assert again.largest_batch > most
    assert plan.memory(again.largest_batch, recompute=True).peak <= 12e6
    assert found["LoRA of rank 8"].flops < 1.0  # the slopes of the frozen weights are not wanted
    for lever in found.values():
        if lever.option is not None and lever.option.startswith("train."):
            path, _, value = lever.option.partition("=")
            assert validate(TrainConfig, {path.removeprefix("train."): json.loads(value)}) != validate(TrainConfig, {})


def test_an_adapter_takes_what_its_lever_says() -> None:
    plan, found = usual()
    lever = found["LoRA of rank 8"]
    assert lever.option == "adapter.rank=8"
    adapted = dataclasses.replace(plan, model=Adapted(plan.model, LoraConfig(rank=8)))
    assert abs(adapted.memory(4).peak - lever.bytes) < 1e-3 * lever.bytes  # 16 bytes of one number
    assert adapted.trace(4).flops() / plan.trace(4).flops() == lever.flops
    assert "LoRA of rank 8" not in bought(adapted)


def test_what_is_pulled_already_is_no_lever() -> None:
    found = bought(setting(recompute=True, microbatch_size=1, optimizer={"name": "sgd"}))
    assert set(found) == {"LoRA of rank 8"}


def test_the_type_and_the_length_count() -> None:
    plan = setting()
    short = plan.longer(8)
    assert short.memory(4).peak < plan.memory(4).peak
    assert short.trace(4).flops() < plan.trace(4).flops() / 3
    assert Setting(plan.model, plan.make_task, plan.train, torch.bfloat16).memory(64).peak < plan.memory(64).peak
