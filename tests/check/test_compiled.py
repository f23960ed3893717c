"""Compiled blocks are held against the blocks as written; where nothing is compiled, the reason is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from dougong.check import compiled as module
from dougong.check.compiled import compiled
from dougong.check.subject import Subject
from dougong.core.errors import UsageError
from dougong.recipe import load
from dougong.run.checking import subject_of
from dougong.train import blocks
from tests.check.conftest import FEW


@pytest.fixture
def compiling(made: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A subject that asks for a compiler, on a machine that has one."""
    monkeypatch.setattr(module, "choose_compile", lambda config, model, seconds: (True, "asked for"))
    return made(train={"compile": True})


def pretend(factor: float | int) -> Callable[[nn.Module], None]:
    """A compiler that is off by a factor (the true one takes half a minute: `dougong check gpt-stdlib` runs it)."""

    def compile(block: nn.Module, recompile_limit: int) -> None:
        call: Any = block._call_impl
        block._compiled_call_impl = lambda *args, **kwargs: call(*args, **kwargs) * factor

    return compile


def test_a_compiler_that_rounds_elsewhere_passes(compiling: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", pretend(1 + 1e-14))
    result = compiled(compiling)
    assert result.verdict == "passed"
    assert result.difference is not None
    assert 0 < result.difference < 1e-10


def test_a_compiler_that_is_wrong_is_named(compiling: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "compile", pretend(1 + 1e-6))
    result = compiled(compiling)
    assert (result.verdict, result.exit_code) == ("failed", 1)
    assert "differs most between compiled and eager" in result.detail


def test_what_is_not_compiled_is_skipped_with_the_reason(made: Callable[..., Subject]) -> None:
    assert compiled(made()).detail == "train.compile is false."


def test_a_lack_of_a_compiler_is_a_reason_unless_one_is_asked_for(
    made: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_lack", lambda device: "there is no C++ compiler here")
    subject = made(train={"compile": "auto"})
    found = compiled(subject)
    assert (found.verdict, found.detail) == ("skipped", "it will not be compiled: there is no C++ compiler here.")
    asked = replace(subject, config=subject.config.replace(compile=True))
    with pytest.raises(UsageError):
        compiled(asked)


def test_a_model_that_auto_never_compiles_is_compiled_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_lack", lambda device: None)
    monkeypatch.setattr(nn.Module, "compile", pretend(1))
    subject = subject_of(load("digits-resnet", ["train.device=cpu"]), FEW)
    assert compiled(subject).detail.startswith("it will not be compiled: convolutions with norms over the batch")
    assert compiled(replace(subject, config=subject.config.replace(compile=True))).verdict == "passed"
