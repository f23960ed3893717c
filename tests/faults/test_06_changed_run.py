"""Row 06: a run is gone on with under another config, vocabulary, precision, data or version. Promise: exit 2 with a
table of the changed fields (3 for data of another content), before any step and without any cast or partial load; a
documented list may change and is said; `--allow FIELD` lets others, and is written down; other versions waive the
guarantee of equal bits, and it is said which holds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from dougong.checkpoint.store import Store, load
from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.core import log
from dougong.core.errors import UsageError
from dougong.train import checkpointer as checkpointers
from dougong.train import resume as resumes
from dougong.train.loop import fit
from dougong.train.report import read_run
from dougong.train.resume import Changes, Resume
from tests.tiny import TEXT, write_recipe
from tests.train.small import Small, job


class Told(NamedTuple):
    code: int
    err: str


Train = Callable[..., Told]
TRAIN = {"steps": 2, "evaluate": {"every": 0}, "samples": {"prompts": []}, "log": {"trackers": []}}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, and the recipe and the text it was made of."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOUGONG_CACHE", str(folder / "cache"))
        recipe = write_recipe(folder, train=TRAIN)
        assert run_guarded(app, ["train", str(recipe), "--run", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def resumed(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """Goes on with a copy of the run, by the command line."""
    monkeypatch.setenv("DOUGONG_CACHE", str(begun / "cache"))
    shutil.copytree(begun / "run", tmp_path / "run")

    def run(*words: str) -> Told:
        capsys.readouterr()
        code = run_guarded(app, ["train", str(tmp_path / "run"), "--resume", *words])
        return Told(code, capsys.readouterr().err)

    return run


EDITS = {
    "train.seed": "3",
    "train.batch_size": "5",
    "train.optimizer": "{name: adam, lr: 0.01}",
    "train.optimizer.betas": "[0.8, 0.95]",
    "train.optimizer.weight_decay": "0.2",
    "train.schedule.name": "cosine",
    "train.clip_norm": "1.0",
    "train.l2": "0.1",
    "train.ema": "{decay: 0.9}",
    "train.precision": "bf16",
    "model.dim": "32",
    "model.num_layers": "2",
    "model.dropout": "0.1",
    "model.max_seq_len": "20",
    "data.tokenizer.name": "chars",
    "data.seq_len": "8",
    "data.validation.fraction": "0.1",
}


@pytest.mark.parametrize("name", list(EDITS))
def test_a_single_changed_field_is_refused_by_name(name: str, resumed: Train, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.name != "report.html"
              and path.is_file()}  # fmt: skip
    code, text = resumed("--set", f"{name}={EDITS[name]}")
    assert code == 2, text
    assert f"\n  {name}" in text
    assert "dougong: error[E-CHANGED]: a resumed run must be the one that was begun" in text
    assert "Traceback" not in text
    assert "from step" not in text
    assert {path: path.read_bytes() for path in before} == before


def test_a_vocabulary_of_another_size_is_refused(resumed: Train) -> None:
    code, text = resumed("--set", "model.vocab_size=300")
    assert code == 2
    assert "\n  model.vocab_size: was 257, is 300" in text


def test_data_of_another_content_is_exit_3_and_can_be_allowed(begun: Path, resumed: Train, tmp_path: Path) -> None:
    (begun / "tiny.txt").write_text(TEXT.replace("cat", "dog"))
    try:
        code, text = resumed()
        assert code == 3
        assert "error[E-DATA]: the data must be what" in text
        code, text = resumed("--allow", "data", "--set", "train.steps=3")
        assert code == 0, text
        assert "warning: data.fingerprint was" in text
        assert "guarantee: not the run that was begun: data.fingerprint differs, as allowed" in text
    finally:
        (begun / "tiny.txt").write_text(TEXT)


def test_the_same_data_at_another_place_is_the_same_data(begun: Path, resumed: Train, tmp_path: Path) -> None:
    (tmp_path / "moved.txt").write_text(TEXT)
    sources = f"[{{name: files, paths: ['{tmp_path / 'moved.txt'}'], licence: CC0-1.0}}]"
    code, text = resumed("--set", f"data.sources={sources}", "--set", "train.steps=3")
    assert code == 0, text
    assert "data.sources was" in text


FREE = {
    "train.steps": "3",
    "train.optimizer.lr": "0.02",
    "train.log.every": "1",
    "train.evaluate.every": "1",
    "train.checkpoint.keep": "3",
    "train.microbatch_size": "2",
    "train.grace": "5.0",
}


def test_the_documented_list_may_change_and_is_said_and_written_down(resumed: Train, tmp_path: Path) -> None:
    words = [word for name, value in FREE.items() for word in ("--set", f"{name}={value}")]
    code, text = resumed(*words)
    assert code == 0, text
    assert all(f"{name} was " in text for name in FREE)
    event = next(event for event in read_run(tmp_path / "run")[1] if event["event"] == "resumed")
    assert event["changed"].keys() == FREE.keys()
    assert event["allowed"] == {}
    assert "guarantee: not the run that was begun: train.optimizer.lr differs\n" in text


def test_an_allowed_field_passes_and_is_written_down(resumed: Train, tmp_path: Path) -> None:
    edits = ["--set", "train.seed=3", "--set", "train.steps=3"]
    assert resumed(*edits).code == 2
    code, text = resumed(*edits, "--allow", "train.seed")
    assert code == 0, text
    assert "dougong: warning: train.seed was 0 and is now 3, as --allow permits" in text
    event = next(event for event in read_run(tmp_path / "run")[1] if event["event"] == "resumed")
    assert event["allowed"] == {"train.seed": [0, 3]}
    assert event["guarantee"] == "not the run that was begun: train.seed differs, as allowed"
    assert resumed(*edits).code == 0, "from now on it is this run"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--allow", "train.sead"], "Did you mean train.seed?"),
        (["--allow", "seed"], "Did you mean train.seed?"),
        (["--allow", "train.optimizer.name"], "the saved state of one optimizer means nothing to another"),
        (["--allow", "model", "--set", "model.dim=32"], "float32[16] in the checkpoint, float32[32] here"),
        (["--allow", "train.ema", "--set", "train.ema={decay: 0.9}"], "absent in the checkpoint"),
    ],
)
def test_what_cannot_be_allowed_is_refused(words: list[str], sentence: str, resumed: Train) -> None:
    code, text = resumed(*words)
    assert code == 2
    assert sentence in text


def test_allowing_without_resuming_is_an_option_without_effect(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--allow", "train.seed"], ["--fallback"]):
        assert run_guarded(app, ["train", str(begun / "tiny.yaml"), "--run", str(tmp_path / "new"), *words]) == 2
        assert f"{words[0]} has no effect without --resume" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# Versions and machines, and precision left to the program, by the loop alone


def said_on_resume(folder: Path, **options: Any) -> str:
    said: list[str] = []
    with log.listening(said.append):
        fit(job(folder, Small(), resume=True, **{"steps": 4, **options}))
    return next(text for text in said if text.startswith("guarantee: "))


@pytest.mark.parametrize(
    ("name", "value"),
    [("torch", "1.0"), ("dougong", "0.0.1"), ("python", "3.1"), ("cpu", "NEON"), ("threads", 99), ("compile", True)],
)
def test_another_version_or_machine_waives_the_guarantee_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    here = resumes.environment

    def elsewhere(*given: Any) -> dict[str, Any]:
        return {**here(*given), name: value}

    monkeypatch.setattr(checkpointers, "environment", elsewhere)
    fit(job(tmp_path, Small(), steps=2))
    monkeypatch.undo()
    text = said_on_resume(tmp_path)
    assert text.startswith("guarantee: it is equal up to rounding, not bit for bit, because: ")
    assert f"{name} {value} -> " in text


def test_another_microbatch_is_equal_up_to_rounding(tmp_path: Path) -> None:
    fit(job(tmp_path, Small(), steps=2))
    assert said_on_resume(tmp_path, microbatch_size=2) == (
        "guarantee: it is equal up to rounding, not bit for bit, because: microbatch_size None -> 2"
    )


COSINE, PLATEAU = {"schedule": {"name": "cosine"}}, {"schedule": {"name": "plateau", "patience": 9}}


@pytest.mark.parametrize(
    ("begun_with", "changes", "names"),
    [
        ({}, {"optimizer": {"name": "sgd", "lr": 0.1}}, "train.optimizer.lr differs"),
        (COSINE, {"steps": 4}, "train.steps differs"),
        (PLATEAU, {"steps": 4, "evaluate": {"every": 1}}, "train.steps, train.evaluate.every differ"),
    ],
)
def test_a_field_that_may_differ_but_makes_another_run_waives_the_guarantee(
    tmp_path: Path, begun_with: dict[str, Any], changes: dict[str, Any], names: str
) -> None:
    fit(job(tmp_path, Small(), **{"steps": 3, **begun_with}))
    assert said_on_resume(tmp_path, **{"steps": 3, **begun_with, **changes}) == (
        f"guarantee: not the run that was begun: {names}"
    )


def test_more_steps_of_a_schedule_without_an_end_are_the_longer_run(tmp_path: Path) -> None:
    one, other = Small(), Small()
    fit(job(tmp_path / "one", one, steps=2, schedule={"name": "inverse_sqrt", "warmup_steps": 1}))
    options = {"steps": 4, "schedule": {"name": "inverse_sqrt", "warmup_steps": 1}}
    assert "bit for bit" in said_on_resume(tmp_path / "one", **options)
    fit(job(tmp_path / "one", one, resume=True, **options))
    fit(job(tmp_path / "other", other, **options))
    assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_the_same_machine_class_threads_and_versions_are_bit_for_bit(tmp_path: Path) -> None:
    fit(job(tmp_path, Small(), steps=2))
    assert "it is the unbroken run bit for bit: same machine class, threads and versions" in said_on_resume(tmp_path)
    event = read_run(tmp_path)[1][-2]
    assert (event["event"], event["step"]) == ("resumed", 2)
    assert event["guarantee"].startswith("it is the unbroken run bit for bit")


def test_what_the_program_chose_is_not_chosen_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"float32": 1e9, "bfloat16": 1e9}
    monkeypatch.setattr(
        "dougong.core.device.matmul_peak", lambda device, dtype, *rest: peaks[str(dtype).removeprefix("torch.")]
    )
    fit(job(tmp_path, Small(), steps=2, precision="auto", compile="auto"))
    assert load(Store(tmp_path / "checkpoints").newest()).scalars["decisions"] == {
        "precision": "fp32",
        "compile": False,
    }
    peaks["bfloat16"] = 9e9  # measured otherwise now
    monkeypatch.setattr("dougong.train.blocks.WORTH_STEPS", 1)
    options = {"precision": "auto", "compile": "auto"}
    assert "bit for bit: same" in said_on_resume(tmp_path, **options)
    monkeypatch.setattr(checkpointers.Checkpointer, "find", forgetful(checkpointers.Checkpointer.find))
    with pytest.raises(UsageError, match=r"train\.precision: was fp32, is bf16"):
        said_on_resume(tmp_path, **options)


def forgetful(find: Callable[..., Any]) -> Callable[..., Any]:
    """The control: what was decided is forgotten."""

    def forgotten(self: Any) -> dict[str, Any]:
        find(self)
        return {}

    return forgotten


def test_with_rewinding_what_is_gone_back_to_may_not_change(tmp_path: Path) -> None:
    options = {"on_nonfinite": "rewind", "checkpoint": {"every": 2}}
    fit(job(tmp_path, Small(), steps=2, **options))
    with pytest.raises(UsageError, match=r"\n  train\.checkpoint\.every: was 2, is 4"):
        fit(job(tmp_path, Small(), steps=4, resume=True, **{**options, "checkpoint": {"every": 4}}))
    fit(job(tmp_path, Small(), steps=4, resume=Resume(["train.checkpoint.every"]),
            **{**options, "checkpoint": {"every": 4}}))  # fmt: skip


def test_without_the_comparison_a_changed_run_would_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(job(tmp_path, Small(), steps=2))
    with pytest.raises(UsageError, match="E-CHANGED|train.seed"):
        fit(job(tmp_path, Small(), steps=3, resume=True, seed=5))
    monkeypatch.setattr(checkpointers, "permitted", lambda before, now, allow: Changes())
    assert fit(job(tmp_path, Small(), steps=3, resume=True, seed=5)).steps == 3
