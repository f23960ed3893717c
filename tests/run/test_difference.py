"""Two runs that differ in exactly one thing: it is named, and named first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dougong.checkpoint import seal
from dougong.core import log
from dougong.core.errors import FileError, UsageError
from dougong.recipe.recipe import to_yaml
from dougong.run import Comparison, Resume, diff, train
from tests.tiny import TEXT, tiny_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    return trained(folder, "base")


def trained(folder: Path, name: str, recipe: dict[str, Any] | None = None, **options: Any) -> Path:
    with log.listening(lambda line: None):
        return train(recipe or tiny_recipe(folder), run=folder / name, **options).folder


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


CHANGED: dict[str, Any] = {"steps": 8, "train.optimizer.weight_decay": 0.5}


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "run.jsonl").read_text().splitlines()]


def doctored(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the records of a run."""
    found = records(run)
    for record in found:
        change(record)
    (run / "run.jsonl").write_text("".join(json.dumps(record) + "\n" for record in found))


def verdicts(found: Comparison) -> dict[str, str]:
    return {finding.what: finding.verdict for finding in found.findings}


def test_equal_runs_are_equal(folder: Path, base: Path) -> None:
    found = diff(base, trained(folder, "again"))
    assert set(verdicts(found).values()) == {"same"}
    assert found.equal
    assert found.sentence == "The runs are equal: 8 steps, same samples, same losses, weights bit-identical."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seed": 1}, "The runs part at step 1: the seed differs (train.seed 0, 1)."),
        (
            {"train.optimizer.lr": 0.02},
            "The runs part at step 1: the learning rate differs (train.optimizer.lr 0.01, 0.02).",
        ),
        (
            {"model.dim": 32},
            "The runs part at step 1: the width differs (model.dim 16, 32).",
        ),
        (
            {"data.validation.fraction": 0.1},
            "The runs part at step 4: the validation fraction differs (data.validation.fraction 0.05, 0.1). Also ",
        ),
        (
            {"train.evaluate.batches": 3},
            "The runs part at step 4: the batches differ (train.evaluate.batches 2, 3).",
        ),
    ],
    ids=["seed", "learning rate", "width", "validation", "evaluation"],
)
def test_one_field_of_the_recipe_is_the_cause(folder: Path, base: Path, options: dict[str, Any], sentence: str) -> None:
    found = diff(base, trained(folder, "-".join(options), **options))
    assert found.sentence.startswith(sentence)
    assert not found.equal


def test_fields_without_effect_leave_runs_equal(folder: Path, base: Path) -> None:
    other = trained(folder, "effectless", title="Another", **{"train.log.every": 3, "train.checkpoint.keep": 3})
    found = diff(base, other)
    assert found.equal
    assert found.sentence.endswith(
        "weights bit-identical. What differs changed no number: title, train.checkpoint.keep, train.log.every."
    )


def test_a_field_without_effect_is_no_cause(copy: Path, base: Path) -> None:
    (copy / "recipe.yaml").write_text((copy / "recipe.yaml").read_text().replace("A tiny model", "Another"))
    doctored(copy, lambda record: record.update(loss=record["loss"] + 1) if record.get("loss") else None)
    assert "title" not in diff(base, copy).sentence


def test_other_text_is_the_cause(folder: Path, base: Path) -> None:
    recipe = tiny_recipe(folder)
    (folder / "tiny.txt").write_text(TEXT.replace("cat", "dog"))
    other = trained(folder, "dogs", recipe)
    (folder / "tiny.txt").write_text(TEXT)
    found = diff(base, other)
    assert found.sentence.startswith("The runs part at step 1: the data differs (data fingerprint '")
    assert (verdicts(found)["recipe"], verdicts(found)["data"]) == ("same", "differs")


def test_the_same_text_elsewhere_is_no_difference(folder: Path, base: Path, tmp_path: Path) -> None:
    found = diff(base, trained(tmp_path, "moved", tiny_recipe(tmp_path)))
    assert (found.equal, verdicts(found)["recipe"], verdicts(found)["data"]) == (True, "differs", "same")


def later(record: dict[str, Any], step: int) -> bool:
    return "loss" in record and record["step"] >= step


