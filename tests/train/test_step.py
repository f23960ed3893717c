from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dougong.core.contracts import Batch, Loss
from dougong.core.errors import NonFiniteError, UsageError
from dougong.train.state import LossScale, State
from dougong.train.step import draws_noise, optimizer_step, ranges
from tests.train.small import Small, SmallBatches, Squares, config, equal, weights

DOUBLE = SmallBatches(dtype=torch.float64)


def stepped(model: nn.Module | None = None, task: Squares | None = None, steps: int = 3, **options: object) -> State:
    """A state after some steps in fp64."""
    state = State.create(config(**options), (model or Small()).double(), torch.float64)
    for step in range(steps):
        optimizer_step(state, DOUBLE[step], task or Squares())
    return state


def apart(one: State, other: State) -> float:
    """The largest difference of any weight."""
    return max(
        (a - b).abs().max().item() for a, b in zip(one.parameters.values(), other.parameters.values(), strict=True)
    )


class MeanOfMeans(Squares):
    """What most trainers do: each microbatch's mean counts the same."""

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        return Loss(loss.sum / loss.weight, torch.tensor(1.0), {})


@pytest.mark.parametrize("size", [1, 4, 5, 11])
@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 0.05}, {"l2": 3.0}, {"l2": 3.0, "clip_norm": 0.05}, {"optimizer": {"name": "adamw"}}]
)
def test_accumulated_equals_whole_batch(size: int, options: dict[str, object]) -> None:
    whole, cut = stepped(**options), stepped(microbatch_size=size, **options)
    assert 0 <= apart(whole, cut) < 1e-10
    assert apart(whole, stepped(steps=0)) > 1e-4


def test_a_mean_of_means_would_differ() -> None:
    whole, cut = stepped(task=MeanOfMeans()), stepped(task=MeanOfMeans(), microbatch_size=5)
    assert apart(whole, cut) > 1e-6


def test_a_microbatch_in_which_nothing_counts_is_no_harm() -> None:
    batch = DOUBLE[0]
    weight = batch["weight"].clone()
    weight[:4] = 0
    batch = Batch({**batch.fields, "weight": weight}, batch.samples)
    states = [State.create(config(microbatch_size=size), Small().double(), torch.float64) for size in (None, 4)]
    for state in states:
        optimizer_step(state, batch, Squares())
    assert apart(*states) < 1e-10


def test_a_batch_in_which_nothing_counts_is_refused() -> None:
    batch = DOUBLE[0]
    batch = Batch({**batch.fields, "weight": torch.zeros(12, dtype=torch.float64)}, batch.samples)
    with pytest.raises(UsageError, match="step 1 has none"):
        optimizer_step(State.create(config(), Small().double(), torch.float64), batch, Squares())


def mean_gradient(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    loss = Squares().loss(model, batch)
    found = torch.autograd.grad(loss.sum / loss.weight, list(model.parameters()))
    return dict(zip(dict(model.named_parameters()), found, strict=True))


def test_the_step_is_gradient_descent_on_the_mean_with_l2() -> None:
    model = Small().double()
    before, gradient = weights(model), mean_gradient(model, DOUBLE[0])
    count = sum(p.numel() for p in model.parameters())
    mean = Squares().loss(model, DOUBLE[0])
    state = State.create(config(l2=5.0), model, torch.float64)
    report = optimizer_step(state, DOUBLE[0], Squares())
    squares = sum(tensor.square().sum() for tensor in before.values())
    assert report.loss == pytest.approx((mean.sum / mean.weight + 5.0 / (2 * count) * squares).item(), rel=1e-12)
    for name, parameter in state.parameters.items():
        expected = before[name] - 0.05 * (gradient[name] + 5.0 / count * before[name])
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-14)
    total = math.sqrt(sum((gradient[n] + 5.0 / count * before[n]).square().sum().item() for n in before))
    assert report.grad_norm == pytest.approx(total, rel=1e-12)


