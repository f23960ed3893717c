"""Proves that a run that is killed and resumed is the run that was never stopped; and that the proof could fail.

    python scripts/prove_resume.py [RECIPE] [--kills 20] [--set PATH=VALUE] [--json]

Trains the recipe once unbroken and once killed with SIGKILL at random moments and resumed, as real processes, and
compares the final weights, the optimizer's state, the averages and the sample numbers bit by bit. Then it switches off
one part of what makes this hold after another, by patching the resuming process: each time the result must differ.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.resume_controls import CONTROLS

STDLIB = Path(sysconfig.get_path("stdlib"))
# Everything that has a state, on files that every machine has: two streams of several documents, packed, mixed and
# repeated, prepared by processes; dropout, accumulation, an average, a learning rate that remembers, compilation.
EMBEDDED: dict[str, Any] = {
    "title": "A small model with everything that has a state",
    "model": {"name": "gpt", "max_seq_len": 64, "num_layers": 2, "num_heads": 4, "dim": 64, "dropout": 0.1},
    "task": {"name": "language_modeling"},
    "data": {
        "name": "text",
        "sources": [
            {"name": "files", "paths": [str(STDLIB / "email/*.py")], "licence": "PSF-2.0", "weight": 3.0},
            {"name": "files", "paths": [str(STDLIB / "asyncio/*.py")], "licence": "PSF-2.0", "weight": 1.0},
        ],
        "tokenizer": {"name": "bytes"},
        "across_documents": False,
        "validation": {"by": "position", "fraction": 0.02},
    },
    "train": {
        "steps": 300,
        "workers": 2,
        "batch_size": 16,
        "microbatch_size": 8,
        "precision": "fp32",
        "device": "cpu",
        "compile": True,
        "optimizer": {"name": "adamw", "lr": 2e-3},
        # No fall of the loss is enough, so that every evaluation lowers the learning rate.
        "schedule": {"name": "plateau", "patience": 0, "rate": 0.9, "min_delta": 10.0, "warmup_steps": 10},
        "clip_norm": 1.0,
        "ema": {"decay": 0.99},
        "evaluate": {"every": 20, "batches": 4},
        "checkpoint": {"every": 5},
        "log": {"every": 50, "trackers": []},
    },
}
# The controls take fewer steps and do not compile: they show that the comparison notices, not that a kernel is exact.
# Their saves are waited for, so that there is a checkpoint to go on from when the kill strikes, however slow the disk.
SHORT = ["steps=24", "compile=false", "checkpoint.every=8", "evaluate.every=6", "evaluate.batches=2", "profile=null"]
SHORT += ["checkpoint.asynchronous=false"]
SHORT_PLATEAU = ["schedule.patience=0", "schedule.min_delta=1000"]
SHORT_KILL = 13
FILES = {"model": "weights", "optimizer": "optimizer's state", "average": "averaged weights", "best": "best weights"}


# Runs, each a process of its own.


class Failed(Exception):
    """A run did not do what it must for there to be something to compare."""


@dataclass(frozen=True)
class Setting:
    """What all runs of one proof share.

    Attributes:
        recipe: A recipe's name, or its file.
        overrides: `path=value` texts.
        work: The folder of everything that is made.
        environment: What is added to the environment.
    """

    recipe: str
    overrides: Sequence[str]
    work: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, name: str, without: str | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Starts, or goes on with, the run of this name; `without` switches off a mechanism in it."""
        program = ["-m", "dougong"] if without is None else [str(Path(__file__).resolve()), "--without", without]
        words = ["train", self.recipe, "--run", str(self.work / name), "--resume"]
        options = [word for text in self.overrides for word in ("--set", text)]
        # Compiled code is kept, so that going on takes seconds; it is the same code, kept or not.
        added = {"TORCHINDUCTOR_CACHE_DIR": str(self.work / "compiled"), **self.environment, **environment}
        with (self.work / f"{name}.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *program, *words, *options],
                env={**os.environ, **added},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def finish(self, name: str, without: str | None = None) -> float:
        """Runs to the end; returns the seconds.

        Raises:
            Failed: It ended with an error.
        """
        begin = time.monotonic()
        with _ended(self.start(name, without)) as process:
            code = process.wait()
        if code:
            raise Failed(f"the run {name} must end well, but ended with {code}:\n{self.said(name)}")
        return time.monotonic() - begin

    def kill_after(self, name: str, step: int, without: str | None = None) -> None:
        """Runs until a step is done, at which the process kills itself."""
        fault = {"DOUGONG_TESTING": "1", "DOUGONG_FAULT": f"step:{step}:kill"}
        with _ended(self.start(name, without, **fault)) as process:
            if process.wait() != -signal.SIGKILL:
                raise Failed(f"the run {name} must be killed at step {step}, but was not:\n{self.said(name)}")

    def said(self, name: str) -> str:
        """Returns the last that a run said."""
        return (self.work / f"{name}.txt").read_text(errors="replace")[-2000:]


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Sees that a process is gone, also when this one is interrupted."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


# One run that is killed again and again.


@dataclass(frozen=True)
class Kill:
    """One SIGKILL.

    Attributes:
        number: Which, from 1.
        seconds: How long the process had lived.
        step: The last step that the process had done by then; 0: none, it was starting.
        saved: The step of the newest whole checkpoint it left; 0: there is none.
        in_save: It struck within a save: a checkpoint was left half written.
    """

    number: int
    seconds: float
    step: int
    saved: int
    in_save: bool


MOMENTS = ("any step", "any step", "start", "any step", "save")


def killed(setting: Setting, name: str, kills: int, seed: int, steps: int, tell: Callable[[Kill], None]) -> list[Kill]:
    """Trains a run that is killed so many times, each time while it lives, and then to its end.

    A fifth of the kills strike at a random moment of the start, a fifth as soon as a save has begun, and all others at
    a random moment after the first step that the process has done.

    Args:
        steps: How many steps the run has; the kills are spread over them.
        tell: Called with each kill.
    """
    spoken = replace(setting, overrides=[*setting.overrides, "train.log.every=1"])
    chance, found, start = random.Random(seed), [], 5.0
    for number in range(1, kills + 1):
        begin = time.monotonic()
        with _ended(spoken.start(name)) as process:
            watch = _Watch(setting.work, name, process)
            left = steps - newest_step(setting.work / name)
            share = left * min(0.8, 2 / (kills + 2 - number))  # so that some steps are left for every kill
            start = _wait(watch, MOMENTS[number % len(MOMENTS)], chance, start, share)
            if process.poll() is not None:
                raise Failed(f"kill {number} must meet a living run, but it had ended:\n{setting.said(name)}")
            process.send_signal(signal.SIGKILL)
            process.wait()
        in_save = watch.saving()
        step = watch.step()
        found.append(Kill(number, time.monotonic() - begin, step, newest_step(setting.work / name), in_save))
        tell(found[-1])
    spoken.finish(name)
    return found


class _Watch:
    """What can be seen of a run from outside, since the process began."""

    def __init__(self, work: Path, name: str, process: subprocess.Popen[bytes]):
        self.output, self.checkpoints, self.process = work / f"{name}.txt", work / name / "checkpoints", process
        self.from_byte, self.begin = self.output.stat().st_size, time.monotonic()
        self.left_before = self._partial()

    def step(self) -> int:
        """Returns the last step that it has said to be done, or 0."""
        with self.output.open("rb") as file:
            file.seek(self.from_byte)
            found = re.findall(rb"^step ([\d,]+)/", file.read(), re.MULTILINE)
        return int(found[-1].replace(b",", b"")) if found else 0

    def saving(self) -> bool:
        """Tells whether a checkpoint is half written."""
        return bool(self._partial() - self.left_before)

    def _partial(self) -> set[Path]:
        return set(self.checkpoints.glob(".*partial*"))

    def until(self, reached: Callable[[], bool], seconds: float = 600.0) -> float:
        """Waits for something, or the end of the process, or so long; returns the seconds since its beginning."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None and not reached():
            time.sleep(0.002)
        return time.monotonic() - self.begin


def _wait(watch: _Watch, moment: str, chance: random.Random, start: float, share: float) -> float:
    """Waits for the moment to strike; returns how long a start takes.

    Args:
        start: How long the last one took.
        share: How many steps the process may do at most.
    """
    if moment == "start":
        watch.until(lambda: watch.step() > 0, chance.uniform(0.0, start))
        return start
    start = watch.until(lambda: watch.step() > 0)
    target = watch.step() + chance.uniform(0.0, share)
    watch.until(lambda: watch.step() >= target)
    if moment == "save":
        watch.until(watch.saving, 5.0)
    else:
        time.sleep(chance.uniform(0.0, 0.05))  # anywhere between two lines: also in an evaluation, or in a save
    return start


# What is compared.


def newest(folder: Path) -> Path | None:
    """Returns the newest whole checkpoint of a run."""
    found = sorted((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name.partition("-")[2]))
    return found[-1] if found else None


def newest_step(folder: Path) -> int:
    """Returns its step, or 0."""
    path = newest(folder)
    return 0 if path is None else int(path.name.partition("-")[2])


def compared(one: Path, other: Path) -> dict[str, bool]:
    """Tells, for each thing that must be equal in two finished runs, whether it is, bit by bit."""
    from dougong.train.report import read_run

    mine, theirs = newest(one), newest(other)
    if mine is None or theirs is None:
        raise Failed("both runs must have a checkpoint, but one has none.")
    found = {"last step": mine.name == theirs.name}
    for stem, words in FILES.items():
        if (mine / f"{stem}.safetensors").exists() or (theirs / f"{stem}.safetensors").exists():
            found[words] = _same_bytes(mine / f"{stem}.safetensors", theirs / f"{stem}.safetensors")
    found["final model"] = _same_bytes(one / "model/model.safetensors", other / "model/model.safetensors")
    read = [read_run(folder)[0] for folder in (one, other)]
    for name, words in {"samples": "sample numbers", "loss": "losses", "lr": "learning rates"}.items():
        found[words] = [step[name] for step in read[0]] == [step[name] for step in read[1]]
    return found


def _same_bytes(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.read_bytes() == other.read_bytes()


# The controls: with one mechanism off after another, in the process that resumes.


def controlled(setting: Setting, recipe: Any, tell: Callable[[str, bool | None], None]) -> dict[str, bool | None]:
    """Resumes a killed run with one mechanism off after another; tells whether the result is that of the unbroken run.

    Returns:
        By name: whether it is equal, or None where the recipe has no such mechanism.
    """
    setting.finish("short")
    setting.kill_after("short-killed", SHORT_KILL)
    names = [name for name, control in CONTROLS.items() if control.needs(recipe)]
    found: dict[str, bool | None] = dict.fromkeys(CONTROLS)
    with ThreadPoolExecutor(2) as pool:  # each of one thread: two cores are enough
        for name, equal in zip(names, pool.map(lambda name: _controlled(setting, name), names), strict=True):
            found[name] = equal
            tell(name, equal)
    for name in CONTROLS.keys() - names:
        tell(name, None)
    return found


def _controlled(setting: Setting, name: str) -> bool:
    unbroken, resumed = "short", f"without-{name}"
    if CONTROLS[name].throughout:
        unbroken = f"unbroken-without-{name}"
        setting.finish(unbroken, name)
        setting.kill_after(resumed, SHORT_KILL, name)
    else:
        shutil.copytree(setting.work / "short-killed", setting.work / resumed)
    setting.finish(resumed, name)
    return all(compared(setting.work / unbroken, setting.work / resumed).values())


# The proof.


def prove(setting: Setting, kills: int, seed: int, show: Callable[[str], None]) -> dict[str, Any]:
    """Runs it all and returns what was found, as JSON values."""
    from dougong.recipe import load

    recipe = load(setting.recipe, setting.overrides)
    begin, steps = time.monotonic(), recipe.train.steps
    show(f"{recipe.title}: {steps:,} steps, a checkpoint every {recipe.train.checkpoint.every}")
    seconds = setting.finish("unbroken")
    show(f"unbroken: {seconds:.0f} s\nkilled {kills} times:")
    found = killed(setting, "killed", kills, seed, steps, lambda kill: show(_of_kill(kill)))
    same = compared(setting.work / "unbroken", setting.work / "killed")
    show(f"\n{'compared':<36}killed and unbroken\n" + "\n".join(_row(words, equal) for words, equal in same.items()))
    overrides = [*setting.overrides, *_short(recipe)]
    short = replace(setting, overrides=overrides, environment={**setting.environment, "OMP_NUM_THREADS": "1"})
    show(f"\n{'switched off while resuming':<36}in runs of 24 steps, not compiled: killed and unbroken")
    controls = controlled(
        short, load(short.recipe, short.overrides), lambda name, equal: show(_of_control(name, equal))
    )
    noticed = all(equal is None or equal == (name == "nothing") for name, equal in controls.items())
    return {
        "recipe": recipe.title,
        "steps": steps,
        "unbroken_seconds": seconds,
        "kills": [vars(kill) for kill in found],
        "compared": same,
        "equal_without": controls,
        "holds": all(same.values()) and noticed,
        "seconds": time.monotonic() - begin,
    }


def _of_kill(kill: Kill) -> str:
    where = f"at step {kill.step:,}" if kill.step else "while it was starting"
    where += ", within a save" if kill.in_save else ""
    return f"{kill.number:>4}. after {kill.seconds:4.1f} s, {where}; saved is step {kill.saved:,}"


def _row(words: str, equal: bool | None) -> str:
    return f"  {words:<34}{'not in this recipe' if equal is None else 'equal' if equal else 'DIFFERENT'}"


def _of_control(name: str, equal: bool | None) -> str:
    wrong = equal is not None and equal != (name == "nothing")
    return _row(CONTROLS[name].words, equal).lower().replace("different", "differs") + "  WRONG" * wrong


def _short(recipe: Any) -> list[str]:
    """Returns what makes a recipe short, and lets its schedule have a state to lose."""
    texts = [*SHORT, *(SHORT_PLATEAU if recipe.train.schedule.name == "plateau" else [])]
    if recipe.train.schedule.warmup_steps:
        texts.append("schedule.warmup_steps=2")
    return [f"train.{text}" for text in texts]


def _embedded(work: Path) -> str:
    from dougong.recipe.recipe import to_yaml

    path = work / "recipe.yaml"
    path.write_text(to_yaml(EMBEDDED), encoding="utf-8")
    return str(path)


def _without(name: str, words: list[str]) -> None:
    """The process that resumes with a mechanism off: the command line, patched."""
    from dougong.cli import main

    CONTROLS[name].patch()
    main(words)


def main() -> int:
    """Proves it, and returns 0 if it holds."""
    if sys.argv[1:2] == ["--without"]:
        _without(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", nargs="?", help="a recipe's name or file; absent: a small one with all that counts")
    parser.add_argument("--kills", type=int, default=20, help="how often the run is killed (20)")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change the recipe")
    parser.add_argument("--seed", type=int, default=None, help="decides the moments of the kills; absent: the clock")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="work in this new folder and keep it")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    given = parser.parse_args()
    seed = time.time_ns() % 2**32 if given.seed is None else given.seed

    def show(text: str) -> None:
        print(text, file=sys.stderr if given.json else sys.stdout, flush=True)

    from dougong.core.errors import DougongError

    with contextlib.ExitStack() as stack:
        try:
            work = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prove-resume-")))
            if given.keep:
                work.mkdir(parents=True)
            setting = Setting(given.recipe or _embedded(work), given.set, work.resolve())
            found = prove(setting, given.kills, seed, show)
        except (DougongError, Failed, FileExistsError, KeyboardInterrupt) as error:
            print(f"prove-resume: {str(error) or 'interrupted'}", file=sys.stderr)
            return getattr(error, "exit_code", 1)
    if given.json:
        print(json.dumps({**found, "seed": seed}, indent=2))
    show(f"\n{'It holds' if found['holds'] else 'IT DOES NOT HOLD'}: {found['seconds']:.0f} s in all, seed {seed}.")
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
