"""The verb as a whole: from Python, from the command line, as JSON; what is bad has the sentence of `train`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import dougong
from dougong.check.result import Claim, Result
from dougong.check.subject import Subject
from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.core.errors import FileError, ResourceError, UsageError
from dougong.run import checking
from dougong.run.checking import CHECKS, Check, prove
from tests.tiny import tiny_recipe, write_recipe

TEXT_OR_NUMBER = {"type": ["number", "null"]}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["recipe", "passed", "exit_code", "seconds", "checks"],
    "properties": {
        "recipe": {"type": "string"},
        "passed": {"type": "boolean"},
        "exit_code": {"enum": [0, 1, 2, 3, 4, 5, 6]},
        "seconds": {"type": "number", "minimum": 0},
        "checks": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": [
                    "name", "claim", "verdict", "measured", "allowed", "difference", "bound", "detail", "exit_code",
                    "seconds",
                ],
                "properties": {
                    "name": {"type": "string", "pattern": "^[a-z_]+$"},
                    "claim": {"type": "string", "minLength": 20},
                    "verdict": {"enum": ["passed", "failed", "skipped"]},
                    "measured": {"type": "string"},
                    "allowed": {"type": "string"},
                    "difference": TEXT_OR_NUMBER,
                    "bound": TEXT_OR_NUMBER,
                    "detail": {"type": "string"},
                    "exit_code": {"type": "integer"},
                    "seconds": {"type": "number"},
                },
            },
        },
    },
}  # fmt: skip


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run_guarded(app, ["check", *words])
    return code, *capsys.readouterr()


def stub(name: str, verdict: str, code: int = 0) -> tuple[Claim, Callable[[Subject], Result]]:
    """A check that is decided already."""
    claim = Claim(name, f"what {name} says holds everywhere", code)
    results = {
        "passed": claim.held("1e-12 relative", "1e-10", 1e-12, 1e-10),
        "failed": claim.broken(f"{name} is broken at layer 3.", "0.5 relative", "1e-10"),
        "skipped": claim.skipped(f"{name} has nothing to do."),
    }
    return claim, lambda subject: results[verdict]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [
        stub("one", "passed"),
        stub("two", "failed", 3),
        stub("three_parts", "skipped"),
        stub("four", "failed", 1),
    ]
    monkeypatch.setattr(checking, "CHECKS", checks)


def test_every_line_of_the_promise_is_there() -> None:
    assert [claim.name for claim, _ in CHECKS] == [
        "builds", "samples", "gradients", "microbatches", "separate", "randomness", "compiled", "precision", "resume",
        "processes", "initial_loss", "overfit", "memory",
    ]  # fmt: skip
    assert {claim.name: claim.exit_code for claim, _ in CHECKS if claim.exit_code != 1} == {
        "builds": 2,
        "samples": 3,
        "memory": 4,
    }


def test_the_package_is_the_verb_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "CHECKS", CHECKS[:1])
    found = dougong.check(tiny_recipe(tmp_path), steps=9)
    assert isinstance(found, Check)
    assert (found.passed, found.exit_code, len(found.results)) == (True, 0, 1)


def test_a_recipe_without_fault_is_green(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checking, "CHECKS", [pair for pair in CHECKS if pair[0].name != "processes"])
    code, out, err = answer(capsys, str(write_recipe(tmp_path)), "--json")
    assert code == 0, err
    values = json.loads(out)
    jsonschema.validate(values, SCHEMA)
    assert values["passed"] is True
    assert "microbatches: passed" in err


@pytest.mark.usefixtures("few")
def test_the_table_names_what_is_wrong_below_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = answer(capsys, str(write_recipe(tmp_path)))
    assert code == 3  # of the first failure
    assert out.split("\n")[:7] == [
        "check        measured        allowed  verdict",
        "one          1e-12 relative  1e-10    passed",
        "two          0.5 relative    1e-10    failed",
        "    two is broken at layer 3.",
        "three parts                           skipped",
        "    three_parts has nothing to do.",
        "four         0.5 relative    1e-10    failed",
    ]
    assert "tiny: 1 passed, 1 skipped, 2 failed, in 0 s" in out
    assert "error[E-CHECK]: all of 4 checks must pass, but 2 failed: two, four." in err


@pytest.mark.usefixtures("few")
def test_json_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = answer(capsys, str(write_recipe(tmp_path)), "--json")
    values = json.loads(out)
    jsonschema.validate(values, SCHEMA)
    assert code == values["exit_code"] == 3
    assert [check["verdict"] for check in values["checks"]] == ["passed", "failed", "skipped", "failed"]
    assert values["checks"][1]["detail"] == "two is broken at layer 3."
    assert "E-CHECK" in err


def test_a_schema_that_holds_nothing_would_be_noticed() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"recipe": "a", "passed": True, "exit_code": 0, "seconds": 0, "checks": [{}]}, SCHEMA)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ("--set", "train.stepz=3")),
        ({}, ("--set", "data.seq_len=4000")),
        ({"data": {"sources": [{"name": "files", "paths": ["nowhere.txt"]}]}}, ()),
        ({"model": {"dim": 15}}, ()),
        ({"train": {"device": "cuda:9"}}, ()),
    ],
    ids=["option", "context", "path", "fault", "device"],
)
def test_what_is_bad_has_the_sentence_of_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    path = write_recipe(tmp_path, **changes)
    code, _, err = answer(capsys, str(path), *words)
    told = err.rstrip().split("\n")[-1]
    trained = run_guarded(app, ["train", str(path), "--run", str(tmp_path / "run"), *words])
    assert (code, told) == (trained, capsys.readouterr().err.rstrip().split("\n")[-1])
    assert code == 2


def test_broken_text_ends_with_the_code_of_train(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    Path(recipe["data"]["sources"][0]["paths"][0]).write_bytes(b"bad \xff\xfe bytes")
    with pytest.raises(FileError) as checked:
        dougong.check(recipe)
    with pytest.raises(FileError) as trained:
        dougong.train(recipe, run=tmp_path / "run")
    assert str(checked.value) == str(trained.value)


def test_a_model_that_cannot_fit_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="the memory must hold") as caught:
        dougong.check(tiny_recipe(tmp_path, model={"dim": 65536, "num_layers": 90, "vocab_size": 300}))
    assert caught.value.exit_code == 4


def test_a_check_that_raises_does_not_end_the_others(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(_: Subject) -> Result:
        raise UsageError("model.dim must be even.")

    monkeypatch.setattr(checking, "CHECKS", [(Claim("one", "one holds", 1), raising), stub("two", "passed")])
    assert [(result.verdict, result.exit_code) for result in prove(subject)] == [("failed", 2), ("passed", 0)]


def test_rows_are_cut_as_far_as_the_operations_demand(made: Callable[..., Subject]) -> None:
    subject = made(model={"max_seq_len": 64})
    whole = subject.rows(3, 1e12)
    assert whole["tokens"].shape == (3, 64)
    cheap = subject.rows(3, 1e6)
    assert cheap["tokens"].shape[1] < 64
    assert subject.rows(5, 1.0)["tokens"].shape == (2, 16)
    assert subject.rows(3, 1e6)["tokens"].equal(cheap["tokens"])
