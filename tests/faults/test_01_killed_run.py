"""Row 1: a run is killed with SIGKILL at random moments, again and again, and resumed. Promise: the final weights, the
optimizer's state, the averages, the losses and the numbers of the samples are, bit by bit, those of the run that was
never stopped; no sample is repeated or left out. `make prove-resume` shows it with 20 kills and a compiled model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dougong.core import seed as seeds
from dougong.data.loader import Batches
from dougong.recipe import load
from dougong.recipe.overrides import merged
from dougong.run import train
from dougong.train.report import Report, read_run
from dougong.train.state import State
from scripts import prove_resume as proof
from scripts.prove_resume import Kill, Setting, compared, killed
from scripts.resume_controls import CONTROLS
from tests.tiny import tiny_recipe, write_recipe

EPOCH = 10
# 40 rows of 16 tokens: with batches of four, an epoch is exactly ten steps.
TEXT = "".join(f"line {number}: the cat sat on mat {number * number % 97}.\n" for number in range(30))[:684]
RICH: dict[str, Any] = {
    "model": {"dropout": 0.1},
    "data": {"across_documents": False},
    "train": {
        "steps": 16,
        "microbatch_size": 2,
        "workers": 2,
        "ema": {"decay": 0.9},
        "schedule": {"name": "plateau", "patience": 0, "rate": 0.8, "min_delta": 10.0, "warmup_steps": 2},
        "evaluate": {"every": 3, "batches": 1},
        "checkpoint": {"every": 1},
        "log": {"every": 100, "trackers": []},
        "samples": {"prompts": []},
    },
}


def test_a_run_killed_at_random_moments_ends_as_the_one_that_was_never_stopped(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, **merged(RICH, {"train": {"steps": 40, "checkpoint": {"every": 4}}}))
    environment = {"OMP_NUM_THREADS": "1", "DOUGONG_CACHE": str(tmp_path / "cache")}
    setting = Setting(str(recipe), [], tmp_path, environment)
    kills: list[Kill] = []

    def keep(kill: Kill) -> None:
        kills.append(kill)
        if kill.number == 3:
            shutil.copytree(tmp_path / "killed", tmp_path / "forgetful")

    with ThreadPoolExecutor(2) as pool:
        unbroken = pool.submit(setting.finish, "unbroken")
        broken = pool.submit(killed, setting, "killed", 3, 2, 40, keep)
        unbroken.result(), broken.result()
    assert [kill.number for kill in kills] == [1, 2, 3]
    assert kills[1].step == 0  # it was starting
    assert 0 < kills[2].saved < 40
    same = compared(tmp_path / "unbroken", tmp_path / "killed")
    assert {"weights", "optimizer's state", "averaged weights", "sample numbers", "losses"} < same.keys()
    assert all(same.values()), same
    samples = [step["samples"] for step in read_run(tmp_path / "killed")[0]]
    assert samples == [[[4 * step, 4 * step + 3]] for step in range(40)]
    # Once more from the last kill, but without the optimizer's state: a control among real processes.
    setting.finish("forgetful", without="optimizer")
    same = compared(tmp_path / "unbroken", tmp_path / "forgetful")
    assert not same["weights"]
    assert same["sample numbers"]


class Crash(Exception):
    pass


def trained(folder: Path, name: str, resume: bool = False, crash: int | None = None, workers: int = 2) -> Path:
    """Trains in this process; with `crash`, until a step is done, of which nothing is saved."""

    def observe(report: Report) -> None:
        if report.step == crash:
            raise Crash

    values = tiny_recipe(folder, **merged(RICH, {"train": {"workers": workers}}))
    values["data"]["sources"][0]["paths"] = [str(folder / "short.txt")]
    try:
        train(values, run=folder / name, resume=resume, observers=[observe])
    except Crash:
        assert crash is not None
    return folder / name


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws no curves, and puts back what a control switches off."""
    monkeypatch.setattr("dougong.run.training.write_page", lambda folder: None)
    patched = ((State, "load"), (Batches, "_make"), (Batches, "prefetching"), (seeds, "draw_bits"))
    for owner, name in patched:
        monkeypatch.setattr(owner, name, getattr(owner, name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run has ended, and another has crashed in its second epoch."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "short.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dougong.run.training.write_page", lambda folder: None)
        trained(folder, "unbroken")
        trained(folder, "crashed", crash=14)
    return folder


@pytest.mark.parametrize(("saved", "workers"), [(EPOCH // 2, 2), (EPOCH, 0), (EPOCH + 1, 3)])
@pytest.mark.usefixtures("quick")
def test_it_goes_on_from_the_middle_the_end_and_the_beginning_of_an_epoch(
    folder: Path, saved: int, workers: int
) -> None:
    name = f"saved-{saved}"
    trained(folder, name, crash=saved + 1)
    assert sorted(path.name for path in (folder / name / "checkpoints").iterdir())[-1] == f"step-{saved:08}"
    same = compared(folder / "unbroken", trained(folder, name, resume=True, workers=workers))
    assert all(same.values()), same
    rows = read_run(folder / name)[0]
    assert [step["samples"] for step in rows] == [[[4 * step, 4 * step + 3]] for step in range(16)]


@pytest.mark.parametrize("name", [name for name in CONTROLS if name != "dropout"])
@pytest.mark.usefixtures("quick")
def test_without_any_one_mechanism_the_result_would_differ(folder: Path, name: str) -> None:
    shutil.copytree(folder / "crashed", folder / f"without-{name}")
    CONTROLS[name].patch()
    same = compared(folder / "unbroken", trained(folder, f"without-{name}", resume=True))
    assert all(same.values()) == (name == "nothing")


@pytest.mark.usefixtures("quick")
def test_without_dropout_by_the_step_the_result_would_differ(folder: Path) -> None:
    switch_off: Callable[[], None] = CONTROLS["dropout"].patch
    switch_off()
    unbroken = trained(folder, "global")
    switch_off()  # which also seeds the generator, as a new process does
    assert all(compared(unbroken, trained(folder, "global-again")).values())
    switch_off()
    trained(folder, "global-crashed", crash=14)
    switch_off()
    same = compared(unbroken, trained(folder, "global-crashed", resume=True))
    assert same["sample numbers"]
    assert not same["weights"]


def test_two_runs_that_differ_in_one_bit_are_told_apart(folder: Path) -> None:
    shutil.copytree(folder / "unbroken", folder / "flipped")
    path = max((folder / "flipped/checkpoints").glob("step-*")) / "optimizer.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    same = compared(folder / "unbroken", folder / "flipped")
    assert [words for words, equal in same.items() if not equal] == ["optimizer's state"]


GOOD = {"nothing": True, "weights": False, "average": None}
FOUND: dict[str, tuple[dict[str, bool], dict[str, bool | None], int]] = {
    "all is as it must be": ({"weights": True, "losses": True}, GOOD, 0),
    "the resumed run is another": ({"weights": True, "losses": False}, GOOD, 1),
    "a control is not noticed": ({"weights": True}, {**GOOD, "weights": True}, 1),
    "a run differs with nothing off": ({"weights": True}, {**GOOD, "nothing": False}, 1),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_proof_says_whether_it_holds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    same, controls, code = FOUND[name]
    monkeypatch.setattr(Setting, "finish", lambda *words: 1.0)
    monkeypatch.setattr(proof, "killed", lambda *words: [Kill(1, 2.5, 7, 5, True)])
    monkeypatch.setattr(proof, "compared", lambda *words: same)
    monkeypatch.setattr(proof, "controlled", lambda *words: controls)
    recipe = write_recipe(tmp_path, **RICH)
    monkeypatch.setattr(proof.sys, "argv", ["prove_resume.py", str(recipe), "--json", "--keep", str(tmp_path / "new")])
    assert proof.main() == code
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["holds"] == (code == 0)
    assert found["kills"] == [{"number": 1, "seconds": 2.5, "step": 7, "saved": 5, "in_save": True}]
    assert ("DIFFERENT" in printed.err) == (name == "the resumed run is another")
    assert proof.main() == 1  # the folder is not new any more
    assert "File exists" in capsys.readouterr().err


def test_every_control_is_made_on_a_recipe_with_everything() -> None:
    recipe = load(proof.EMBEDDED)
    assert all(control.needs(recipe) for control in CONTROLS.values())
    assert load(proof.EMBEDDED, proof._short(recipe)).train.steps == 24
    plain = load(proof.EMBEDDED, ["train.ema=null", "model.dropout=0", "train.schedule={name: constant}"])
    assert {name for name, control in CONTROLS.items() if not control.needs(plain)} == {
        "average",
        "dropout",
        "schedule",
    }
