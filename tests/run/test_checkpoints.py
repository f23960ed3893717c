"""The verb `checkpoint`, as functions and on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.checkpoint.store import Store, load, write_checkpoint
from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.core.errors import UsageError
from dougong.run import diff_checkpoints, list_checkpoints, verify_checkpoints
from dougong.train.loop import fit
from tests.train.small import Small, job


@pytest.fixture
def run(tmp_path: Path) -> Path:
    fit(job(tmp_path / "run", Small(), steps=4, checkpoint={"every": 2}))
    return tmp_path / "run"


def edited(run: Path, target: Path, **scalars: Any) -> Path:
    """A copy of a run's newest checkpoint with other values, under a seal of its own."""
    checkpoint = load(Store(run / "checkpoints").newest())
    tensors = {group: dict(named) for group, named in checkpoint.tensors.items()}
    target.mkdir()
    write_checkpoint(target, tensors, {**checkpoint.scalars, **scalars})
    return target


def test_checkpoints_are_listed_with_why_they_stay(run: Path) -> None:
    entries = list_checkpoints(run)
    assert [(entry.step, entry.whole, entry.fault, entry.kept) for entry in entries] == [
        (2, True, None, ["newest"]),
        (4, True, None, ["newest"]),
    ]
    assert entries[0].bytes == sum(path.stat().st_size for path in Path(entries[0].folder).iterdir())
    assert 0 <= entries[0].age_seconds < 3600
    (Store(run / "checkpoints").path(2) / "model.safetensors").unlink()
    broken = list_checkpoints(run)[0]
    assert (broken.whole, "model.safetensors must be there" in (broken.fault or "")) == (False, True)


def test_equal_checkpoints_are_equal_and_others_differ_by_name(run: Path, tmp_path: Path) -> None:
    same = edited(run, tmp_path / "same")
    assert diff_checkpoints(run, same, bitwise=True).equal
    folder = Store(run / "checkpoints").newest()
    checkpoint = load(folder)
    model = {name: tensor.clone() for name, tensor in checkpoint.tensors["model"].items()}
    model["norm.bias"][3] += 0.5
    model["norm.weight"] = model["norm.weight"].double()
    model["new"] = model.pop("out.bias")
    other = tmp_path / "other"
    other.mkdir()
    write_checkpoint(other, {**checkpoint.tensors, "model": model}, {**checkpoint.scalars, "items": 1.0})
    found = diff_checkpoints(folder, other)
    assert not found.equal
    assert found.tensors == {
        "model.safetensors: new": {"how": "only in the second"},
        "model.safetensors: norm.bias": {
            "how": "values",
            "max_abs_difference": pytest.approx(0.5),
            "differing": 1,
            "of": 8,
        },
        "model.safetensors: norm.weight": {"how": "F32[8] and F64[8]"},
        "model.safetensors: out.bias": {"how": "only in the first"},
    }
    assert list(found.scalars) == ["items"]


def test_bits_are_compared_not_values(tmp_path: Path) -> None:
    folders = []
    for name, value in {"plus": 0.0, "minus": -0.0, "nan": float("nan"), "same": float("nan")}.items():
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        write_checkpoint(folders[-1], {"model": {"w": torch.tensor([value, 1.0])}}, {})
    plus, minus, nan, same = folders
    assert diff_checkpoints(plus, minus).tensors["model.safetensors: w"]["differing"] == 1
    assert diff_checkpoints(nan, same).equal


def test_where_and_how_it_was_computed_counts_bit_by_bit_alone(run: Path, tmp_path: Path) -> None:
    other = edited(run, tmp_path / "other", environment={"threads": 99}, identity={}, decisions={})
    assert diff_checkpoints(run, other).equal
    names = {name.split(".")[0] for name in diff_checkpoints(run, other, bitwise=True).scalars}
    assert names == {"environment", "identity", "decisions"}


def test_a_run_without_checkpoints_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UsageError, match="must hold a checkpoint or a model, but holds none"):
        verify_checkpoints(tmp_path)
    with pytest.raises(UsageError, match="must hold a checkpoint, but holds none"):
        diff_checkpoints(tmp_path, tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        list_checkpoints(tmp_path / "nowhere")


def test_the_command_line_prints_and_leaves_with_1_for_a_difference(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run_guarded(app, ["checkpoint", *words])
        return code, capsys.readouterr().out

    code, out = told("list", str(run))
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["2", "4"]
    assert "whole" in out
    code, out = told("list", str(run), "--json")
    assert [entry["step"] for entry in json.loads(out)] == [2, 4]
    code, out = told("verify", str(run), "--latest", "--json")
    assert (code, len(json.loads(out)["whole"])) == (0, 1)
    code, out = told("diff", str(run), str(run), "--bitwise")
    assert (code, out.endswith("equal\n")) == (0, True)
    first, second = (str(Store(run / "checkpoints").path(step)) for step in (2, 4))
    code, out = told("diff", first, second)
    assert code == 1
    assert "model.safetensors: blocks.0.0.bias: largest difference" in out
    assert "step: 2 and 4" in out
    code, out = told("diff", first, second, "--json")
    assert (code, json.loads(out)["equal"]) == (1, False)
    shutil.copy("/dev/null", run / "recipe.yaml")
    assert told("prune", str(run), "--keep", "many")[0] == 2
    assert told("lst", str(run))[0] == 2
    assert told()[0] == 2
