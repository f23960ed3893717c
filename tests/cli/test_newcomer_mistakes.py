"""Mistakes that a newcomer makes, each with its one-sentence answer and exit code."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dougong.core.log import listening
from dougong.run import train
from tests.tiny import TEXT, write_recipe

Prepare = Callable[[Path], None]


def nothing(folder: Path) -> None:
    """The mistake needs no files."""


def a_recipe(**changes: Any) -> Prepare:
    return lambda folder: write_recipe(folder, **changes) and None


def a_run(folder: Path) -> None:
    (folder / "mine").mkdir()
    write_recipe(folder).rename(folder / "mine" / "recipe.yaml")
    (folder / "tiny.yaml").write_bytes((folder / "mine" / "recipe.yaml").read_bytes())


def a_text(content: bytes, name: str = "tiny.txt") -> Prepare:
    def prepare(folder: Path) -> None:
        write_recipe(folder)
        (folder / name).write_bytes(content)

    return prepare


def pickled_weights(folder: Path) -> None:
    (folder / "theirs").mkdir()
    (folder / "theirs" / "config.json").write_text(
        '{"model_type": "gpt2", "vocab_size": 9, "n_positions": 8, "n_layer": 1, "n_head": 1, "n_embd": 8}'
    )
    (folder / "theirs" / "pytorch_model.bin").write_bytes(b"\x80\x04.")


MISTAKES: list[tuple[str, Prepare, list[str], int, str]] = [
    (
        "misspells a recipe",
        nothing,
        ["train", "gpt-stdlb"],
        2,
        "error[E-RECIPE]: 'gpt-stdlb' is not a recipe. Did you mean gpt-stdlib?",
    ),
    (
        "misspells a verb",
        nothing,
        ["trian", "gpt-stdlib"],
        2,
        "error[E-USAGE]: 'trian' is not a verb. Did you mean train?",
    ),
    (
        "misspells an option",
        nothing,
        ["train", "gpt-stdlib", "--rezume"],
        2,
        "error[E-USAGE]: --rezume is not an option of dougong train. Did you mean --resume?",
    ),
    (
        "misspells a key",
        nothing,
        ["train", "gpt-stdlib", "--set", "train.stesp=5"],
        2,
        "error[E-RECIPE]: --set train.stesp=5: train.stesp is not an option. Did you mean train.steps?",
    ),
    (
        "forgets the recipe",
        nothing,
        ["train"],
        2,
        "error[E-USAGE]: dougong train needs RECIPE, but it is absent. See: dougong train --help",
    ),
    (
        "gives a word for a number",
        nothing,
        ["train", "gpt-stdlib", "--set", "train.steps=many"],
        2,
        "error[E-RECIPE]: --set train.steps=many: train.steps must be an integer, but is 'many'.",
    ),
    (
        "forgets the equals sign",
        nothing,
        ["train", "gpt-stdlib", "--set", "train.steps"],
        2,
        "error[E-USAGE]: --set must have the form path=value, such as train.steps=500, but is 'train.steps'.",
    ),
    (
        "takes heads that do not divide the width",
        a_recipe(model={"num_heads": 3}),
        ["train", "tiny.yaml"],
        2,
        "error[E-RECIPE]: tiny.yaml:2: model.num_heads must divide dim, but 16 % 3 is 1. Try 2 or 4, or set head_dim.",
    ),
    (
        "names a text that is not there",
        nothing,
        ["train", "gpt-shakespeare"],
        2,
        "error[E-PATH]: input.txt does not exist. Check the path. Or name yours: --set 'data.sources[0].paths=[FILE]'",
    ),
    (
        "gives an empty text",
        a_text(b""),
        ["train", "tiny.yaml"],
        3,
        "error[E-FILE]: {folder}/tiny.txt must hold text, but is empty. Leave it out, or fill it.",
    ),
    (
        "gives a text that is too short",
        a_text(b"a few words"),
        ["train", "tiny.yaml"],
        3,
        "error[E-FILE]: the training text of {folder}/tiny.txt must have more tokens than the context of 16, but has ",
    ),
    (
        "starts the same run again",
        a_run,
        ["train", "tiny.yaml", "--run", "mine"],
        2,
        "error[E-EXISTS]: mine must be a new run folder, but holds a run. Add --resume to go on with it, "
        "or choose another with --run FOLDER.",
    ),
    (
        "generates before training",
        nothing,
        ["generate", "gpt-stdlib", "def "],
        2,
        "error[E-PATH]: gpt-stdlib must have a run in runs, but has none. Train it first, or name a run's folder.",
    ),
    (
        "evaluates an unfinished run",
        a_run,
        ["evaluate", "mine"],
        2,
        "error[E-PATH]: mine must hold a finished run, but has no model yet. Go on with: dougong train mine --resume",
    ),
    (
        "asks for a device that is absent",
        a_recipe(train={"device": "tpu"}),
        ["train", "tiny.yaml"],
        2,
        "error[E-USAGE]: device must be one this machine has (cpu), but is 'tpu'. Try device: auto.",
    ),
    (
        "gives a wrong number to generate",
        nothing,
        ["generate", "x", "--top-k", "0"],
        2,
        "error[E-USAGE]: --top-k must be at least 1, but is 0.",
    ),
    (
        "plans nothing",
        nothing,
        ["plan"],
        2,
        "error[E-USAGE]: plan needs a recipe, or --calibrate. Try: dougong plan gpt-stdlib",
    ),
    (
        "plans for a device that nobody makes",
        nothing,
        ["plan", "gpt3-small", "--devices", "8xh1000"],
        2,
        "error[E-USAGE]: devices must be of a known kind, but are of 'h1000'. Did you mean h100?",
    ),
    (
        "forgets which devices",
        nothing,
        ["plan", "gpt3-small", "--devices", "8"],
        2,
        "error[E-USAGE]: devices must name a kind, but are '8'. Try 8xh100.",
    ),
    (
        "draws a photograph",
        nothing,
        ["plan", "gpt-stdlib", "--diagram", "model.png"],
        2,
        "error[E-USAGE]: a diagram's file must end in .svg, but is model.png. Try model.svg.",
    ),
    (
        "plans with a vocabulary that the data decides",
        a_recipe(),
        ["plan", "tiny.yaml"],
        2,
        "error[E-USAGE]: model.vocab_size must be known to count, but is decided by the data when it is read. Set it ",
    ),
    (
        "plans a model that does not fit together",
        nothing,
        [
            "plan",
            "gpt-stdlib",
            "--set",
            "model={name: stack, max_seq_len: 9, stages: [{embed: 8}, {gru: 8}, classify]}",
        ],
        2,
        "error[E-RECIPE]: ",
    ),
    (
        "generates from a folder of pickled weights",
        pickled_weights,
        ["generate", "theirs", "a"],
        3,
        "error[E-UNTRUSTED]: ",
    ),
]


@pytest.mark.parametrize(("mistake", "prepare", "command", "code", "sentence"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_newcomer_who(
    mistake: str, prepare: Prepare, command: list[str], code: int, sentence: str, tmp_path: Path, dougong: Any
) -> None:
    prepare(tmp_path)
    answer = dougong(*command)
    assert answer.sentence.startswith("dougong: " + sentence.format(folder=tmp_path))
    assert answer.code == code
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.err.count("error[") == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, `tiny.yaml`, and a run of it, `mine`."""
    folder = tmp_path_factory.mktemp("trained")
    quiet = {"log": {"trackers": []}, "samples": {"prompts": []}}
    with pytest.MonkeyPatch.context() as patch, listening(lambda line: None):
        patch.setenv("DOUGONG_CACHE", str(folder / "cache"))
        train(write_recipe(folder, train=quiet), run=folder / "mine")
    return folder


