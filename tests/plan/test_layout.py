"""What layouts hold and take: sums over devices are the whole, schedules are those that are played through."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from dougong.core.config import find_part, validate
from dougong.plan.cost import cost_of
from dougong.plan.hardware import HARDWARE
from dougong.plan.layout import Layout, Workload, bubble, in_flight, memory, sent, sharded, step_time
from dougong.plan.memory import step_memory
from dougong.train.config import AdamWConfig, TrainConfig

GPT = find_part("models", "gpt")
SHAPE = {"name": "gpt", "vocab_size": 1024, "max_seq_len": 256, "num_layers": 8, "num_heads": 8, "dim": 128}


def parts(**model: Any) -> tuple[Any, Any]:
    config = validate(GPT.PART, {**SHAPE, **model})
    return config, validate(find_part("tasks", "language_modeling").PART, {}).build(config)


def job_of(mixed: bool = True, **model: Any) -> Workload:
    config, task = parts(**model)
    cost = cost_of(config, task, AdamWConfig(), torch.bfloat16 if mixed else torch.float32)
    return Workload(cost, HARDWARE["a100-80gb"], 64, mixed)


JOB = job_of()


def state(layout: Layout, job: Workload = JOB) -> float:
    found = memory(job, layout)
    return found.weights + found.gradients + found.optimizer


def test_adam_in_mixed_precision_takes_sixteen_bytes_per_parameter() -> None:
    """Rajbhandari et al. 2020, section 3.1: 2 + 2 + 12."""
    assert state(Layout()) == 16 * JOB.cost.parameters
    found = memory(JOB, Layout())
    assert (found.weights, found.optimizer) == (2 * JOB.cost.parameters, 12 * JOB.cost.parameters)
    assert state(Layout(), job_of(mixed=False)) == 16 * JOB.cost.parameters  # 4 + 4 + 8
    averaged = dataclasses.replace(JOB, averaged=True)
    assert state(Layout(), averaged) == 20 * JOB.cost.parameters


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_shards_of_all_devices_are_the_whole(stage: int) -> None:
    whole, part = memory(JOB, Layout()), memory(JOB, Layout(shard=8, stage=stage))
    for number, name in enumerate(("optimizer", "gradients", "weights"), 1):
        devices = 8 if stage >= number else 1
        assert devices * getattr(part, name) == pytest.approx(getattr(whole, name)), name


def test_split_weights_of_all_devices_are_the_whole() -> None:
    """What tensor parallelism divides adds up; what it does not divide is on every device."""
    total = sum(part.parameters - part.split_parameters for part in (*JOB.cost.blocks, JOB.cost.before, JOB.cost.after))
    assert 4 * memory(JOB, Layout(tensor=4)).weights == pytest.approx(2 * (JOB.cost.parameters + 3 * total))


def test_pipeline_stages_are_the_whole_and_a_tied_embedding_is_on_both_ends() -> None:
    cost = JOB.cost
    inner = 2 * JOB.block.parameters  # type: ignore[union-attr]
    found = memory(JOB, Layout(pipeline=4)).weights / 2
    assert found in (inner + cost.before.parameters, inner + cost.after.parameters)
    assert cost.before.parameters + cost.after.parameters + 4 * inner == cost.parameters + cost.tied_parameters


def test_sharding_over_one_device_is_no_sharding() -> None:
    for stage in (0, 1, 2, 3):
        assert sharded((2.0, 3.0, 5.0), stage, 1) == (2.0, 3.0, 5.0)
        assert state(Layout(stage=stage)) == state(Layout())
        assert sent(JOB, Layout(stage=stage))["data"] == 0


@pytest.mark.parametrize("changes", [{}, {"recompute": True}, {"precision": "fp32", "microbatch_size": 2}], ids=str)
def test_one_device_holds_what_the_step_on_it_was_predicted_to(changes: dict[str, Any]) -> None:
    config, task = parts()
    train = validate(TrainConfig, {"batch_size": 8, "precision": "fp32", **changes})
    exact = step_memory(config, task, task.example_batch(8, "cpu"), train)
    size = train.microbatch_size or 8
    job = dataclasses.replace(job_of(mixed=False), batch_size=8)
    found = memory(job, Layout(microbatch=size, recompute=train.recompute))
    assert found.weights + found.optimizer == pytest.approx(exact.weights + exact.optimizer, rel=0.001)
    # All gradients beside all activations, which in a step are there one after the other: never less than the step's.
    assert 0.95 * exact.peak < found.total < 1.5 * exact.peak
    if not train.recompute:
        assert found.activations == pytest.approx(exact.activations, rel=0.1)


def played(stages: int, microbatches: int) -> tuple[float, list[int]]:
    """Plays 1F1B, forward 1 and backward 2 long: returns when the last is done, and what each stage held at most.

    Each stage warms up with as many forward passes as there are stages after it, then alternates.
    """
    orders = []
    for rank in range(stages):
        warm = min(microbatches, stages - rank)
        steady = [k for m in range(warm, microbatches) for k in (("B", m - warm), ("F", m))]
        orders.append(
            [("F", m) for m in range(warm)] + steady + [("B", m) for m in range(microbatches - warm, microbatches)]
        )
    done: dict[tuple[int, str, int], float] = {}
    clock, place = [0.0] * stages, [0] * stages
    while any(place[rank] < len(orders[rank]) for rank in range(stages)):
        for rank in range(stages):
            while place[rank] < len(orders[rank]):
                kind, m = orders[rank][place[rank]]
                near = rank - 1 if kind == "F" else rank + 1
                first = (kind == "F" and rank == 0) or (kind == "B" and rank == stages - 1)
                needs = [(rank, "F", m)] * (kind == "B") + [] if first else [(near, kind, m)]
                if any(need not in done for need in needs):
                    break
                start = max([clock[rank], *(done[need] for need in needs)])
                clock[rank] = done[rank, kind, m] = start + (1 if kind == "F" else 2)
                place[rank] += 1
    held = []
    for order in orders:
        now = most = 0
        for kind, _ in order:
            now += 1 if kind == "F" else -1
            most = max(most, now)
        held.append(most)
    return max(clock), held


@pytest.mark.parametrize(("stages", "microbatches"), [(1, 4), (2, 2), (4, 4), (4, 16), (8, 24), (4, 2)])
def test_bubble_and_what_is_in_flight_are_those_of_a_schedule_that_is_played(stages: int, microbatches: int) -> None:
    finished, held = played(stages, microbatches)
    busy = 3 * microbatches
    assert finished == pytest.approx(busy * (1 + bubble(stages, microbatches)))
    assert held == [in_flight(rank, stages, microbatches) for rank in range(stages)]
    if stages > 1:  # the control: a stage more or fewer does not give the schedule's end
        assert finished != pytest.approx(busy * (1 + bubble(stages + 1, microbatches)))


def test_interleaving_shortens_the_bubble_and_holds_what_korthikanti_says() -> None:
    """Korthikanti et al. 2022, section 4.2.3: the first stage holds L (1 + (p - 1) / (p m)) layers' activations."""
    assert bubble(8, 16, 4) == bubble(8, 16) / 4
    for stages, pieces in ((4, 2), (8, 4)):
        assert in_flight(0, stages, 64, pieces) / stages == pytest.approx(1 + (stages - 1) / (stages * pieces))


