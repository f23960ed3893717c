"""Every parameter of a sound model receives a gradient; one that is cut off is named."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from dougong.check.gradients import CLAIM, gradients
from dougong.check.result import found
from dougong.check.subject import Subject


def test_a_sound_model_passes(subject: Subject) -> None:
    result = gradients(subject)
    assert (result.verdict, result.measured) == ("passed", "0 of 16 without")


def test_a_parameter_that_is_not_used_is_named(subject: Subject) -> None:
    def with_more() -> nn.Module:
        model = subject.model()
        model.forgotten = nn.Linear(3, 3)
        return model

    result = gradients(replace(subject, model=with_more))
    assert result.verdict == "failed"
    assert result.detail.startswith("forgotten.bias, forgotten.weight: no gradient arrives.")
    assert result.measured == "2 of 18 without"


def test_a_frozen_parameter_is_not_asked(subject: Subject) -> None:
    def frozen() -> nn.Module:
        model = subject.model()
        model.position_embedding.weight.requires_grad_(False)
        return model

    assert gradients(replace(subject, model=frozen)).measured == "0 of 15 without"


def test_a_parameter_that_waits_for_another_is_given_time(subject: Subject) -> None:
    """Where the last matrix of a branch begins as zero, what stands before it has no gradient at first."""

    def zero() -> nn.Module:
        model = subject.model()
        nn.init.zeros_(model.blocks[0].feedforward.down.weight)
        return model

    assert gradients(replace(subject, model=zero)).verdict == "passed"


def test_a_gradient_that_is_not_finite_ends_with_its_own_code(subject: Subject) -> None:
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad / 0.0

    def bad() -> nn.Module:
        model = subject.model()
        model.blocks[0].register_forward_hook(lambda module, inputs, output: Root.apply(output))
        return model

    result = found(CLAIM, lambda: gradients(replace(subject, model=bad)))
    assert (result.verdict, result.exit_code) == ("failed", 5)
    assert "must be finite" in result.detail
