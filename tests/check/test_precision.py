"""bf16 stays near fp32 in a sound model, and does not in one that needs more bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import Tensor, nn

from dougong.check.precision import precision
from dougong.check.subject import Subject


@pytest.mark.parametrize("name", ["auto", "bf16", "fp16"])
def test_a_sound_model_passes(made: Callable[..., Subject], name: str) -> None:
    result = precision(made(train={"precision": name}))
    assert result.verdict == "passed"
    assert result.difference is not None
    assert 0 < result.difference < 1e-2


def test_a_model_that_needs_more_bits_is_named(made: Callable[..., Subject]) -> None:
    """Rounding is scaled up: what is left of a value after its first eight bits."""
    subject = made(train={"precision": "bf16"})

    def fine() -> nn.Module:
        model = subject.model()

        def deepen(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            return output + 1e4 * (output.float() - output.detach().bfloat16().float())

        model.blocks[0].attention.output.register_forward_hook(deepen)
        return model

    result = precision(replace(subject, model=fine))
    assert (result.verdict, result.exit_code) == ("failed", 1)
    assert "train.precision=fp32" in result.detail


def test_fp32_has_nothing_to_compare(subject: Subject) -> None:
    assert precision(subject).verdict == "skipped"