def test_clipping_scales_the_update_to_the_limit_and_no_further() -> None:
    free, loose, tight = stepped(steps=1), stepped(steps=1, clip_norm=1e6), stepped(steps=1, clip_norm=0.01)
    assert apart(free, loose) == 0.0
    start = stepped(steps=0)
    moved = math.sqrt(sum((a - b).square().sum().item() for a, b in _pairs(tight, start)))
    assert moved == pytest.approx(0.05 * 0.01, rel=1e-9)


def _pairs(one: State, other: State) -> list[tuple[Tensor, Tensor]]:
    return list(zip(one.parameters.values(), other.parameters.values(), strict=True))


def test_the_report_has_the_numbers_of_the_step() -> None:
    state = State.create(config(schedule={"name": "linear"}), Small())
    batch = SmallBatches()[4]
    loss = Squares().loss(state.model, batch)
    report = optimizer_step(state, batch, Squares())
    assert report.step == state.step == 1
    assert report.loss == pytest.approx((loss.sum / loss.weight).item())
    assert report.parts["half"] == pytest.approx(report.loss / 2)
    assert report.items == batch["weight"].sum() == state.items
    assert report.samples == [(48, 59)]
    assert report.lr == 0.05
    assert optimizer_step(state, batch, Squares()).lr == pytest.approx(0.05 * 7 / 8)


def test_a_number_that_is_not_finite_stops_before_any_weight_changes() -> None:
    state = State.create(config(optimizer={"name": "adamw"}, ema={}), Small())
    optimizer_step(state, SmallBatches()[0], Squares())
    before = weights(state.model)
    tensors = {name: t.clone() for group in state.tensors().values() for name, t in group.items()}
    with pytest.raises(NonFiniteError, match=r"step 2: .* the loss is not \(samples 12 to 23\)") as caught:
        optimizer_step(state, SmallBatches(poison=1)[1], Squares())
    assert caught.value.exit_code == 5
    assert state.step == 1
    assert equal(before, weights(state.model))
    assert equal(tensors, {name: t for group in state.tensors().values() for name, t in group.items()})
    assert all(parameter.grad is None for parameter in state.parameters.values())


def test_without_the_check_the_weights_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State.create(config(), Small())
    monkeypatch.setattr("dougong.train.step.math.isfinite", lambda value: True)
    optimizer_step(state, SmallBatches(poison=0)[0], Squares())
    assert not any(torch.isfinite(p).all() for p in state.parameters.values())


class BadGradient(Squares):
    """A finite loss whose gradient is infinite in one place."""

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        loss = super().loss(model, batch)
        zero = (model.out.bias - model.out.bias.detach()).abs().sum()
        return Loss(loss.sum + zero.sqrt(), loss.weight, {})


def test_the_first_bad_tensor_is_named() -> None:
    state = State.create(config(), Small())
    with pytest.raises(NonFiniteError, match=r"the gradient of out\.bias of out \(Linear\) is not finite"):
        optimizer_step(state, SmallBatches()[0], BadGradient())


def test_allowed_steps_are_skipped_and_counted_and_no_more() -> None:
    state = State.create(config(on_nonfinite="skip", max_nonfinite=1), Small())
    before = weights(state.model)
    report = optimizer_step(state, SmallBatches(poison=0)[0], Squares())
    assert report.skipped
    assert report.reason.startswith("step 1: every number must be finite, but the loss is not (samples 0 to 11).")
    assert (state.step, state.skipped, state.nonfinite) == (1, 1, 1)
    assert equal(before, weights(state.model))
    assert not optimizer_step(state, SmallBatches()[1], Squares()).skipped
    with pytest.raises(NonFiniteError, match=r"1 such steps were allowed"):
        optimizer_step(state, SmallBatches(poison=2)[2], Squares())


