"""A bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace

import pytest

from dougong.cli.progress import shown_progress
from dougong.core.log import say

STEP = "step 10/40  loss 3.2  lr 1.00e-03  7,490 tokens/s  7% of peak  1 s left"
EVALUATED = "step 20/40  loss 3.1  validation loss 3.3  lr 1.00e-03"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def talk() -> None:
    with shown_progress() as observers:
        say("device: cpu")
        for observer in observers:
            observer(SimpleNamespace(step=10))
        say(STEP)
        say(EVALUATED)


def test_without_a_terminal_every_line_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    talk()
    assert capsys.readouterr().err == f"device: cpu\n{STEP}\n{EVALUATED}\n"


def test_on_a_terminal_steps_are_in_the_bar_and_the_rest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    talk()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n").split("\n")
    kept = [line for line in lines if line in ("device: cpu", STEP, EVALUATED)]
    assert "device: cpu" in kept
    assert EVALUATED in kept
    assert STEP not in kept
    assert any("7,490 tokens/s" in line or "validation loss 3.3" in line for line in lines)
