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


class Amplified(nn.Module):
    """Hands on what it is given, and some of what is lost of it when it is rounded once."""

    def __init__(self, inner: nn.Module, factor: float):
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, hidden: Tensor) -> Tensor:
        output = self.inner(hidden)
        weight = self.inner.weight
        return output * (1 + self.factor * (weight - weight.detach().bfloat16().float()).norm())


def sensitive(subject: Subject, factor: float) -> Subject:
    """A model whose gradient turns with the last bits of its weights, however it is computed."""

    def model() -> nn.Module:
        made = subject.model()
        made.blocks[0].attention.output = Amplified(made.blocks[0].attention.output, factor)
        return made

    return replace(subject, model=model)


def test_fp32_has_nothing_to_compare(subject: Subject) -> None:
    assert precision(subject).verdict == "skipped"
