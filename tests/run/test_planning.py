"""The verb `plan` answers for every source and family, without data and without allocating, and says what it cannot."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from dougong.core.errors import RecipeError, ResourceError, UsageError
from dougong.plan import history
from dougong.plan.calibrate import calibration
from dougong.plan.count import known_model
from dougong.plan.history import record
from dougong.recipe import load
from dougong.run import planning
from dougong.run.planning import Plan, draw, plan
from tests.plan.calibrated import made
from tests.tiny import tiny_recipe, write_recipe

PICTURE = (
    "{model: {name: stack, input: {image: {channels: 1, height: 8, width: 8}}, num_classes: 3, stages: [{conv: 4}, "
    "{activate: relu}, {pool: mean}, classify]}, task: {name: image_classification}, data: {name: digits}, "
    "train: {steps: 10, batch_size: 4, precision: fp32}}"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))


def values(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """A recipe that needs no data to be planned; its text does not even exist."""
    recipe = tiny_recipe(tmp_path, model={"vocab_size": 257}, **changes)
    (tmp_path / "tiny.txt").unlink()
    return recipe


@pytest.fixture
def found(tmp_path: Path) -> Plan:
    return plan(values(tmp_path))


def test_a_plan_has_what_its_parts_say(found: Plan, tmp_path: Path) -> None:
    recipe = load(values(tmp_path))
    model: Any = known_model(recipe)
    assert found.parameters == found.tree.parameters == sum(p.numel() for p in model.build().parameters())
    assert (found.steps, found.batch_size, found.items, found.item) == (8, 4, 8 * 4 * 16, "tokens")
    forward, backward = found.flops_per_sample["forward"], found.flops_per_sample["backward"]
    assert found.flops_per_step == 4 * (forward + backward)
    assert found.tree.forward_flops == forward
    assert found.uncounted == ()
    assert [use.dtype for use in found.inference] == ["float32", "bfloat16"]
    assert found.here is not None
    assert found.here.memory.weights == 4 * found.parameters
    assert [device.name for device in found.devices] == list(planning.TABLE)
    assert found.layouts is None
    assert found.advice is None


def test_a_plan_is_json(found: Plan) -> None:
    again = json.loads(json.dumps(found.as_dict()))
    assert again["here"]["memory"]["peak"] == found.here.memory.peak  # type: ignore[union-attr]
    assert again["tree"]["blocks"]
    assert again["scaling"]["tokens"] == found.items
    over = json.loads(json.dumps(plan("gpt3-small", devices="8xh100").as_dict()))
    assert over["layouts"]["fitting"]


def test_a_name_a_file_inline_yaml_and_values_are_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recipe(tmp_path, model={"vocab_size": 257})
    from_file, from_values = plan(path), plan(values(tmp_path))
    assert from_file.tree == from_values.tree
    assert from_file.recipe == "tiny"
    assert plan(PICTURE).parameters == (9 + 1) * 4 + (4 + 1) * 3
    assert plan("gpt-stdlib").recipe == "gpt-stdlib"


def test_every_argument_counts(tmp_path: Path, found: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = values(tmp_path)
    assert plan(recipe, overrides=["model.num_layers=2"]).parameters > found.parameters
    assert plan(recipe, batch_size=8).flops_per_step == 2 * found.flops_per_step
    assert plan(recipe, devices="2xh100").layouts is not None
    monkeypatch.setattr(planning, "memory_of", lambda device: 1_000_000)
    advised = plan(PICTURE, advise=True)
    assert advised.advice is not None
    assert advised.advice.context is None  # pictures have no context
    assert advised.advice.batch.value > 4
    recomputed = plan(recipe, overrides=["train.recompute=true"])
    assert recomputed.flops_per_sample["recompute"] > 0


def test_a_calibrated_machine_is_told_by_its_tables(
    tmp_path: Path, found: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found.here is not None
    assert not found.here.calibrated
    monkeypatch.setattr(planning, "calibration", made)
    known = plan(values(tmp_path)).here
    assert known is not None
    assert known.calibrated
    assert known.time.low < known.time.middle < known.time.high
    for _ in range(12):  # runs that took twice as long
        record("seconds", "gpt", 1.0, 2.0)
    later = plan(values(tmp_path)).here
    assert later is not None
    assert later.time_interval.runs == 12
    assert later.time.middle == pytest.approx(2 * known.time.middle, rel=0.1)
    assert later.time.high / later.time.low < known.time.high / known.time.low
    assert history.interval("seconds", "gpt").middle > 1.8


def test_a_model_that_does_not_fit_here_is_still_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(planning, "memory_of", lambda device: 1000)
    found = plan(values(tmp_path))
    assert found.here is None
    assert found.devices == ()
    assert found.parameters > 0


def test_nothing_is_executed_and_nothing_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("weights were made")

    monkeypatch.setattr("dougong.models.gpt.network.GPT.init_weights", refuse)
    assert plan(values(tmp_path)).parameters > 0
    large = plan("gpt3-175b", devices="1024xa100-80gb")
    assert large.parameters == 174_604_259_328
    assert large.layouts is not None
    assert large.layouts.best is not None


@pytest.mark.parametrize("devices", ["8", "0xh100", "8xh1000", "h100x8", ""])
def test_devices_that_do_not_exist_are_told(devices: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"devices|device"):
        plan(values(tmp_path), devices=devices)


def test_what_the_data_decides_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model.vocab_size must be known"):
        plan(tiny_recipe(tmp_path))
    with pytest.raises(UsageError, match="train.batch_size must be a number to plan, but is all of the data"):
        plan(values(tmp_path, train={"batch_size": "all"}))
    with pytest.raises(RecipeError, match="num_heads"):
        plan(values(tmp_path), overrides=["model.num_heads=3"])


def test_a_diagram_is_one_file_of_svg(tmp_path: Path) -> None:
    path = draw(PICTURE, tmp_path / "out.svg")
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    with pytest.raises(UsageError, match=r"must end in .svg, but is .*out.png. Try .*out.svg."):
        draw(PICTURE, tmp_path / "out.png")
    with pytest.raises((ResourceError, UsageError)):
        draw(PICTURE, tmp_path / "absent" / "out.svg")


def test_calibrating_leaves_what_the_next_plan_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dougong.plan import calibrate as calibrating
    from dougong.plan.kernels import Kernel

    few = {"bytes/add": Kernel(((8.0, 64.0),), lambda size: lambda: torch.ones(int(size)) + 1)}
    monkeypatch.setattr(calibrating, "kernels", lambda: few)
    monkeypatch.setattr(calibrating, "crowding_on", lambda machine: 1.0)
    assert planning.calibrated(0.01) == calibration()


def test_a_step_of_an_unusual_type_is_planned_in_it(tmp_path: Path) -> None:
    wide, narrow = (plan(values(tmp_path, train={"precision": precision})).here for precision in ("fp32", "bf16"))
    assert wide is not None
    assert narrow is not None
    assert (wide.dtype, narrow.dtype) == ("float32", "bfloat16")
    assert narrow.memory.activations < wide.memory.activations
    assert dataclasses.asdict(wide.memory) != dataclasses.asdict(narrow.memory)