def damaged(folder: Path) -> None:
    path = folder / "mine" / "checkpoints" / "step-00000008" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def unsealed(folder: Path) -> None:
    for path in (folder / "mine" / "checkpoints").glob("*/manifest.json"):
        path.unlink()


def widened(folder: Path) -> None:
    path = folder / "mine" / "recipe.yaml"
    path.write_text(path.read_text().replace("dim: 16", "dim: 32"))


def forgotten(folder: Path) -> None:
    (folder / "mine" / "recipe.yaml").unlink()


MORE = ["--set", "train.steps=10"]
MISTAKES_WITH_A_RUN: list[tuple[str, Prepare, list[str], int, str]] = [
    (
        "changes the seed of a run",
        nothing,
        ["train", "mine", "--resume", "--set", "train.seed=3"],
        2,
        "error[E-CHANGED]: a resumed run must be the one that was begun, but differs in 1 of its fields:\n"
        "  train.seed: was 0, is 3\nUndo the changes, start a new run, or permit it with --allow train.seed.\n",
    ),
    (
        "edits the recipe of a run",
        widened,
        ["train", "mine", "--resume", *MORE],
        2,
        "error[E-CHANGED]: a resumed run must be the one that was begun, but differs in 1 of its fields:\n"
        "  model.dim: was 16, is 32\n",
    ),
    (
        "misspells what may differ",
        nothing,
        ["train", "mine", "--resume", "--allow", "train.sed"],
        2,
        "error[E-USAGE]: --allow train.sed must name a field of the run, but there is none. Did you mean train.seed?\n",
    ),
    (
        "allows changes to a run that is not gone on with",
        nothing,
        ["train", "mine", "--allow", "train.seed"],
        2,
        "error[E-USAGE]: --allow has no effect without --resume. Add --resume.\n",
    ),
    (
        "forgets what is allowed",
        nothing,
        ["train", "mine", "--resume", "--allow"],
        2,
        "error[E-USAGE]: --allow needs a value, but nothing follows it.\n",
    ),
    (
        "goes on from a damaged checkpoint",
        damaged,
        ["train", "mine", "--resume", *MORE],
        3,
        "error[E-CORRUPT]: mine/checkpoints/step-00000008/model.safetensors must have sha256 ",
    ),
    (
        "removes the manifests",
        unsealed,
        ["train", "mine", "--resume", *MORE],
        3,
        "error[E-CORRUPT]: mine/checkpoints/step-00000008/manifest.json must be there, but is not.",
    ),
    (
        "trains into the model's folder",
        nothing,
        ["train", "tiny.yaml", "--run", "mine/model"],
        2,
        "error[E-EXISTS]: mine/model must be a run folder or empty, but holds README.md and no recipe.yaml.",
    ),
    (
        "goes on with a run whose recipe is gone",
        forgotten,
        ["train", "mine", "--resume"],
        2,
        "error[E-PATH]: mine must be a run folder, but has no recipe.yaml.",
    ),
    (
        "keeps one checkpoint",
        nothing,
        ["train", "tiny.yaml", "--set", "train.checkpoint.keep=1"],
        2,
        "error[E-RECIPE]: --set train.checkpoint.keep=1: train.checkpoint.keep must be at least 2, but is 1.\n",
    ),
    (
        "ignores what is not finite",
        nothing,
        ["train", "tiny.yaml", "--set", "train.on_nonfinite=ignore"],
        2,
        "error[E-RECIPE]: --set train.on_nonfinite=ignore: train.on_nonfinite must be 'stop', 'skip' or 'rewind', ",
    ),
    (
        "gives two recipes",
        nothing,
        ["train", "tiny.yaml", "mine"],
        2,
        "error[E-USAGE]: dougong train takes fewer words, but has mine as well. Leave it out, or put ",
    ),
    (
        "forgets which verb of checkpoint",
        nothing,
        ["checkpoint"],
        2,
        "error[E-USAGE]: dougong checkpoint needs a verb, but it is absent. Known: list, verify, diff, prune.\n",
    ),
    (
        "misspells a verb of checkpoint",
        nothing,
        ["checkpoint", "verfy", "mine"],
        2,
        "error[E-USAGE]: 'verfy' is not a verb. Did you mean verify?\n",
    ),
    (
        "verifies a damaged run",
        damaged,
        ["checkpoint", "verify", "mine"],
        3,
        "error[E-CORRUPT]: mine/checkpoints/step-00000008/model.safetensors must have sha256 ",
    ),
    (
        "prunes all checkpoints",
        nothing,
        ["checkpoint", "prune", "mine", "--keep", "0"],
        2,
        "error[E-USAGE]: --keep must be at least 1, but is 0. The newest checkpoint always stays.\n",
    ),
    (
        "compares a run with its model",
        nothing,
        ["diff", "mine", "mine/model"],
        2,
        "error[E-PATH]: mine/model must be a run folder, but has no recipe.yaml. Name another.\n",
    ),
    (
        "compares a run with nothing",
        nothing,
        ["diff", "mine"],
        2,
        "error[E-USAGE]: dougong diff needs RUN_B, but it is absent. See: dougong diff --help\n",
    ),
    (
        "imports a run",
        nothing,
        ["import", "mine", "--to", "theirs"],
        2,
        "error[E-PATH]: mine must hold pytorch_model.bin or pytorch_model.bin.index.json, but does not.",
    ),
    (
        "imports into nowhere",
        nothing,
        ["import", "tiny.yaml"],
        2,
        "error[E-USAGE]: dougong import needs --to FOLDER, but it is absent. See: dougong import --help\n",
    ),
    (
        "imports a text",
        nothing,
        ["import", "tiny.txt", "--to", "theirs"],
        3,
        "error[E-FILE]: tiny.txt must be a file of torch.save, but does not begin like one.",
    ),
    (
        "checks a model",
        nothing,
        ["check", "mine/model"],
        2,
        "error[E-PATH]: mine/model must be a run folder, but has no recipe.yaml. Name another.\n",
    ),
]


