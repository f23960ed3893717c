"""Each verb prints what it should, for a person and for a machine."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from dougong.recipe import shipped_names, shipped_text
from tests.tiny import write_recipe


def test_recipe_prints_a_shipped_one_with_its_comments(dougong: Any) -> None:
    answer = dougong("recipe", "gpt-stdlib")
    assert answer.out == shipped_text("gpt-stdlib")
    assert "# " in answer.out


def test_recipe_prints_a_changed_one_complete(dougong: Any, tmp_path: Path) -> None:
    answer = dougong("recipe", "gpt-stdlib", "--set", "train.steps=77")
    assert "steps: 77" in answer.out
    assert "label_smoothing: 0.0" in answer.out
    (tmp_path / "mine.yaml").write_text(answer.out)
    assert dougong("recipe", "mine.yaml").out == answer.out
    assert dougong("recipe", "mine.yaml", "--json").json["train"]["steps"] == 77


def test_recipe_takes_inline_text(dougong: Any) -> None:
    answer = dougong("recipe", "{model: {name: gpt, variant: gpt2-small}}", "--json")
    assert answer.json["model"]["dim"] == 768


def test_the_schema_is_json_and_stands_alone(dougong: Any) -> None:
    assert "GPTConfig" in str(dougong("recipe", "--schema").json)
    assert dougong("recipe", "gpt-stdlib", "--schema").code == 2


def test_list_prints_one_kind_or_all(dougong: Any) -> None:
    assert set(dougong("list", "recipes", "--json").json["recipes"]) == set(shipped_names())
    everything = dougong("list").out
    assert all(word in everything for word in ("gpt2-small", "python_library", "adamw", "cosine", "language_modeling"))
    assert dougong("list", "schedules").out.splitlines()[0].startswith("constant")


def test_doctor_prints_figures_with_units(dougong: Any) -> None:
    text = dougong("doctor").out
    assert "GFLOP/s" in text
    assert "GB/s" in text
    assert dougong("doctor", "--json").json["devices"]["cpu"]["bytes_per_second"] > 0


@pytest.fixture
def run(dougong: Any, tmp_path: Path) -> Any:
    write_recipe(tmp_path)
    return dougong("train", "tiny.yaml", "--set", "train.steps=4")


def test_train_prints_where_the_run_is_and_how_good(run: Any, dougong: Any) -> None:
    assert run.code == 0
    assert run.out.startswith("runs/tiny-1: done after 4 steps")
    assert "bits per byte, xz -9" in run.out
    assert "runs/tiny-1/report.html" in run.out
    assert "step 4/4  loss " in run.err
    assert "tokens/s" in run.err
    assert " of peak" in run.err
    assert " left" in run.err


def test_the_newest_run_of_a_recipe_is_meant_by_its_name(run: Any, dougong: Any) -> None:
    dougong("train", "tiny.yaml", "--set", "train.steps=2")
    assert dougong("evaluate", "tiny.yaml", "--json").json == dougong("evaluate", "runs/tiny-2", "--json").json
    named = dougong("evaluate", "tiny.yaml", "--run", "runs/tiny-1", "--json").json
    assert named == dougong("evaluate", "runs/tiny-1", "--json").json
    assert "bits per byte" in dougong("evaluate", "runs/tiny-1").out


def test_generate_prints_the_prompt_and_what_follows(run: Any, dougong: Any) -> None:
    greedy = ("--temperature", "0", "--max-new-tokens", "5", "--precision", "fp32")
    one = dougong("generate", "runs/tiny-1", "line ", *greedy)
    assert one.out.startswith("line ")
    found = dougong("generate", "runs/tiny-1", "line ", "the ", *greedy, "--json").json
    assert [item["prompt"] for item in found] == ["line ", "the "]
    assert one.out == f"line {found[0]['text']}\n"
    assert len(found[0]["tokens"]) == 5
    several = dougong("generate", "runs/tiny-1", "line ", "the ", *greedy).out
    assert several == "".join(f"{item['prompt']}{item['text']}\n\n" for item in found)


def test_generate_reads_the_prompt_from_a_pipe(run: Any, dougong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("the cat"))
    answer = dougong("generate", "runs/tiny-1", "--temperature", "0", "--max-new-tokens", "3", "--json")
    assert answer.json[0]["prompt"] == "the cat"


def test_json_alone_is_on_standard_output(dougong: Any, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    answer = dougong("train", "tiny.yaml", "--set", "train.steps=2", "--json")
    assert answer.json["folder"] == "runs/tiny-1"
    assert answer.json["reason"] == "done"
    assert set(answer.json["metrics"]) >= {"loss", "perplexity", "bits_per_byte"}
