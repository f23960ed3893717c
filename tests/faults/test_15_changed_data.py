"""Row 15: the data changes between two calls of a run: a byte of a prepared shard, a shard that is missing, the text
itself. Promise: exit 3 before the first step, naming the file with its expected and its found sha256, or the run and
the data it was begun with; the run stays as it was and no epoch is mixed of two texts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from dougong.checkpoint.store import Store, load
from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.data import shards
from dougong.run import training
from dougong.train import checkpointer
from dougong.train.report import read_run
from dougong.train.resume import Changes
from tests.tiny import write_recipe

TRAIN = {
    "steps": 4,
    "evaluate": {"every": 0},
    "samples": {"prompts": []},
    "log": {"trackers": []},
    "checkpoint": {"every": 2},
}


class Told(NamedTuple):
    """How a command ended, and its last words."""

    code: int
    sentence: str


class Case(NamedTuple):
    """A run of four steps, the text that it trains on, and the shards that were made of it."""

    run: Path
    text: Path
    cache: Path

    @property
    def shards(self) -> Path:
        """The folder of the prepared text."""
        [folder] = [path for path in self.cache.glob("shards-*") if path.is_dir()]
        return folder


Go = Callable[[], Told]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOUGONG_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        write_recipe(folder, train=TRAIN, data={"sources": [{"name": "files", "paths": ["tiny.txt"]}]})
        assert run_guarded(app, ["train", "tiny.yaml", "--run", "run"]) == 0
    return folder


@pytest.fixture
def case(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    copied = Path(shutil.copytree(begun, tmp_path / "mine"))
    recipe = copied / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(begun), str(copied)))
    for step in Store(copied / "run" / "checkpoints").steps()[1:]:
        shutil.rmtree(copied / "run" / "checkpoints" / f"step-{step:08d}")
    shutil.rmtree(copied / "run" / "model")
    monkeypatch.setenv("DOUGONG_CACHE", str(copied / "cache"))
    monkeypatch.chdir(copied)
    return Case(copied / "run", copied / "tiny.txt", copied / "cache")


@pytest.fixture
def resume(case: Case, capsys: pytest.CaptureFixture[str]) -> Go:
    def run() -> Told:
        capsys.readouterr()
        code = run_guarded(app, ["train", "run", "--resume"])
        return Told(code, capsys.readouterr().err.rstrip("\n").split("\n")[-1])

    return run


def steps(run: Path) -> list[int]:
    return [record["step"] for record in read_run(run)[0]]


def content(run: Path) -> dict[str, str]:
    """Returns the hash of every file of a run, but for its lock."""
    found = [path for path in sorted(run.rglob("*")) if path.is_file() and path.name not in ("lock", "report.html")]
    return {path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def flip(path: Path, place: int = 1000) -> None:
    """Changes one bit of a file."""
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@pytest.mark.parametrize("name", ["train/tokens-00000.bin", "train/starts.bin", "validation.txt"])
def test_a_changed_bit_of_a_shard_stops_the_run_before_its_first_step(name: str, case: Case, resume: Go) -> None:
    shard = case.shards / name
    expected = sha256(shard)
    flip(shard, 0)
    before = content(case.run)
    told = resume()
    assert told.code == 3
    assert told.sentence == (
        f"dougong: error[E-FILE]: {shard} must have the sha256 {expected}..., but has {sha256(shard)}...: "
        f"it was changed after it was written. Delete {case.shards} to make it again."
    )
    assert content(case.run) == before


def test_a_missing_shard_stops_the_run_and_a_missing_cache_is_made_again(case: Case, resume: Go) -> None:
    shard = case.shards / "train" / "tokens-00000.bin"
    shard.unlink()
    told = resume()
    assert told.code == 3
    assert told.sentence == (
        f"dougong: error[E-FILE]: {shard} must be there, but is missing. Delete {case.shards} to make it again."
    )
    shutil.rmtree(case.shards)
    assert resume().code == 0
    assert steps(case.run) == [1, 2, 3, 4]


def test_a_shard_that_was_changed_with_its_manifest_is_other_data(case: Case, resume: Go) -> None:
    name = "train/tokens-00000.bin"
    flip(case.shards / name)
    manifest = case.shards / "manifest.json"
    values = json.loads(manifest.read_text())
    values["sha256"][name] = hashlib.sha256((case.shards / name).read_bytes()).hexdigest()
    manifest.write_text(json.dumps(values))
    before = content(case.run)
    told = resume()
    assert (told.code, content(case.run)) == (3, before)
    assert told.sentence.startswith("dougong: error[E-DATA]: the data must be what run began with (sha256 ")


@pytest.mark.parametrize("change", ["edited", "longer", "shorter"])
def test_another_text_stops_the_run_before_its_first_step(change: str, case: Case, resume: Go) -> None:
    text = case.text.read_text()
    changed = {"edited": text.replace("cat", "dog"), "longer": text + "more\n", "shorter": text[:-100]}[change]
    case.text.write_text(changed)
    fingerprint = json.loads((case.run / "plan.json").read_text())["data"]["fingerprint"]
    before = content(case.run)
    told = resume()
    assert told.code == 3
    assert told.sentence.startswith(
        f"dougong: error[E-DATA]: the data must be what run began with (sha256 {fingerprint[:12]}), but is "
    )
    assert str(case.text) in told.sentence
    assert content(case.run) == before
    case.text.write_text(text)
    assert resume().code == 0, "the text was put back"


def test_a_text_that_is_gone_is_named(case: Case, resume: Go) -> None:
    case.text.unlink()
    told = resume()
    assert told.code == 2
    assert told.sentence.startswith(f"dougong: error[E-PATH]: {case.text} does not exist. Check the path.")


def weights(run: Path) -> bytes:
    newest = Store(run / "checkpoints").newest()
    assert newest is not None
    tensors = load(newest).tensors["model"]
    return b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))


def test_without_the_hashes_a_run_would_go_on_with_damaged_shards(
    case: Case, resume: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copytree(case.run, case.run.with_name("sound"))
    shard = case.shards / "train" / "tokens-00000.bin"
    raw = bytearray(shard.read_bytes())
    raw[::64] = bytes(byte ^ 1 for byte in raw[::64])
    shard.write_bytes(raw)
    assert resume().code == 3
    monkeypatch.setattr(shards, "_verify", lambda folder, manifest: None)
    assert resume().code == 0
    damaged = weights(case.run)
    shutil.rmtree(case.run)
    shutil.move(copied, case.run)
    shutil.rmtree(case.shards)
    assert resume().code == 0
    assert weights(case.run) != damaged


def test_without_the_fingerprint_one_epoch_would_mix_two_texts(
    case: Case, resume: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.text.write_text(case.text.read_text().replace("cat", "dog"))
    assert resume().code == 3
    monkeypatch.setattr(training, "_require_same_data", lambda *_: None)
    monkeypatch.setattr(checkpointer, "permitted", lambda *_: Changes())
    assert resume().code == 0
    assert steps(case.run) == [1, 2, 3, 4]
