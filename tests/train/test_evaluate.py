from __future__ import annotations

import torch
from torch import nn

from dougong.core.contracts import Batch
from dougong.core.every import Every
from dougong.train.evaluate import Evaluator, evaluate
from dougong.train.state import State
from tests.train.small import Small, SmallBatches, Squares, SquaresMetric, config, equal, validation, weights


class Watching(Squares):
    """Notes in which mode, with which noise and which weights it is evaluated."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool, bool]] = []
        self.weights: dict[str, torch.Tensor] = {}

    def metrics(self) -> SquaresMetric:
        task = self

        class Metric(SquaresMetric):
            def update(self, model: nn.Module, batch: Batch) -> None:
                task.seen.append((model.training, torch.is_inference_mode_enabled(), batch.noise is None))
                task.weights = weights(model)
                super().update(model, batch)

        return Metric()


def test_an_evaluation_draws_nothing_and_leaves_the_mode_as_it_was() -> None:
    task, model = Watching(), Small(dropout=0.5)
    noisy = [batch.with_noise(torch.zeros(12, dtype=torch.int32)) for batch in validation()]
    first = evaluate(model, task, noisy)
    assert first == evaluate(model, task, validation())
    assert set(task.seen) == {(False, True, True)}
    assert model.training


def test_the_averaged_weights_are_evaluated_where_they_are_kept() -> None:
    for options in ({"ema": {"decay": 0.5}}, {}):
        task = Watching()
        state = State.create(config(**options), Small())
        with torch.no_grad():
            state.model.out.bias += 1.0
        before = weights(state.model)
        state.step = 8
        Evaluator(Every(0), task, validation, None, lambda: True).maybe_run(state)
        assert equal(task.weights, before) is not bool(options)
        assert equal(weights(state.model), before)


def test_an_evaluation_that_may_not_go_on_gives_nothing_and_is_still_due() -> None:
    state = State.create(config(), Small())
    state.step = 8
    answers = iter([True, False, True, True])
    evaluator = Evaluator(Every(0), Squares(), validation, None, lambda: next(answers))
    assert evaluator.maybe_run(state) is None
    assert state.last == {}
    assert evaluator.maybe_run(state) == state.last
    assert evaluator.maybe_run(state) is None


def test_the_best_figures_are_those_of_the_lowest_loss() -> None:
    state = State.create(config(), Small())
    for step, loss in enumerate((3.0, 1.0, 2.0)):
        state.step = step
        state.observe({"loss": loss, "more": float("inf")})
    assert state.best == {"loss": 1.0, "step": 1.0}
    assert state.last == {"loss": 2.0}


def test_bf16_evaluates_in_bf16() -> None:
    model, batches = Small(), [SmallBatches()[3]]
    exact, rough = evaluate(model, Squares(), batches), evaluate(model, Squares(), batches, torch.bfloat16)
    assert 0 < abs(exact["loss"] - rough["loss"]) < 0.1
