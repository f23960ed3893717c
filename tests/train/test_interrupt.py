from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from dougong.train.interrupt import Interruption

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def handlers() -> dict[int, object]:
    return {number: signal.getsignal(number) for number in SIGNALS}


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = handlers()
    with Interruption() as interruption:
        assert interruption.asked is None
        signal.raise_signal(number)
        assert interruption.asked == number.name
        assert set(handlers().values()) == {signal.SIG_DFL}  # so that the second one ends the process
    assert handlers() == before


def test_without_a_signal_the_handlers_come_back_too() -> None:
    before = handlers()
    with Interruption():
        assert handlers() != before
    assert handlers() == before


def test_in_another_thread_nothing_is_installed() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with Interruption() as interruption:
            seen.append((interruption.asked, signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, True)]


def program(body: str, grace: float = 30.0) -> list[str]:
    lines = ("import hashlib, os, signal, time", "from dougong.train.interrupt import Interruption")
    code = "\n".join((*lines, f"with Interruption({grace}) as interruption:", *(f"    {x}" for x in body.split("\n"))))
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_signal_ends_the_process_even_within_a_library(first: signal.Signals) -> None:
    """A hash of a billion rounds is one call into C, in which Python looks at no signal."""
    body = f"signal.raise_signal({first:d})\nprint(interruption.asked, flush=True)\n"
    command = program(body + "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{first.name}\n"
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == -signal.SIGTERM  # 143 for the shell


def test_when_the_grace_is_over_the_process_ends_with_a_sentence() -> None:
    begin = time.monotonic()
    command = program("signal.raise_signal(15)\nhashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)", grace=0.3)
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert found.returncode == 143
    assert found.stderr.startswith("dougong: error[E-GRACE]: the step and its save must be done 0.3 s after SIGTERM")
    assert found.stderr.endswith("--resume, and allow more time.\n")
    assert time.monotonic() - begin < 15


def test_who_is_done_in_time_is_left_alone() -> None:
    threads = threading.active_count()
    with Interruption(0.2):
        assert threading.active_count() == threads + 1
        signal.raise_signal(signal.SIGUSR1)
    assert threading.active_count() == threads
    time.sleep(0.4)
