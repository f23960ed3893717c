"""Row 8: SIGTERM, SIGINT or SIGUSR1 (a spot machine, a scheduler, a person), once or twice, during a step, an
evaluation or a save. Promise: the step is finished, the state saved once, exit code 75 within `train.grace` seconds,
and the resumed run equals the unbroken one; after the grace, or at a second signal, the run ends at once (143) and the
last checkpoint is whole; used as a library, the handlers of before come back.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dougong.checkpoint.store import Store
from dougong.core.errors import Preempted
from dougong.train import loop
from dougong.train.interrupt import Interruption
from dougong.train.loop import fit
from dougong.train.report import read_run
from tests.faults.small_run import dougong, newest, small_run, trace
from tests.tiny import write_recipe
from tests.train.small import Small, job
from tests.train.test_loop import RICH, same_state

OPTIONS: dict[str, Any] = {**RICH, "checkpoint": {"every": 4}}


def planned(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setenv("DOUGONG_TESTING", "1")
    monkeypatch.setenv("DOUGONG_FAULT", fault)


def test_the_command_line_saves_and_exits_with_75_and_says_how_to_go_on(tmp_path: Path) -> None:
    quick = {"samples": {"prompts": []}, "log": {"trackers": []}, "evaluate": {"every": 0}}
    recipe = write_recipe(tmp_path, model={"dropout": 0.1}, train=quick)
    stopped = dougong("train", recipe, "--run", tmp_path / "broken", fault="step:5:usr1")
    assert stopped.returncode == 75, stopped.stderr
    last = stopped.stderr.rstrip().split("\n")[-1]
    assert last.startswith("dougong: error[E-PREEMPTED]: SIGUSR1 asked the run to stop; its state is saved at step 5.")
    assert last.endswith(f"Go on with: dougong train {tmp_path / 'broken'} --resume")
    assert Store(tmp_path / "broken" / "checkpoints").steps() == [4, 5]
    assert newest(tmp_path / "broken")["scalars"]["step"] == 5
    assert [step["step"] for step in read_run(tmp_path / "broken")[0]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["term", "int", "usr1"])
@pytest.mark.parametrize("step", [3, 4])
def test_each_signal_ends_the_run_after_its_step_and_gives_the_handlers_back(
    tmp_path: Path, name: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(signal, f"SIG{name.upper()}")
    before = signal.getsignal(number)
    fit(job(tmp_path / "unbroken", Small(dropout=0.2), **OPTIONS))
    planned(monkeypatch, f"step:{step}:{name}")
    with pytest.raises(Preempted, match=rf"SIG{name.upper()} asked .* saved at step {step}") as caught:
        fit(job(tmp_path / "broken", Small(dropout=0.2), **OPTIONS))
    assert caught.value.exit_code == 75
    assert signal.getsignal(number) is before
    assert Store(tmp_path / "broken" / "checkpoints").steps() == [step]
    assert read_run(tmp_path / "broken")[0][-1]["step"] == step
    monkeypatch.delenv("DOUGONG_FAULT")
    fit(job(tmp_path / "broken", Small(dropout=0.2), resume=True, **OPTIONS))
    assert same_state(newest(tmp_path / "unbroken"), newest(tmp_path / "broken"))
    assert trace(tmp_path / "unbroken") == trace(tmp_path / "broken")


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_signal_within_a_slow_save_lets_it_finish(
    tmp_path: Path, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "checkpoint": {"every": 4, "asynchronous": asynchronous}}
    planned(monkeypatch, "ckpt.fsync:4:sleep0.5")

    def send() -> None:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("broken/checkpoints/.step-00000004.partial-*")) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    slowly = [lambda report: time.sleep(0.05)]
    with pytest.raises(Preempted):
        fit(job(tmp_path / "broken", Small(dropout=0.2), observers=slowly, **options))
    thread.join()
    steps = Store(tmp_path / "broken" / "checkpoints").steps()
    assert steps[0] == 4
    assert steps == [4] if not asynchronous else len(steps) == 2
    monkeypatch.delenv("DOUGONG_FAULT")
    for name in ("broken", "unbroken"):
        fit(job(tmp_path / name, Small(dropout=0.2), resume=True, **options))
    assert same_state(newest(tmp_path / "unbroken"), newest(tmp_path / "broken"))


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        ("step:6:term,ckpt.fsync:6:term", -signal.SIGTERM, ""),
        ("step:6:usr1,ckpt.fsync:6:sleep60", 143, "must be done 0.5 s after SIGUSR1 (train.grace), but are not"),
        ("step:6:term,ckpt.fsync:4:sleep60", 143, "the last checkpoint, if there is one, is whole"),
    ],
)
def test_a_second_signal_or_the_end_of_the_grace_ends_at_once_and_the_last_checkpoint_is_whole(
    tmp_path: Path, fault: str, code: int, text: str
) -> None:
    """During the save that the first signal asked for, or while a save in the background is stuck."""
    begin = time.monotonic()
    found = small_run(tmp_path, fault, **{**OPTIONS, "checkpoint": {"every": 2}}, grace=0.5)
    assert time.monotonic() - begin < 45
    assert found.returncode == code, found.stderr
    assert text in found.stderr
    assert "Traceback" not in found.stderr
    saved = 2 if "fsync:4" in fault else 4
    assert newest(tmp_path)["scalars"]["step"] == saved


def test_without_the_handlers_the_steps_since_the_last_checkpoint_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(Interruption):
        def __enter__(self) -> Interruption:
            return self

    monkeypatch.setattr(loop, "Interruption", Deaf)
    planned(monkeypatch, "step:7:int")
    of_before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what it runs behind
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(job(tmp_path, Small(dropout=0.2), **OPTIONS))
    finally:
        signal.signal(signal.SIGINT, of_before)
    assert Store(tmp_path / "checkpoints").steps() == [4]


def test_without_an_end_of_the_grace_the_slow_save_would_be_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Interruption, "_end", lambda self: None)
    planned(monkeypatch, "step:6:term,ckpt.fsync:6:sleep1")
    begin = time.monotonic()
    with pytest.raises(Preempted):
        fit(job(tmp_path, Small(dropout=0.2), **OPTIONS, grace=0.1))
    assert time.monotonic() - begin > 1
    assert newest(tmp_path)["scalars"]["step"] == 6
