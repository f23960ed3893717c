"""What stands beside an example changes nothing; the claims are those of the task, and one of every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from dougong.check.separate import separate
from dougong.check.subject import Subject
from dougong.models.gpt import network


def test_a_sound_model_passes_every_claim(made: Callable[..., Subject]) -> None:
    assert separate(made()).measured.endswith("relative, 2 claims")
    packed = separate(made(data={"across_documents": False}, model={"dropout": 0.3}))
    assert (packed.verdict, packed.measured.endswith("relative, 3 claims")) == ("passed", True)


@pytest.mark.parametrize("options", [{"position": "rotary"}, {"num_kv_heads": 1, "qk_norm": True}], ids=str)
def test_other_kinds_of_attention_pass(made: Callable[..., Subject], options: dict[str, Any]) -> None:
    assert separate(made(data={"across_documents": False}, model=options)).verdict == "passed"


def test_an_example_that_sees_its_batch_mates_is_named(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = network.GPT.features

    def leaking(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        found = sound(self, *args, **kwargs)
        return found + 1e-6 * found.mean(0, keepdim=True)

    monkeypatch.setattr(network.GPT, "features", leaking)
    result = separate(subject)
    assert result.verdict == "failed"
    assert "each example of a batch equals the example alone. In samples 0 to 2" in result.detail


def test_positions_that_do_not_begin_anew_are_noticed(
    made: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, sound = made(data={"across_documents": False}), network.GPT._positions
    monkeypatch.setattr(network.GPT, "_positions", lambda self, tokens, _, cache: sound(self, tokens, None, cache))
    assert "documents packed into one row" in separate(subject).detail
