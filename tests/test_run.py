"""The verbs as functions, and the folder that a run leaves behind."""

from __future__ import annotations

import gzip
import importlib
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dougong.core.errors import FileError, ResourceError, UsageError
from dougong.recipe import load as load_recipe
from dougong.run import Run, doctor, evaluate, generate, inventory, load, train
from dougong.run.evaluation import compressed_bits_per_byte
from dougong.run.folder import claimed, find_run, new_run_folder, newest_run_folder
from dougong.run.memory import require_memory
from dougong.run.parts import prepare
from dougong.train.report import read_run
from tests.tiny import tiny_recipe

# What the house lists for a run folder, and what a model folder needs to open elsewhere.
FOLDER = {
    "recipe.yaml", "plan.json", "run.jsonl", "checkpoints", "model", "samples", "tensorboard", "report.html", "lock",
}  # fmt: skip
MODEL = {
    "README.md", "config.json", "generation_config.json", "manifest.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOUGONG_CACHE", str(folder / "cache"))
        return train(tiny_recipe(folder), run=folder / "run")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_folder_has_everything_the_house_lists(finished: Run) -> None:
    assert names(finished.folder) == FOLDER
    assert names(finished.folder / "model") == MODEL
    assert names(finished.folder / "checkpoints") == {"step-00000004", "step-00000008"}
    assert names(finished.folder / "samples") == {"step-00000004.txt", "step-00000008.txt"}
    assert (finished.folder / "samples" / "step-00000008.txt").read_text(encoding="utf-8").startswith("line ")
    assert any((finished.folder / "tensorboard").iterdir())
    assert (finished.folder / "lock").read_text() == ""


def test_the_recipe_in_the_folder_is_complete_and_reads_back(finished: Run) -> None:
    recipe: Any = load_recipe(finished.folder)
    assert recipe == finished.recipe
    assert recipe.model.vocab_size == 257


def test_paths_in_the_folders_recipe_hold_from_anywhere(tmp_path: Path) -> None:
    values = tiny_recipe(tmp_path, train={"steps": 1})
    values["data"]["sources"][0]["paths"] = ["tiny.txt"]
    run = train(values)
    assert str(tmp_path / "tiny.txt") in (run.folder / "recipe.yaml").read_text()


def test_the_plan_is_held_against_what_was_measured(finished: Run) -> None:
    plan = json.loads((finished.folder / "plan.json").read_text())
    steps, events = read_run(finished.folder)
    assert plan["parameters"] == events[0]["parameters"] == sum(plan["parameters_by_block"].values())
    assert plan["tokens"] == sum(step["items"] for step in steps) == 8 * 4 * 16
    assert plan["steps"] == len(steps) == 8
    assert plan["data"]["licence"] == "CC0-1.0"


