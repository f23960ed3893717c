from __future__ import annotations

import signal
import threading

from dougong.train.interrupt import Interruption


def test_the_first_signal_is_noted_and_the_handlers_come_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with Interruption() as interruption:
        assert interruption.asked is None
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked == "SIGINT"
    assert {number: signal.getsignal(number) for number in before} == before


def test_in_another_thread_nothing_is_installed() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with Interruption() as interruption:
            seen.append((interruption.asked, signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, True)]
