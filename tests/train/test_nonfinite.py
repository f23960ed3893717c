from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dougong.core.contracts import Batch, Loss
from dougong.train.nonfinite import NonFiniteStep, first_bad, require_finite_weights
from dougong.train.state import State
from dougong.train.step import optimizer_step
from tests.train.small import Layer, Small, SmallBatches, Squares, config, equal, weights


def told(model: nn.Module, task: Squares | None = None, batch: Batch | None = None, **options: object) -> str:
    """What a failing step says of the first bad tensor. The weights are seen to be those of before."""
    state, before = State.create(config(**options), model), weights(model)
    with pytest.raises(NonFiniteStep) as caught:
        optimizer_step(state, batch or SmallBatches()[0], task or Squares())
    assert equal(before, weights(model)) or "weight" in str(caught.value)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in state.parameters.values())
    return caught.value.reason.partition("The first bad tensor: ")[2]


class Function(nn.Module):
    """A module that computes a function of its input."""

    def __init__(self, function: Callable[[Tensor], object]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


class Both(nn.Module):
    """Computes with a child that is fine, and then, itself, what is not."""

    def __init__(self, spoil: Callable[[Tensor], Tensor]):
        super().__init__()
        self.inner, self.spoil = nn.Linear(8, 8), spoil

    def forward(self, x: Tensor) -> Tensor:
        return self.spoil(self.inner(x))


def with_block(module: nn.Module) -> Small:
    model = Small()
    model.blocks[1] = module
    return model


def log(x: Tensor) -> Tensor:
    return x.log()


def test_a_weight_that_was_bad_before_is_named_with_its_module() -> None:
    model = Small()
    with torch.no_grad():
        model.norm.weight[3] = float("inf")
    assert told(model) == "the weight norm.weight of norm (LayerNorm) was not finite before this step."


def test_a_step_that_is_in_a_buffer_by_now_is_not_skipped_but_a_mask_is_no_such_buffer() -> None:
    model, batch = Small(), SmallBatches()[0]
    model.norm.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    batch["x"][0] = torch.nan
    state = State.create(config(on_nonfinite="skip"), model)
    assert optimizer_step(state, batch, Squares()).skipped
    model.blocks[1] = nn.Sequential(nn.BatchNorm1d(8))
    state = State.create(config(on_nonfinite="skip"), model)
    name = r"blocks\.1\.0\.running_mean of blocks\.1\.0 \(BatchNorm1d\)"
    with pytest.raises(NonFiniteStep, match=f"No weight was changed, but the buffer {name} was. Lower") as caught:
        optimizer_step(state, batch, Squares())
    assert "The first bad tensor: the field x of the batch is not finite." in str(caught.value)


@pytest.mark.parametrize("microbatch_size", [None, 5])
def test_a_field_of_the_batch_is_named(microbatch_size: int | None) -> None:
    batch = SmallBatches()[0]
    batch["x"][-1, 0] = torch.inf
    assert told(Small(), batch=batch, microbatch_size=microbatch_size) == "the field x of the batch is not finite."


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (Function(log), "blocks.1 (Function): its output is not finite, its input is."),
        (nn.Sequential(Layer(), Function(log)), "blocks.1.1 (Function): its output is not finite, its input is."),
        (Both(log), "blocks.1 (Both): its output is not finite, its input is."),
    ],
)
def test_the_module_that_turned_finite_into_bad_is_named_and_neither_its_heirs_nor_its_parents(
    module: nn.Module, text: str
) -> None:
    assert told(with_block(module)) == text


def test_of_several_outputs_the_bad_one_is_told() -> None:
    model = with_block(
        nn.Sequential(Function(lambda x: {"fine": x, "bad": [x, x.log()]}), Function(lambda d: d["bad"][1]))
    )
    assert told(model) == "blocks.1.0 (Function): its output 3 of 3 is not finite, its input is."


def test_the_loss_itself_is_named_where_every_module_is_fine() -> None:
    class TooLarge(Squares):
        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            loss = super().loss(model, batch)
            return Loss(loss.sum * 1e38 * 1e3, loss.weight, {})

    assert told(Small(), TooLarge()) == "the loss: its sum is not finite, the output of every module is."


class Root(Function):
    """The square root of zero: fine forward, infinitely steep backward."""

    def __init__(self) -> None:
        super().__init__(lambda x: x + (x * 0).abs().sqrt())


def test_the_gradient_that_backward_met_first_is_named() -> None:
    model = with_block(nn.Sequential(nn.Linear(8, 8), Root(), nn.Linear(8, 8)))
    text = told(model)
    assert text in {
        f"the gradient of blocks.1.0.{name} of blocks.1.0 (Linear) is not finite, the loss is."
        for name in ("weight", "bias")
    }


def test_without_the_order_of_the_modules_an_innocent_gradient_would_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dougong.train import nonfinite

    original = nonfinite._bad_gradient
    monkeypatch.setattr(nonfinite, "_bad_gradient", lambda state, ended: original(state, ended[::-1]))
    text = told(with_block(nn.Sequential(nn.Linear(8, 8), Root(), nn.Linear(8, 8))))
    assert "blocks.0.0" in text


def test_values_that_are_too_large_together_are_told_as_such() -> None:
    class Steep(Squares):
        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            loss = super().loss(model, batch)
            steep = sum(((p - p.detach()) * 1e25).sum() for p in model.parameters())
            return Loss(loss.sum + steep, loss.weight, {})

    assert told(Small(), Steep()) == (
        "the norm of the gradient is not finite: each value is, but together they are too large."
    )


def test_a_number_that_is_fine_the_second_time_is_blamed_on_the_machine() -> None:
    class Once(Squares):
        calls = 0

        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            self.calls += 1
            loss = super().loss(model, batch)
            return Loss(loss.sum * (torch.nan if self.calls == 1 else 1.0), loss.weight, {})

    model = Small()
    state = State.create(config(), model)
    with pytest.raises(NonFiniteStep, match="The first bad tensor: the gradient of out"):
        optimizer_step(state, SmallBatches()[0], Once())  # the gradient is still there, and bad
    assert first_bad(state, [SmallBatches()[0]], lambda batch: Squares().loss(model, batch)).startswith(
        "none: computed once more, every number is finite. It may be the machine"
    )


@pytest.mark.filterwarnings("default")  # the compiler's own, of tensors that are no leaves
def test_compiled_blocks_are_looked_into_as_well() -> None:
    model = with_block(nn.Sequential(Layer(), Function(log)))
    for block in model.blocks:
        block.compile(backend="eager")
    assert told(model) == "blocks.1.1 (Function): its output is not finite, its input is."


def test_weights_that_overflowed_may_not_be_saved() -> None:
    model = Small()
    state = State.create(config(), model)
    with torch.no_grad():
        model.out.weight.fill_(3e38)
    require_finite_weights(state)
    with torch.no_grad():
        model.out.weight.mul_(10)
    with pytest.raises(NonFiniteStep, match=r"finite to be saved, but out\.weight of out \(Linear\) is not") as caught:
        require_finite_weights(state)
    assert caught.value.exit_code == 5
