"""bf16 stays near fp32 in a sound model, and does not in one that needs more bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dougong.check.precision import precision
from dougong.check.subject import Subject


@pytest.mark.parametrize("name", ["auto", "bf16", "fp16"])
def test_a_sound_model_passes(made: Callable[..., Subject], name: str) -> None:
    result = precision(made(train={"precision": name}))
    assert result.verdict == "passed"
    assert result.difference is not None
    assert 0 < result.difference < 1e-2


def changed(subject: Subject, change: Callable[[Tensor], Tensor]) -> Subject:
    """The subject with something done to what the attention of its first block gives."""

    def model() -> nn.Module:
        made = subject.model()
        made.blocks[0].attention.output.register_forward_hook(lambda module, inputs, output: change(output))
        return made

    return replace(subject, model=model)


def last_bits(factor: float) -> Callable[[Tensor], Tensor]:
    """Scales up what is left of a value after its first eight bits."""
    return lambda output: output + factor * (output.float() - output.detach().bfloat16().float())


def noise(factor: float) -> Callable[[Tensor], Tensor]:
    """The same, as a noise that no gradient passes through."""
    return lambda output: output + factor * (output.float() - output.bfloat16().float()).detach()


def coarse(output: Tensor) -> Tensor:
    """Is off by a third, where it is computed in bf16 alone."""
    return output + 0.3 * output.roll(1, -1) if output.dtype == torch.bfloat16 else output


def test_a_model_that_needs_more_bits_is_named(made: Callable[..., Subject]) -> None:
    result = precision(changed(made(train={"precision": "bf16"}), last_bits(1e4)))
    assert (result.verdict, result.exit_code) == ("failed", 1)
    assert "train.precision=fp32" in result.detail


def test_a_gradient_that_any_rounding_turns_may_turn(made: Callable[..., Subject]) -> None:
    result = precision(changed(made(train={"precision": "bf16"}), noise(2e3)))
    assert result.verdict == "passed"
    assert "strays" in result.measured
    assert "as noise" in result.allowed


def test_not_so_far_that_it_is_as_good_as_that_of_other_examples(made: Callable[..., Subject]) -> None:
    result = precision(changed(made(train={"precision": "bf16"}), noise(1e5)))
    assert (result.verdict, result.exit_code) == ("failed", 1)


def test_a_gradient_that_rounding_the_weights_does_not_turn_may_not(made: Callable[..., Subject]) -> None:
    result = precision(changed(made(train={"precision": "bf16"}), coarse))
    assert result.verdict == "failed"
    assert "cosine is 0.98" in result.detail


def test_fp32_has_nothing_to_compare(subject: Subject) -> None:
    assert precision(subject).verdict == "skipped"
