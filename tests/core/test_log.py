"""Words go to standard error, or to the listener of the moment."""

from __future__ import annotations

import pytest

from dougong.core import log


def test_words_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log.say("hello")
    log.warn("careful")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "hello\ndougong: warning: careful\n"


def test_the_newest_listener_hears_and_then_no_longer(capsys: pytest.CaptureFixture[str]) -> None:
    outer, inner = [], []
    with log.listening(outer.append):
        with log.listening(inner.append):
            log.say("a")
        log.say("b")
    log.say("c")
    assert (inner, outer) == (["a"], ["b"])
    assert capsys.readouterr().err == "c\n"