@pytest.mark.parametrize(
    ("mistake", "change", "command", "code", "sentence"), MISTAKES_WITH_A_RUN, ids=[m[0] for m in MISTAKES_WITH_A_RUN]
)
def test_a_newcomer_with_a_run_who(
    mistake: str,
    change: Prepare,
    command: list[str],
    code: int,
    sentence: str,
    trained: Path,
    tmp_path: Path,
    dougong: Any,
) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    change(tmp_path)
    answer = dougong(*command)
    told = answer.err[answer.err.index("dougong: error") :].removeprefix("dougong: ")
    assert told.startswith(sentence)
    assert (answer.code, answer.out, "Traceback" in answer.err) == (code, "", False)


def test_there_are_at_least_ten_mistakes() -> None:
    assert len(MISTAKES) >= 10


def test_a_newcomer_who_gives_a_half_written_gzip_file(tmp_path: Path, dougong: Any) -> None:
    (tmp_path / "half.txt.gz").write_bytes(gzip.compress(TEXT.encode())[:2000])
    write_recipe(tmp_path)
    answer = dougong("train", "tiny.yaml", "--set", "data.sources[0].paths=[half.txt.gz]")
    assert answer.code == 3
    assert "half.txt.gz" in answer.sentence


def test_no_mistake_is_found_where_there_is_none(tmp_path: Path, dougong: Any) -> None:
    write_recipe(tmp_path)
    answer = dougong("train", "tiny.yaml", "--set", "train.steps=1", "--json")
    assert (answer.code, answer.json["steps"]) == (0, 1)
