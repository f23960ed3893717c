"""What the tests of the command line share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dougong.cli import app
from dougong.cli.failure import run_guarded


class Answer(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The last line on standard error."""
        return self.err.rstrip("\n").split("\n")[-1]

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


Command = Callable[..., Answer]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DOUGONG_DEBUG", raising=False)


@pytest.fixture
def dougong(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        code = run_guarded(app, arguments)
        return Answer(code, *capsys.readouterr())

    return run
