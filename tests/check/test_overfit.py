"""A sound model learns a batch by heart; one whose gradient is not that of its loss does not."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from dougong.check.overfit import CLAIM, overfit
from dougong.check.result import found
from dougong.check.subject import Limits, Subject


def changed(subject: Subject, factor: float) -> Subject:
    """Multiplies every gradient."""

    def model() -> nn.Module:
        built = subject.model()
        for parameter in built.parameters():
            parameter.register_hook(lambda gradient: gradient * factor)
        return built

    return replace(subject, model=model)


def test_a_sound_model_learns(subject: Subject) -> None:
    result = overfit(subject)
    assert result.verdict == "passed"
    assert result.difference is not None
    assert result.difference <= 0.3


def test_a_gradient_of_the_wrong_sign_does_not(subject: Subject) -> None:
    result = overfit(replace(changed(subject, -1.0), limits=Limits(overfit_steps=20)))
    assert (result.verdict, result.exit_code) == ("failed", 1)
    assert "must fall to 0.3 of what it was" in result.detail


def test_no_gradient_does_not(subject: Subject) -> None:
    assert overfit(replace(changed(subject, 0.0), limits=Limits(overfit_steps=5))).verdict == "failed"


def test_a_loss_that_is_no_number_ends_with_its_own_code(subject: Subject) -> None:
    result = found(CLAIM, lambda: overfit(changed(subject, float("nan"))))
    assert (result.verdict, result.exit_code) == ("failed", 5)


def test_a_machine_that_is_too_slow_is_no_verdict(subject: Subject) -> None:
    result = overfit(replace(subject, limits=Limits(seconds=0.0)))
    assert result.verdict == "skipped"
    assert "only 1 updates could be done" in result.detail
