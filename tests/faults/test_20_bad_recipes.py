"""Row 20: bad recipes. Promise: exit 2 at once, all errors together, the nearest key, value and line; no code is run.

Hostile YAML is refused before it is built: by size, depth, number of values and tags.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from dougong.core.errors import RecipeError
from dougong.recipe import load
from dougong.recipe.document import MAX_BYTES, parse

GOOD = """\
model: {name: gpt, num_layers: 1, num_heads: 2, dim: 16, max_seq_len: 16}
task: {name: language_modeling}
data: {name: text}
train:
  steps: 10
  optimizer: {name: adamw, lr: 1e-3}
"""

# What is changed in the good recipe, and the one complaint that follows.
TAG = "1: model.dim must be plain data, but has the tag "
CHANGES = [
    ("steps: 10", "stesp: 10", "5: train.stesp is not an option. Did you mean train.steps?"),
    ("steps: 10", "steps: ten", "5: train.steps must be an integer, but is 'ten'."),
    ("steps: 10", "steps: 10.5", "5: train.steps must be an integer, but is 10.5."),
    ("steps: 10", "steps: true", "5: train.steps must be an integer, but is true."),
    ("steps: 10", "steps: '10'", "5: train.steps must be an integer, but is '10'."),
    ("steps: 10", "steps: -10", "5: train.steps must be greater than 0, but is -10."),
    ("steps: 10", "steps: 0", "5: train.steps must be greater than 0, but is 0."),
    ("steps: 10", "steps:", "5: train.steps must be an integer, but is null."),
    ("steps: 10", "steps: [1, 2]", "5: train.steps must be an integer, but is [1, 2]."),
    ("steps: 10", "steps: {a: 1}", "5: train.steps must be an integer, but is {'a': 1}."),
    ("steps: 10", "steps: 2024-01-01", "5: train.steps must be an integer, but is '2024-01-01'."),
    ("steps: 10", "steps: 10\n  steps: 11", "6: train.steps is given twice, first on line 5. Keep one."),
    ("steps: 10", "? [a, b]\n  : 1", "5: train must have words as keys, but has a list or section as one. Rename it."),
    ("lr: 1e-3", "lr: nan", "6: train.optimizer.lr must be a number, but is 'nan'."),
    ("lr: 1e-3", "lr: .nan", "6: train.optimizer.lr must be a finite number, but is nan."),
    ("lr: 1e-3", "lr: .inf", "6: train.optimizer.lr must be a finite number, but is inf."),
    ("lr: 1e-3", "lr: -1e-3", "6: train.optimizer.lr must be greater than 0.0, but is -0.001."),
    ("lr: 1e-3", "lr: 1e-3, beta: [0.9]", "6: train.optimizer.beta is not an option. Did you mean train.opti"),
    ("lr: 1e-3", "betas: [0.9, 1]", "6: train.optimizer.betas[1] must be less than 1.0, but is 1."),
    ("name: adamw", "name: adamww", "6: train.optimizer.name must be a known name, but is 'adamww'. Did you mean a"),
    ("name: adamw, ", "", "6: train.optimizer.name is required, but absent. Known: sgd, adam, adamw, adafactor, muon."),
    ("dim: 16", "dim: -16", "1: model.dim must be greater than 0, but is -16."),
    ("dim: 16", "dim: 15", "1: model.num_heads must divide dim, but 15 % 2 is 1. Try "),
    ("dim: 16", "dim: 1" + "0" * 5000, "1: model.dim must be a number, but is "),
    ("name: gpt,", "name: gtp,", "1: model.name must be a known name, but is 'gtp'. Did you mean gpt?"),
    ("name: gpt,", "name: ../../gpt,", "1: model.name must be a known name, but is '../../gpt'."),
    ("name: gpt,", "name: os.system,", "1: model.name must be a known name, but is 'os.system'."),
    ("name: gpt,", "name: 3,", "1: model.name is required, but absent. Known: "),
    ("name: gpt,", "name: gpt, variant: [gpt2-small],", "1: model.variant must be a variant of gpt, but is ['"),
    ("name: gpt,", "name: gpt, __class__: x,", "1: model.__class__ is not an option."),
    ("name: gpt,", "name: gpt, _target_: os.system,", "1: model._target_ is not an option."),
    ("name: gpt,", "<<: {dropout: 0.1}, name: gpt,", "1: model.<< is not an option."),
    ("name: language_modeling", "name: language_modelling", "2: task.name must be a known name, but is 'language"),
    ("name: text", "name: text, seq_len: 0", "3: data.seq_len must be greater than 0, but is 0."),
    ("name: text", "name: text, sources: []", "3: data.sources must be a list of 1 or more items, but is []."),
    ("name: text", "name: text, sources: {name: files}", "3: data.sources must be a list, but is {'name': 'files'}."),
    ("name: text", "name: text, tokenizer: bpe", "3: data.tokenizer must be a section of keys and values, but is"),
    ("task: {name: language_modeling}\n", "", " task is required, but absent. Add it."),
    ("train:", "trian:", "4: trian is not an option. Did you mean train?"),
    ("steps: 10", "\tsteps: 10", "5: must be YAML, but"),
    ("dim: 16", "dim: 16]", "1: must be YAML, but"),
    ("dim: 16", "dim: *nowhere", "1: must be YAML, but found undefined alias"),
    ("train:", "---\ntrain:", "4: must be YAML, but found another document"),
    ("dim: 16", "dim: !!python/object:os.system {}", TAG),
    ("dim: 16", "dim: !!python/object/apply:os.system ['touch CANARY']", TAG),
    ("dim: 16", "dim: !!python/name:os.system ''", TAG),
    ("dim: 16", "dim: !!python/module:os ''", TAG),
    ("dim: 16", "dim: !secret x", "1: model.dim must be plain data, but has the tag !secret. Remove the tag."),
    ("dim: 16", "dim: !!binary aGk=", "1: model.dim must be plain data, but has the tag !!binary. Remove the tag."),
    ("dim: 16", "dim: !!int many", "1: model.dim must be a number, but is 'many'."),
    ("dim: 16", "dim: ${oc.env:HOME}", "1: must be YAML, but"),
    ("dim: 16", "dim: '{{ 7 * 7 }}'", "1: model.dim must be an integer, but is '{{ 7 * 7 }}'."),
]  # fmt: skip

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
HOSTILE = {
    "alias bomb": (BOMB, "a recipe must hold at most"),
    "alias to itself": ("a: &a [*a]\n", "must be nested at most"),
    "deep list": ("a: " + "[" * 10_000, "must be nested at most"),
    "deep section": ("".join(" " * n + f"k{n}:\n" for n in range(200)), "must be nested at most"),
    "many values": ("a: [" + "1, " * 100_000 + "1]", "a recipe must hold at most"),
    "large": ("a: " + "x" * MAX_BYTES, "must have at most 1,000,000 bytes"),
    "empty": ("", "is empty"),
    "list": ("- a\n- b\n", "must be a section of keys and values"),
    "word": ("word", "must be a section of keys and values"),
    "control letters": ("a: \x00\x01\n", "must be YAML"),
}


def complaints(folder: Path, text: str | bytes) -> list[str]:
    path = folder / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        load(path)
    return [complaint.removeprefix(f"{path}:") for complaint in caught.value.complaints]


def test_the_good_recipe_is_good(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    assert load(tmp_path / "good.yaml").train.steps == 10


@pytest.mark.parametrize(("old", "new", "sentence"), CHANGES, ids=[f"{n}" for n, _ in enumerate(CHANGES)])
def test_one_fault_is_one_sentence_with_its_line(
    old: str, new: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert old in GOOD
    found = complaints(tmp_path, GOOD.replace(old, new, 1))
    assert [text for text in found if text.startswith(sentence)] == found[:1]
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_at_once(name: str, tmp_path: Path) -> None:
    text, sentence = HOSTILE[name]
    before = time.process_time()
    found = complaints(tmp_path, text)
    assert time.process_time() - before < 1.0
    assert len(found) >= 1
    assert sentence in found[0]


def test_text_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    assert "must be UTF-8 text, but byte 3 is not" in complaints(tmp_path, b"a: \xff\xfe\n")[0]


def test_every_fault_of_a_recipe_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("steps: 10", "stesp: 10").replace("1e-3", "nan").replace("dim: 16", "dim: 0")
    assert [line.split(":")[0] for line in complaints(tmp_path, text)] == ["1", "5", "6"]


def test_without_the_limits_the_bomb_would_go_off(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(BOMB.splitlines()[:4])
    with pytest.raises(RecipeError):
        parse(text, "bomb")
    monkeypatch.setattr("dougong.recipe.document.MAX_NODES", 10**9)
    values = parse(text, "bomb").values
    assert str(values).count("x") > 10_000


def test_a_loader_that_builds_objects_would_have_run_code() -> None:
    """The canary sings where a loader obeys tags: ours, asked for the same text, complains instead."""
    import ruamel.yaml

    loud = ruamel.yaml.YAML(typ="safe", pure=True)
    sung: list[str] = []
    loud.constructor.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: sung.append("canary"))
    text = "a: !!python/object/apply:os.system [x]\n"
    loud.load(text)
    assert sung == ["canary"]
    with pytest.raises(RecipeError, match="must be plain data"):
        parse(text, "x")
    assert sung == ["canary"]


# Parses the file as the command line does, without the model's imports, and tells the most memory it had, in kB.
MEASURED = """
import sys
from dougong.cli.failure import explain
from dougong.core.errors import RecipeError
from dougong.recipe.document import MAX_BYTES, parse
try:
    with open(sys.argv[1], "rb") as file:
        parse(file.read(MAX_BYTES + 1), sys.argv[1])
except RecipeError as error:
    print("dougong: error[" + explain(error).name + "]: " + str(error), file=sys.stderr)
    peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(*peak, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's peak memory")
def test_the_command_line_refuses_a_bomb_in_little_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB)
    (tmp_path / "huge.yaml").write_bytes(b"a: " + b"x" * 100_000_000)
    for name in ("bomb.yaml", "huge.yaml"):
        words = [sys.executable, "-c", MEASURED, str(tmp_path / name)]
        found = subprocess.run(words, capture_output=True, text=True, check=False)
        sentence, memory = found.stderr.splitlines()
        assert found.returncode == 2
        assert sentence.startswith("dougong: error[E-RECIPE]: ")
        assert int(memory) < 200_000


def test_reading_a_huge_file_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(10**12)  # a hole: reading it all would never end
    with pytest.raises(RecipeError, match="must have at most"):
        load(path)