def change_environment(**values: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        if record.get("event") == "start":
            record["versions"].update({name: v for name, v in values.items() if name in record["versions"]})
            record.update({name: v for name, v in values.items() if name not in record["versions"]})
        elif later(record, 3):
            record["loss"] *= 1 + 1e-7 * record["step"]

    return change


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"torch": "2.14.0"}, "the version of torch differs (torch '2.13.0+cpu', '2.14.0')."),
        ({"machine": "Linux x86_64, 64 threads"}, "the threads differ (threads "),
        ({"precision": "bfloat16: measured faster"}, "the precision differs (precision 'float32', 'bfloat16')."),
        ({"compile": "yes: asked for"}, "the compile differs (compile 'no', 'yes')."),
    ],
)
def test_one_fact_of_the_environment_is_the_cause(
    base: Path, copy: Path, values: dict[str, Any], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    doctored(base_copy := copy, change_environment(**values))
    found = diff(base, base_copy)
    assert found.sentence.startswith(f"The runs part at step 3: {cause}")
    assert verdicts(found)["environment"] == "differs"


def test_rounding_is_told_from_a_real_difference(base: Path, copy: Path) -> None:
    doctored(copy, lambda r: r.update(loss=r["loss"] * (1 + 1e-7 * r["step"])) if later(r, 3) else None)
    found = diff(base, copy)
    assert found.sentence.startswith("The runs part at step 3: the loss differs by rounding (relative 3.0e-07), though")
    [loss] = [finding for finding in found.findings if finding.what == "loss"]
    assert loss.note == (
        "from step 3 on, in 6 of 8; relative 3.0e-07 at first, 8.0e-07 at most: small enough for rounding that grows"
    )
    doctored(copy, lambda r: r.update(loss=r["loss"] + 0.01) if later(r, 3) else None)
    found = diff(base, copy)
    assert found.sentence.startswith("The runs part at step 3: the loss differs (5.13")
    assert "Something that is not recorded differs" in found.sentence


def test_a_loss_that_is_no_number_is_a_difference(base: Path, copy: Path) -> None:
    doctored(copy, lambda r: r.update(loss=None) if later(r, 5) else None)
    assert diff(base, copy).sentence.startswith("The runs part at step 5: the loss differs (4.73")


def test_going_back_to_a_checkpoint_is_a_cause(base: Path, copy: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        if later(record, 5):
            record.update(samples=[[100, 103]], loss=record["loss"] + 1)
        if record.get("event") == "end":
            record.update(event="rewind", step=6, to=4, passed_over=[[4, 4]], cause="spike")

    doctored(copy, change)
    assert diff(base, copy).sentence == (
        "The runs part at step 5: the rewind at step 6 differs (rewind at step 6 null, 'to step 4')."
    )
    doctored(copy, lambda record: record.update(loss=9.0) if later(record, 2) else None)
    assert "though recipe" in diff(base, copy).sentence, "they parted before that"


def test_a_field_that_was_allowed_to_change_on_the_way_is_a_cause(folder: Path, base: Path) -> None:
    half = trained(folder, "half", steps=4)
    with log.listening(lambda line: None):
        train(half, run=half, resume=Resume(allow=("train.optimizer.weight_decay",)), **CHANGED)
    whole = trained(folder, "whole", **CHANGED)
    assert diff(whole, half).sentence.startswith(
        "The runs part at step 2: the weight decay from step 5 on differs (train.optimizer.weight_decay from step 5 on "
        "null, '0.5, 0.1 before')."
    )


def test_other_samples_come_before_the_loss_they_give(base: Path, copy: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        if later(record, 6):
            record.update(samples=[[100, 103]], loss=record["loss"] + 1)

    doctored(copy, change)
    assert diff(base, copy).sentence == (
        "The runs part at step 6: they saw other samples ([[20, 23]], [[100, 103]]), though recipe, environment, data "
        "and tokenizer are the same. The order of the data is not what the seed says."
    )


def test_one_weight_of_a_checkpoint_is_named(base: Path, copy: Path) -> None:
    checkpoint = copy / "checkpoints" / "step-00000008"
    tensors = load_file(checkpoint / "model.safetensors")
    name = "blocks.0.feedforward.up.weight"
    tensors[name].view(-1)[7] += 0.5
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(FileError, match=r"model\.safetensors"):
        diff(base, copy)
    seal.seal(checkpoint)
    found = diff(base, copy)
    assert found.sentence == (
        f"The runs part in the checkpoint of step 8: model.safetensors: {name} differs by 5.0e-01 at most, though all "
        "steps have the same numbers. It was changed afterwards."
    )
    assert not found.equal


def test_one_weight_of_a_model_is_named(base: Path, copy: Path) -> None:
    path = copy / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors[sorted(tensors)[3]].view(-1)[0] += 0.25
    save_file(tensors, path, {"format": "pt"})
    (copy / "model" / "manifest.json").unlink()
    assert diff(base, copy).sentence.startswith("The runs part in the model: ")
    assert "differs by 2.5e-01 at most" in diff(base, copy).sentence


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "source.spm", "vocab.json", "source_tokenizer/tokenizer.json"]
)
def test_every_file_of_a_tokenizer_is_compared(name: str, base: Path, copy: Path, tmp_path: Path) -> None:
    (copy / "model" / "manifest.json").unlink()
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    assert verdicts(diff(copy, other))["tokenizer"] == "same"
    for folder, content in ((copy, "one"), (other, "another")):
        (folder / "model" / name).parent.mkdir(exist_ok=True)
        (folder / "model" / name).write_text(content)
    doctored(other, lambda record: record.update(loss=9.0) if later(record, 2) else None)
    found = diff(copy, other)
    assert verdicts(found)["tokenizer"] == "differs"
    assert found.sentence.startswith(f"The runs part at step 2: the tokenizer differs (tokenizer {name} ")
    (other / "model" / name).unlink()
    [finding] = [finding for finding in diff(copy, other).findings if finding.what == "tokenizer"]
    assert finding.rows[f"tokenizer {name}"].b is None


def test_the_last_attempt_of_a_step_counts(base: Path, copy: Path) -> None:
    for left in ("checkpoints/step-00000008", "model"):
        shutil.rmtree(copy / left)
    doctored(copy, lambda r: r.update(loss=9.0, samples=[[1, 2]]) if later(r, 5) else None)
    assert not diff(base, copy).equal
    with log.listening(lambda line: None):
        train(copy, run=copy, resume=True)
    assert [record["step"] for record in records(copy) if "loss" in record] == [1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8]
    assert diff(base, copy).equal


def test_an_unfinished_run_agrees_as_far_as_it_came(base: Path, copy: Path) -> None:
    kept = [record for record in records(copy) if record["step"] <= 4]
    (copy / "run.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept) + '{"step": 5, "lo')
    for left in ("checkpoints", "model"):
        shutil.rmtree(copy / left)
    found = diff(base, copy)
    assert found.sentence == (
        f"The runs are equal in the 4 steps that both have, but {copy} ends at step 4 and the other at 8. "
        f"Go on with: dougong train {copy} --resume"
    )
    assert not found.equal
    assert [verdicts(found)[name] for name in ("checkpoint", "model", "tokenizer")] == ["unknown"] * 3


def test_a_run_without_checkpoints_is_equal_as_far_as_can_be_seen(base: Path, copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    shutil.rmtree(copy / "model")
    found = diff(base, copy)
    assert found.equal
    assert found.sentence.endswith("same losses, weights not compared (they have no checkpoint of the same step).")


def test_a_run_that_never_began_has_no_step_in_common(base: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(to_yaml(tiny_recipe(tmp_path)))
    found = diff(base, tmp_path)
    assert found.sentence.startswith(f"The runs have no step in common: {base} has 8 steps, {tmp_path} 0. Train them")
    assert not found.equal


def test_what_is_no_run_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be a run folder, but has no recipe\.yaml"):
        diff(base, tmp_path)
    with pytest.raises(UsageError, match="must be a run folder, but does not exist"):
        diff(tmp_path / "none", base)


def test_the_summary_is_json(base: Path, copy: Path) -> None:
    doctored(copy, lambda r: r.update(samples=[[0, 0]]) if later(r, 2) else None)
    found = json.loads(json.dumps(diff(base, copy).summary()))
    assert (found["equal"], found["runs"]) == (False, [str(base), str(copy)])
    [samples] = [finding for finding in found["findings"] if finding["what"] == "samples"]
    assert samples["rows"] == {"samples at step 2": [[[4, 7]], [[0, 0]]]}
    assert (samples["step"], samples["verdict"]) == (2, "differs")
