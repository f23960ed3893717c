"""A subject to prove: the parts of the tiny recipe, small enough for a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dougong.check.subject import Limits, Subject
from dougong.recipe import load
from dougong.run.checking import subject_of
from tests.tiny import tiny_recipe

FEW = Limits(samples=100, overfit_steps=100)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DOUGONG_DEBUG", raising=False)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Subject]:
    """Gives the subject of the tiny recipe with changes."""

    def make(**changes: Any) -> Subject:
        return subject_of(load(tiny_recipe(tmp_path, **changes)), FEW)

    return make


@pytest.fixture
def subject(made: Callable[..., Subject]) -> Subject:
    return made()
