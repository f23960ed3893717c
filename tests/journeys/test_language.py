"""From a recipe to text on the command line, as a stranger would type it; seconds each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.train.report import read_run
from tests.tiny import tiny_recipe, write_recipe

SEEDED = {"steps": 12, "checkpoint": {"every": 4}, "evaluate": {"every": 4}, "samples": {"every": 0}}


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOUGONG_CACHE", str(tmp_path / "cache"))


def typed(*words: str) -> None:
    assert run_guarded(app, words) == 0


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def test_recipe_to_run_to_text_to_figures_to_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(tmp_path, train=SEEDED)
    typed("train", "tiny.yaml")
    assert "runs/tiny-1: done after 12 steps" in capsys.readouterr().out
    typed("generate", "runs/tiny-1", "line ", "--max-new-tokens", "8", "--seed", "1")
    assert capsys.readouterr().out.startswith("line ")
    typed("evaluate", "tiny.yaml", "--json")
    before = json.loads(capsys.readouterr().out)
    typed("train", "runs/tiny-1", "--resume", "--set", "train.steps=40", "--json")
    after = json.loads(capsys.readouterr().out)
    assert after["steps"] == 40
    assert after["metrics"]["loss"] < before["loss"]
    typed("recipe", "runs/tiny-1", "--json")
    assert json.loads(capsys.readouterr().out)["train"]["steps"] == 40


def test_the_model_learns_what_the_text_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(tmp_path, model={"dim": 32, "max_seq_len": 32}, train={**SEEDED, "steps": 150, "batch_size": 16})
    typed("train", "tiny.yaml")
    typed("generate", "tiny.yaml", "line 7: the cat ", "--temperature", "0", "--max-new-tokens", "6")
    assert capsys.readouterr().out.rstrip("\n").endswith("the cat sat on")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_what_a_run_leaves_opens_in_transformers_with_the_same_logits(kind: str, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    import dougong

    llama = {"position": "rotary", "norm": "rmsnorm", "activation": "silu", "gated_mlp": True, "bias": False}
    values = tiny_recipe(tmp_path, model=llama if kind == "llama" else {}, train=SEEDED)
    run = dougong.train(values, run="mine")
    theirs = transformers.AutoModelForCausalLM.from_pretrained("mine/model", dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("mine/model")
    ours = run.load(precision="fp32")
    assert theirs.config.model_type == kind
    assert tokenizer("line 12: the cat")["input_ids"] == ours.tokenizer.encode("line 12: the cat")
    tokens = torch.tensor([ours.tokenizer.encode("line 12: the cat")])
    with torch.inference_mode():
        torch.testing.assert_close(ours.model(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)
    text = theirs.generate(tokens[:, :4], max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(text[0, 4:]) == ours.generate("line", max_new_tokens=8, temperature=0.0)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dougong", "train", "tiny.yaml", "--run", str(folder), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 150
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_saves_the_state_and_the_resumed_run_equals_the_unbroken_one(tmp_path: Path) -> None:
    steps = 600
    train = {**SEEDED, "steps": steps, "checkpoint": {"every": 50}, "evaluate": {"every": 0, "batches": 2}}
    write_recipe(tmp_path, train=train)
    broken = start(tmp_path / "broken")
    wait_for(tmp_path / "broken" / "checkpoints", "step-*", broken)
    broken.send_signal(signal.SIGINT)
    _, told = broken.communicate(timeout=60)
    assert broken.returncode == 75
    last = told.rstrip().split("\n")[-1]
    assert last.startswith("dougong: error[E-PREEMPTED]: SIGINT asked the run to stop; its state is saved at step ")
    assert last.endswith(f"Go on with: dougong train {tmp_path / 'broken'} --resume")
    assert (tmp_path / "broken" / "report.html").exists()
    assert len(read_run(tmp_path / "broken")[0]) < steps
    typed("train", str(tmp_path / "broken"), "--resume")
    typed("train", "tiny.yaml", "--run", str(tmp_path / "whole"))
    resumed, unbroken = weights(tmp_path / "broken"), weights(tmp_path / "whole")
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    numbers = [[step["samples"] for step in read_run(tmp_path / run)[0]] for run in ("broken", "whole")]
    assert numbers[0] == numbers[1]
    assert len(numbers[1]) == steps


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    """The control of the test above: equal weights are no accident."""
    write_recipe(tmp_path, train=SEEDED)
    for seed in ("0", "0", "1"):
        typed("train", "tiny.yaml", "--set", f"train.seed={seed}")
    first, same, other = (weights(tmp_path / "runs" / f"tiny-{number}") for number in (1, 2, 3))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_resumed_run_with_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(tmp_path, train=SEEDED)
    typed("train", "tiny.yaml", "--run", "mine")
    before = (tmp_path / "mine" / "recipe.yaml").read_bytes()
    capsys.readouterr()
    assert run_guarded(app, ["train", "mine", "--resume", "--set", "model.dim=32"]) == 2
    assert "model.dim: was 16, is 32" in capsys.readouterr().err
    assert (tmp_path / "mine" / "recipe.yaml").read_bytes() == before


def test_running_out_of_numbers_is_told_with_code_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(tmp_path, train={**SEEDED, "optimizer": {"name": "sgd", "lr": 1e30}})
    assert run_guarded(app, ["train", "tiny.yaml"]) == 5
    assert "error[E-NONFINITE]" in capsys.readouterr().err
    assert (tmp_path / "runs" / "tiny-1" / "report.html").exists()
