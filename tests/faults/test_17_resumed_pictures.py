"""Row 17: a run over pictures that are cut, turned, coloured and mixed at random is lost in the middle of an epoch and
goes on. Promise: the weights, the optimizer's state, the running statistics, the losses and the sample numbers are, bit
by bit, those of the run that never stopped, whatever the number of workers; what is drawn for a picture is a function
of the seed and of the sample's number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong.data.augment.apply import Pipeline
from dougong.recipe.recipe import to_yaml
from dougong.train.report import read_run
from scripts.prove_resume import compared
from tests.data.pictures import folder as folders_of_pictures
from tests.data.pictures import voc_folder
from tests.faults.small_run import dougong, trained

STEPS, CRASH = 9, 8
RESNET = {"name": "resnet", "stem": "cifar", "depths": [1, 1], "widths": [4, 8], "shortcut": "padded"}
CLASSIFIED: dict[str, Any] = {
    "model": RESNET,
    "task": {"name": "image_classification", "label_smoothing": 0.1},
    "data": {
        "name": "image_folder",
        "size": 8,
        "validation": {"fraction": 0.2},
        "augment": [
            {"crop": {"scale": [0.3, 1.0]}},
            "flip",
            {"colour": {"brightness": 0.4, "hue": 0.1}},
            {"erase": 0.5},
            {"mixup": 0.4},
            "cutmix",
        ],
    },
}
DETECTED: dict[str, Any] = {
    "model": {
        "name": "retinanet",
        "trunk": {"name": "resnet", "depths": [1, 1], "widths": [4, 8]},
        "extra_levels": 0,
        "pyramid_dim": 6,
        "pyramid_norm": "batch",
        "head_layers": 1,
        "finest_stride": 4,
    },
    "task": {"name": "object_detection"},
    "data": {
        "name": "voc",
        "size": [32, 32],
        "augment": ["flip", {"scale_jitter": [0.7, 1.3]}, {"colour": {"brightness": 0.4}}],
    },
}
TRAIN: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": 4,
    "precision": "fp32",
    "device": "cpu",
    "compile": False,
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    "ema": {"decay": 0.9},
    "evaluate": {"every": 4, "batches": 1},
    "checkpoint": {"every": 3},
    "log": {"every": 100, "trackers": []},
}
OBJECTS = {f"{number:06}": [("cat", 1, 1, 5 + number % 8, 8), ("dog", 6, 3, 15, 11)] for number in range(12)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of both kinds: with batches of four, no epoch ends with a batch."""
    root = tmp_path_factory.mktemp("pictures")
    folders_of_pictures(root / "folders", {"a": 12, "b": 12})
    voc_folder(root / "voc", OBJECTS, apart=2)
    return root


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.run.training.write_page", lambda folder: None)
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))


def recipe(values: Mapping[str, Any], root: Path, **options: Any) -> dict[str, Any]:
    path = root / ("voc" if values["data"]["name"] == "voc" else "folders")
    return {**values, "data": {**values["data"], "path": str(path)}, "train": {**TRAIN, **options}}


@pytest.mark.parametrize(
    ("values", "before", "after"),
    [(CLASSIFIED, 0, 2), (CLASSIFIED, 2, 0), (DETECTED, 2, 2)],
    ids=["0", "2", "detected"],
)
def test_it_goes_on_as_if_it_had_never_stopped(
    values: dict[str, Any], before: int, after: int, root: Path, tmp_path: Path
) -> None:
    unbroken = trained(recipe(values, root), tmp_path / "unbroken")
    trained(recipe(values, root, workers=before), tmp_path / "broken", crash=CRASH)
    broken = trained(recipe(values, root, workers=after), tmp_path / "broken", resume=True)
    same = compared(unbroken, broken)
    assert {"weights", "optimizer's state", "averaged weights", "losses", "sample numbers"} <= same.keys()
    assert all(same.values()), same
    steps = [step["step"] for step in read_run(broken)[0]]
    assert steps == list(range(1, STEPS + 1))


def test_it_does_after_a_kill(root: Path, tmp_path: Path) -> None:
    """Real processes, and two workers that die with theirs."""
    path = tmp_path / "pictures.yaml"
    path.write_text(to_yaml(recipe(CLASSIFIED, root, workers=2)))
    words = ("train", path, "--run")
    with ThreadPoolExecutor(1) as pool:
        unbroken = pool.submit(dougong, *words, tmp_path / "unbroken")
        assert dougong(*words, tmp_path / "killed", fault=f"step:{CRASH}:kill").returncode == -9
        assert len(list((tmp_path / "killed/checkpoints").glob("step-*"))) >= 1
        done = dougong("train", tmp_path / "killed", "--resume")
        assert done.returncode == unbroken.result().returncode == 0, done.stderr
    same = compared(tmp_path / "unbroken", tmp_path / "killed")
    assert all(same.values()), same


@pytest.fixture
def stateful(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets all pictures be changed by one generator that goes on and on; begins it anew, as a new process would."""
    one: list[np.random.Generator] = []
    of_number = Pipeline.classified

    def classified(self: Any, picture: Any, partner: Any, count: int, rng: Any) -> Any:
        return of_number(self, picture, partner, count, one[0])

    monkeypatch.setattr(Pipeline, "classified", classified)
    return lambda: one.__setitem__(slice(None), [np.random.default_rng(0)])


def test_without_a_generator_of_each_samples_own_it_would_not(
    stateful: Callable[[], None], root: Path, tmp_path: Path
) -> None:
    values = recipe(CLASSIFIED, root)

    def anew(name: str, **options: Any) -> Path:
        stateful()
        return trained(values, tmp_path / name, **options)

    unbroken = anew("unbroken")
    assert all(compared(unbroken, anew("again")).values())  # so nothing else differs
    anew("broken", crash=CRASH)
    same = compared(unbroken, anew("broken", resume=True))
    assert same["sample numbers"]
    assert not same["weights"]
    assert not same["losses"]
