"""What is promised of a recipe holds for pictures, changed at random or not; and where it is broken, it is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong.check.processes import processes
from dougong.check.resume import resume
from dougong.check.samples import samples
from dougong.check.separate import separate
from dougong.check.subject import Subject
from dougong.data.augment.apply import Pipeline
from dougong.recipe import load
from dougong.run.checking import prove, subject_of
from tests.check.conftest import FEW
from tests.data.pictures import voc_folder

CHANGES = "data.augment=[{pad_crop: 1}, {erase: 0.3}, {mixup: 0.4}]"
OBJECTS: Mapping[str, Any] = {
    f"{number:06}": [("cat", 1, 1, 5 + number % 8, 8), ("dog", 6, 3, 15, 11)][: number % 3] for number in range(12)
}


def digits(*changes: str) -> Subject:
    return subject_of(load("digits-resnet", [CHANGES, "train.device=cpu", *changes]), FEW)


def cells(folder: Path) -> Subject:
    """The detector that is shipped, narrower, on drawn pictures."""
    path = voc_folder(folder / "voc", OBJECTS, apart=2)
    changes = (f"data.path={path}", "data.classes=[cat, dog]", "data.size=[64, 64]", "model.pyramid_dim=32")
    trunk = "model.trunk={name: resnet, depths: [1, 1, 1], widths: [8, 16, 32]}"
    return subject_of(load("bccd-retinanet", [*changes, trunk, "train.device=cpu", "train.precision=fp32"]), FEW)


def test_every_line_of_digits_resnet_is_green_with_random_changes() -> None:
    found = {result.name: result for result in prove(digits())}
    assert {name for name, result in found.items() if result.verdict != "passed"} == {"compiled"}
    assert found["compiled"].verdict == "skipped"
    assert found["microbatches"].measured.endswith("running statistics")


@pytest.mark.parametrize("check", [samples, separate, resume, processes])
def test_a_detector_on_changed_pictures_holds_too(check: Any, tmp_path: Path) -> None:
    result = check(cells(tmp_path))
    assert result.verdict == "passed", result.detail


def test_changes_that_are_no_function_of_the_samples_number_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: all pictures are changed by one generator that goes on and on."""
    one, given = np.random.default_rng(0), Pipeline.classified
    monkeypatch.setattr(Pipeline, "classified", lambda self, *args: given(self, *args[:-1], one))
    result = samples(digits())
    assert (result.verdict, result.exit_code) == ("failed", 3)
    assert "other images, other_labels" in result.detail