def test_bf16_computes_products_in_bf16_and_keeps_weights_in_fp32() -> None:
    exact, rough = (State.create(config(), Small(), dtype) for dtype in (torch.float32, torch.bfloat16))
    for state in (exact, rough):
        optimizer_step(state, SmallBatches()[0], Squares())
    assert all(parameter.dtype == torch.float32 for parameter in rough.parameters.values())
    assert 0 < apart(exact, rough) < 1e-2


def test_fp16_scales_the_loss_and_halves_the_scale_on_overflow() -> None:
    exact, half = (State.create(config(), Small(), dtype) for dtype in (torch.float32, torch.float16))
    half.scale = LossScale(2.0**30, dynamic=True)
    before, skipped = weights(half.model), 0
    while optimizer_step(half, SmallBatches()[0], Squares()).skipped:
        skipped += 1
        assert equal(before, weights(half.model))
    assert skipped == half.skipped > 0
    assert half.nonfinite == 0
    assert half.scale.value == 2.0**30 / 2**skipped
    optimizer_step(exact, SmallBatches()[0], Squares())
    assert 0 < apart(exact, half) < 1e-2


def test_without_a_scale_small_gradients_vanish_in_fp16() -> None:
    def first_weight_moves(scale: LossScale) -> bool:
        model = Small()
        with torch.no_grad():
            model.norm.weight.mul_(1e-9)
        state = State.create(config(optimizer={"name": "sgd", "lr": 1e6}), model, torch.float16)
        state.scale, before = scale, model.blocks[0][0].weight.detach().clone()
        report = optimizer_step(state, SmallBatches()[0], Squares())
        assert not report.skipped
        return not torch.equal(before, model.blocks[0][0].weight)

    assert first_weight_moves(LossScale(2.0**16, dynamic=True))
    assert not first_weight_moves(LossScale(1.0))


def test_the_scale_grows_again_after_many_good_steps() -> None:
    scale = LossScale(8.0, dynamic=True)
    for _ in range(1000):
        scale.passed()
    assert scale.value == 16.0
    fixed = LossScale()
    for _ in range(1000):
        fixed.passed()
    assert fixed.value == 1.0


def test_dropout_is_a_function_of_seed_step_and_sample() -> None:
    batch = SmallBatches()[0]

    def loss(step: int = 0, seed: int = 0, microbatch: int | None = None, dropout: float = 0.5) -> float:
        state = State.create(config(seed=seed, microbatch_size=microbatch), Small(dropout))
        state.step = step
        return optimizer_step(state, batch, Squares()).loss

    assert loss() == loss()
    assert loss() == pytest.approx(loss(microbatch=5), rel=1e-6)
    assert len({loss(), loss(step=1), loss(seed=1), loss(dropout=0.0)}) == 4
    assert draws_noise(Small(0.5))
    assert not draws_noise(Small())


def test_no_step_waits_for_the_device_more_than_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    for name in ("item", "tolist", "__bool__", "__float__"):
        original = getattr(Tensor, name)

        def counted(self: Tensor, name: str = name, original=original):
            waits.append((name, self.numel()))
            return original(self)

        monkeypatch.setattr(Tensor, name, counted)
    state = State.create(config(microbatch_size=4, clip_norm=0.1, ema={}), Small())
    batch = SmallBatches()[0]
    batch = replace(batch, samples=batch.samples)
    waits.clear()
    optimizer_step(state, batch, Squares())
    # Beside the one reading of the numbers, `ranges` reads the samples' numbers, which are on the CPU in any case.
    assert [wait for wait in waits if wait[0] != "tolist"] == []
    assert len([wait for wait in waits if wait[0] == "tolist"]) <= 3


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([], []), ([5], [(5, 5)]), ([0, 1, 2, 3, 7], [(0, 3), (7, 7)]), ([3, 2, 1], [(3, 3), (2, 2), (1, 1)])],
)
def test_samples_are_written_as_ranges(numbers: list[int], expected: list[tuple[int, int]]) -> None:
    assert ranges(torch.tensor(numbers, dtype=torch.int64)) == expected