def test_the_model_card_says_where_the_data_comes_from_and_how_good_it_is(finished: Run) -> None:
    card = (finished.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert "# A tiny model" in card
    assert "license_name: cc0-1.0" in card
    assert "tiny.txt" in card
    assert f"{finished.metrics['bits_per_byte']:.4f}" in card
    assert f"{finished.metrics['xz_bits_per_byte']:.4f}" in card
    assert "8 steps, 512 tokens" in card
    assert "AutoModelForCausalLM.from_pretrained" in card


def test_the_report_shows_the_final_figures_beside_the_compressors(finished: Run) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert f"{finished.metrics['loss']:.4f}" in page
    assert "xz -9, bits per byte" in page
    assert "line " in page


def test_evaluating_the_folder_gives_the_figures_of_the_run(finished: Run) -> None:
    figures = evaluate(finished.folder)
    assert figures == pytest.approx(dict(finished.metrics), rel=1e-5)
    assert {"loss", "perplexity", "bits_per_byte", "gzip_bits_per_byte", "xz_bits_per_byte"} <= set(figures)


def test_evaluating_refuses_data_that_has_changed(tmp_path: Path) -> None:
    run = train(tiny_recipe(tmp_path, train={"steps": 1}))
    (tmp_path / "tiny.txt").write_text("something else entirely " * 2000)
    with pytest.raises(FileError, match="has changed"):
        evaluate(run.folder)


def test_compressors_are_those_of_the_command_line() -> None:
    pieces = [b"the cat sat on the mat " * 200, bytes(range(256)) * 10]

    class Data:
        def raw_validation_bytes(self) -> Iterator[bytes]:
            return iter(pieces)

    text = b"".join(pieces)
    found = compressed_bits_per_byte(Data())
    assert found["gzip"] == pytest.approx(8 * len(gzip.compress(text, 9)) / len(text), abs=0.01)
    assert found["xz"] == pytest.approx(8 * len(lzma.compress(text, preset=9)) / len(text), abs=0.01)
    assert compressed_bits_per_byte(object()) == {}


def test_generating_from_a_run_a_folder_and_a_model_folder_agree(finished: Run) -> None:
    options = {"max_new_tokens": 12, "temperature": 0.0, "precision": "fp32"}
    texts = {generate(source, "line ", **options) for source in (finished, finished.folder, finished.folder / "model")}
    assert len(texts) == 1
    assert isinstance(generate(finished, ["a", "b"], **options), list)


def test_a_loaded_model_has_model_tokenizer_and_config(finished: Run) -> None:
    for language_model in (load(finished), finished.load()):
        assert language_model.config.vocab_size == 257  # type: ignore[attr-defined]
        assert sum(p.numel() for p in language_model.model.parameters()) > 0
        assert language_model.tokenizer.encode("ab") == [97, 98]


def test_an_existing_run_is_not_touched_without_resume(tmp_path: Path) -> None:
    values = tiny_recipe(tmp_path, train={"steps": 2})
    run = train(values, run="mine")
    before = {path: path.read_bytes() for path in sorted(run.folder.rglob("*")) if path.is_file()}
    with pytest.raises(UsageError, match="holds a run. Add --resume to go on with it, or choose another") as caught:
        train(values, run="mine")
    assert caught.value.name == "E-EXISTS"
    assert {path: path.read_bytes() for path in before} == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="holds thesis.txt and no recipe.yaml"):
        train(tiny_recipe(tmp_path), run="mine", resume=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_resuming_a_new_folder_starts_and_a_finished_one_goes_on(tmp_path: Path) -> None:
    values = tiny_recipe(tmp_path, train={"steps": 4})
    first = train(values, run="mine", resume=True)
    assert first.steps == 4
    second = train("mine", resume=True, overrides=["train.steps=6"])
    assert (second.steps, second.folder) == (6, Path("mine"))
    assert [step["step"] for step in read_run(second.folder)[0]] == [1, 2, 3, 4, 5, 6]


def test_resuming_with_other_data_is_refused_before_the_first_step(tmp_path: Path) -> None:
    values = tiny_recipe(tmp_path, train={"steps": 2})
    train(values, run="mine")
    (tmp_path / "tiny.txt").write_text("something else entirely " * 2000)
    with pytest.raises(FileError, match="the data must be what mine began with"):
        train(values, run="mine", resume=True)
    assert len(read_run(tmp_path / "mine")[0]) == 2


def test_runs_are_numbered_and_found_by_their_recipe(tmp_path: Path) -> None:
    assert new_run_folder("a") == Path("runs/a-1")
    for name in ("a-2", "a-10", "ab-30", "a-x"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "recipe.yaml").write_text("x: 1\n")
    assert new_run_folder("a") == Path("runs/a-11")
    assert newest_run_folder("a") == Path("runs/a-10")
    (tmp_path / "runs" / "gpt-stdlib-3").mkdir()
    with pytest.raises(UsageError, match="gpt-stdlib must have a run in runs, but has none"):
        find_run("gpt-stdlib")
    (tmp_path / "runs" / "gpt-stdlib-3" / "recipe.yaml").write_text("x: 1\n")
    assert find_run("gpt-stdlib") == Path("runs/gpt-stdlib-3")
    assert find_run("gpt-stdlib", "runs/a-2") == Path("runs/a-2")


def test_a_run_that_fails_before_it_begins_leaves_no_folder(tmp_path: Path) -> None:
    values = tiny_recipe(tmp_path)
    values["data"]["sources"][0]["paths"] = ["missing.txt"]
    with pytest.raises(UsageError, match="missing.txt does not exist. Check the path. Or name yours: --set"):
        train(values)
    assert not list((tmp_path / "runs").glob("*"))


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    with claimed(mine, resume=False), pytest.raises(UsageError, match=str(os.getpid())), claimed(mine, resume=False):
        pass
    with claimed(tmp_path / "mine", resume=False) as goes_on:
        assert goes_on is False


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model.vocab_size must be at least the data's 257, but is 100"):
        prepare(load_recipe(tiny_recipe(tmp_path, model={"vocab_size": 100})))
    with pytest.raises(UsageError, match="data.seq_len must be at most model.max_seq_len, but 99 > 16"):
        prepare(load_recipe(tiny_recipe(tmp_path, data={"seq_len": 99})))
    assert prepare(load_recipe(tiny_recipe(tmp_path, model={"vocab_size": 300}))).model.vocab_size == 300


def test_a_weight_without_effect_is_refused(tmp_path: Path) -> None:
    values = tiny_recipe(tmp_path, train={"batch_size": "all"})
    values["data"]["sources"][0]["weight"] = 2
    with pytest.raises(UsageError, match="a weight has no effect with train.batch_size all"):
        prepare(load_recipe(values))


def test_full_batches_and_ramps_have_the_sizes_asked_for(tmp_path: Path) -> None:
    whole = prepare(load_recipe(tiny_recipe(tmp_path, train={"batch_size": "all"})))
    assert len(whole.batches()[0]) == len(whole.batches()[1]) == sum(len(part) for part, _ in whole.data.train)
    ramp = {"batch_ramp": {"start": 1, "steps": 3}}
    ramped = prepare(load_recipe(tiny_recipe(tmp_path, train=ramp)))
    assert [len(ramped.batches()[step]) for step in range(5)] == [1, 2, 3, 4, 4]
    assert ramped.items(ramped.recipe.train.steps) == 16 * (1 + 2 + 3 + 4 * 5)


def test_training_starts_from_the_weights_of_a_folder(finished: Run, tmp_path: Path) -> None:
    values = tiny_recipe(
        tmp_path, init_from=str(finished.folder), train={"steps": 1, "optimizer": {"name": "sgd", "lr": 1e-9}}
    )
    del values["model"]
    tuned, fresh = train(values, run="tuned"), train(tiny_recipe(tmp_path, train={"steps": 1}), run="fresh")
    assert tuned.metrics["loss"] == pytest.approx(finished.metrics["loss"], abs=0.05)
    assert fresh.metrics["loss"] > finished.metrics["loss"] + 0.1


def test_ids_that_stand_for_other_words_in_the_folder_are_told(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for tokenizer, told in (("chars", True), ("bytes", False)):
        changes = {"data": {"tokenizer": {"name": tokenizer}}, "train": {"steps": 1}}
        values = tiny_recipe(tmp_path, init_from=str(finished.folder), **changes)
        del values["model"]
        train(values, run=tokenizer)
        said = f"data.tokenizer should be that of {finished.folder / 'model'}, whose weights stand for its words"
        assert (said in capsys.readouterr().err) is told


def test_the_packages_named_as_verbs_can_be_called() -> None:
    import dougong.train.loop

    assert dougong.train.loop.fit is not None  # type: ignore[attr-defined]
    assert callable(dougong.train)
    assert dougong.recipe("gpt-stdlib") == load_recipe("gpt-stdlib")
    assert set(dougong.__all__) <= set(dir(dougong))
    with pytest.raises(AttributeError, match="nothing"):
        dougong.nothing  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, dougong; print(sorted({'torch', 'pydantic', 'typer', 'numpy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_everything_a_recipe_can_name_is_listed() -> None:
    found = inventory()
    assert list(found) == ["recipes", "models", "tasks", "datasets", "sources", "tokenizers", "optimizers", "schedules"]
    assert "gpt2-small" in found["models"]["gpt"]["variants"]
    assert {"sgd", "adam", "adamw", "adafactor", "muon"} == set(found["optimizers"])
    assert set(found["tokenizers"]) == {"bytes", "chars", "bpe", "words", "wordpiece", "file"}
    assert all(line for lines in found.values() for line in lines.values())
    with pytest.raises(UsageError, match="Did you mean models?"):
        inventory("modles")


def test_the_doctor_measures_and_says_what_to_type() -> None:
    found = doctor()
    assert found["devices"]["cpu"]["fp32_flops_per_second"] > 1e8
    assert found["devices"]["cpu"]["bytes_per_second"] > 1e8
    assert found["versions"]["torch"]
    for name, extra in found["extras"].items():
        assert extra["adds"]
        assert extra["install"] == (None if extra["installed"] else f"pip install 'dougong[{name}]'")


def test_the_doctor_knows_every_extra_that_a_user_may_add() -> None:
    import tomllib

    from dougong.run.doctor import EXTRAS

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    declared = project["project"]["optional-dependencies"]
    for_contributors = {"all", "test", "lint", "docs", "bench", "dev"}
    assert set(EXTRAS) == set(declared) - for_contributors
    for name, extra in EXTRAS.items():
        assert [line.split(">")[0].split("[")[0] for line in declared[name]] == list(extra.packages)


def test_a_model_that_can_never_fit_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match=r"must hold 2,793.7 GB of weights, gradients and optimizer state, but has"):
        train("gpt3-175b", device="cpu")
    assert not list(Path("runs").glob("*"))
    monkeypatch.setattr(importlib.import_module("dougong.run.memory"), "memory_of", lambda _: None)
    require_memory(load_recipe("gpt3-175b"))


def test_a_resumed_run_takes_the_recipe_it_is_given(tmp_path: Path) -> None:
    train(tiny_recipe(tmp_path, train={"steps": 2}), run="mine")
    with pytest.raises(UsageError, match="model.dim: was 16, is 32"):
        train(tiny_recipe(tmp_path, model={"dim": 32}, train={"steps": 4}), run="mine", resume=True)
    assert train(tiny_recipe(tmp_path, train={"steps": 4}), run="mine", resume=True).steps == 4