def test_a_pipeline_waits_and_recomputing_computes_more() -> None:
    alone, piped = step_time(JOB, Layout(data=4)), step_time(JOB, Layout(pipeline=4))
    assert alone.bubble == 0.0
    assert alone.pipeline == 0.0 < piped.pipeline
    assert piped.bubble == pytest.approx(3 / 64 * (piped.compute + piped.tensor + piped.context))
    again = step_time(JOB, Layout(recompute=True)).compute / step_time(JOB, Layout()).compute
    assert 1.2 < again < 4 / 3


def test_what_is_sent_is_as_the_papers_say() -> None:
    """Narayanan et al. 2021, section 3.2; Rajbhandari et al. 2020, section 7: 2 psi, and 3 psi for stage 3."""
    cost, tensor = JOB.cost, 4
    hidden = 2 * SHAPE["max_seq_len"] * SHAPE["dim"]
    split = sent(JOB, Layout(tensor=tensor))["tensor"]
    assert split == pytest.approx((8 * 4 + 1) * hidden * 2 * (tensor - 1) / tensor)  # 8 b s h (t - 1) / t per layer
    psi, share = 2 * cost.parameters, 7 / 8
    one = dataclasses.replace(JOB, batch_size=8)
    volumes = [sent(one, Layout(data=8))["data"]] + [sent(one, Layout(shard=8, stage=s))["data"] for s in (1, 2, 3)]
    assert [volume / (psi * share) for volume in volumes] == pytest.approx([2, 2, 2, 3])
    assert sent(JOB, Layout(pipeline=4, microbatch=2))["pipeline"] == 2 * 2 * hidden
    rings = 8 * 2 * hidden * 3 / 2
    assert sent(JOB, Layout(context=2))["context"] == pytest.approx(rings)


def test_context_divides_activations_and_computing() -> None:
    whole, half = memory(JOB, Layout()), memory(JOB, Layout(context=2))
    assert half.activations == pytest.approx(whole.activations / 2)
    assert half.weights == whole.weights
    assert step_time(JOB, Layout(context=2)).compute == pytest.approx(step_time(JOB, Layout()).compute / 2)


def test_a_layout_reads_as_a_sentence() -> None:
    layout = Layout(shard=8, stage=1, tensor=8, pipeline=16, interleave=3, recompute=True)
    assert layout.devices == 1024
    assert str(layout) == "tensor 8, pipeline 16, ZeRO-1 over 8, microbatch 1, 3 pieces per stage, recomputed"
