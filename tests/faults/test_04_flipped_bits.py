"""Row 04: a flipped bit, a truncated, missing or extra file in a checkpoint or a model folder. Promise: exit 3, naming
the file and the tensor, the expected and the found sha256; nothing damaged is ever loaded silently; `--fallback` takes
the checkpoint before it and says so. 100 random flips over all files: 100 refused.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dougong.checkpoint import seal
from dougong.checkpoint.store import Store, load
from dougong.checkpoint.weights import load_model, load_weights, save_model
from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.core import log
from dougong.core.config import validate
from dougong.core.errors import FileError
from dougong.models.gpt import SMALL, GPTConfig
from dougong.run import verify_checkpoints
from dougong.train.loop import fit
from dougong.train.resume import Resume
from tests.train.small import Small, equal, job, weights

OPTIONS: dict[str, Any] = {
    "steps": 8,
    "optimizer": {"name": "adamw", "lr": 0.02},
    "ema": {"decay": 0.8},
    "checkpoint": {"every": 4},
}
EXTRA = {"tokenizer.json": b'{"model": {}}\n', "README.md": b"# A card\n", "notes/more.json": b"[1, 2]\n"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 8 steps with checkpoints at 4 and 8, and a model folder of two shards."""
    with log.listening(lambda text: None):
        fit(job(tmp_path / "run", Small(), **OPTIONS))
    model = validate(GPTConfig, SMALL["gpt2"]).build()
    model.init_weights(0)
    save_model(model, tmp_path / "run/model", EXTRA, shard_bytes=40_000)
    return tmp_path / "run"


def sealed_files(run: Path) -> list[Path]:
    folders = [run / "checkpoints/step-00000008", run / "model"]
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".md"]


def reading(path: Path) -> Callable[[], Any]:
    """Returns what loads the folder that a file is in."""
    if "checkpoints" in path.parts:
        return lambda: load(path.parent)
    return lambda: load_model(path.parents[1] if path.parent.name == "notes" else path.parent)


def tensor_at(raw: bytes, place: int) -> str:
    """Returns the tensor that a byte of a safetensors file belongs to, found apart from the program."""
    length = int.from_bytes(raw[:8], "little")
    if place < 8 + length:
        return "the header"
    for name, value in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = value["data_offsets"]
            if begin <= place - 8 - length < end:
                return f"the tensor {name},"
    raise AssertionError(place)


def flips(run: Path, count: int) -> Iterator[tuple[Path, bytes, int]]:
    """Flips a bit of a file, gives the file, what it was and where it was flipped, and puts it back."""
    chooser = random.Random(4)
    everything = sealed_files(run)
    for _ in range(count):
        path = chooser.choice(everything)
        whole = path.read_bytes()
        place = chooser.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chooser.randrange(8)]) + whole[place + 1 :])
        yield path, whole, place
        path.write_bytes(whole)


def test_100_of_100_flipped_bits_are_refused_naming_file_and_tensor(run: Path) -> None:
    refused, tensors = 0, 0
    for path, whole, place in flips(run, 100):
        with pytest.raises(FileError) as caught:
            reading(path)()
        text = str(caught.value)
        assert (caught.value.exit_code, caught.value.name) == (3, "E-CORRUPT")
        assert str(path) in text
        assert "sha256" in text
        if path.suffix == ".safetensors":
            assert tensor_at(whole, place) in f"{text},".replace(", but", ",")
            tensors += 1
        refused += 1
    assert refused == 100
    assert tensors > 30
    assert len(verify_checkpoints(run)) == 3


def test_without_hashes_flipped_bits_would_load(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "fault_of_content", lambda folder, terms: None)
    loaded = 0
    for path, whole, place in flips(run, 60):
        if path.suffix == ".safetensors" and tensor_at(whole, place) != "the header":
            reading(path)()
            loaded += 1
    assert loaded > 10


def test_20_truncated_files_are_refused(run: Path) -> None:
    chooser = random.Random(7)
    for _ in range(20):
        path = chooser.choice(sealed_files(run))
        whole = path.read_bytes()
        path.write_bytes(whole[: chooser.randrange(len(whole))])
        with pytest.raises(FileError) as caught:
            reading(path)()
        assert str(path) in str(caught.value)
        assert caught.value.exit_code == 3
        path.write_bytes(whole)


def test_each_file_in_turn_is_missed(run: Path) -> None:
    for path in sealed_files(run):
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(FileError) as caught:
            verify_checkpoints(run)
        assert path.name in str(caught.value)
        if path != run / "model/manifest.json":  # a model folder from elsewhere has none
            with pytest.raises(FileError, match="must be there, but is not"):
                reading(path)()
        path.write_bytes(whole)
    verify_checkpoints(run)


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("checkpoints/step-00000008/more.safetensors", True),
        ("checkpoints/step-00000008/notes.txt", True),
        ("checkpoints/step-00000008/empty/", True),
        ("model/model.safetensors", True),
        ("model/adapter_config.json", True),
        ("model/LICENSE", False),
        ("model/.cache/config.json", False),
    ],
)
def test_an_extra_file_that_could_be_read_is_refused(run: Path, name: str, refused: bool) -> None:
    path = run / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    if refused:
        with pytest.raises(FileError, match=f"must hold only what its manifest lists, but holds {path.name} too"):
            reading(path)()
    else:
        load_model(run / "model")


def test_the_card_may_be_edited_and_removed(run: Path) -> None:
    card = run / "model/README.md"
    card.write_text("# My own words\n")
    load_model(run / "model")
    card.unlink()
    load_model(run / "model")


def test_a_damaged_model_is_not_trained_from(run: Path) -> None:
    path = sorted((run / "model").glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    model = validate(GPTConfig, SMALL["gpt2"]).build()
    with pytest.raises(FileError, match=r"in the tensor .* If the change is meant, remove .*manifest\.json"):
        load_weights(model, run / "model")


def damage(run: Path, step: int) -> None:
    path = run / f"checkpoints/step-{step:08d}/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")


def test_a_run_refuses_a_damaged_checkpoint_and_offers_the_one_before(run: Path) -> None:
    damage(run, 8)
    with pytest.raises(FileError, match=r"in the tensor \S+, but has .* Or go on from step 4: --fallback"):
        fit(job(run, resume=True, **OPTIONS))
    assert Store(run / "checkpoints").steps() == [4, 8]


def test_fallback_takes_the_one_before_says_so_and_ends_the_same(run: Path, tmp_path: Path) -> None:
    damage(run, 8)
    said: list[str] = []
    resumed, unbroken = Small(), Small()
    with log.listening(said.append):
        fit(job(run, resumed, resume=Resume(fallback=True), **OPTIONS))
        fit(job(tmp_path / "unbroken", unbroken, **OPTIONS))
    assert any("step-00000008" in text and "going back to the checkpoint before it" in text for text in said)
    assert "going on from step 4, the newest checkpoint that is whole" in said
    assert equal(weights(resumed), weights(unbroken))
    assert load(Store(run / "checkpoints").newest()).scalars["step"] == 8
    assert (run / "checkpoints/damaged-step-00000008").is_dir(), "what is damaged is set aside, not removed"


def test_nothing_to_fall_back_to_is_no_fresh_start(run: Path) -> None:
    damage(run, 4)
    damage(run, 8)
    with pytest.raises(FileError, match="step-00000004"):
        fit(job(run, resume=Resume(fallback=True), **OPTIONS))


def test_the_command_line_says_it_all(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guarded(app, ["checkpoint", "verify", str(run)]) == 0
    assert capsys.readouterr().out.count(": whole") == 3
    damage(run, 4)
    shutil.copytree(run / "checkpoints/step-00000008", tmp_path / "other")
    assert run_guarded(app, ["checkpoint", "verify", str(run), "--latest"]) == 0
    capsys.readouterr()
    assert run_guarded(app, ["checkpoint", "verify", str(run)]) == 3
    error = capsys.readouterr().err
    assert error.startswith("dougong: error[E-CORRUPT]: ")
    assert "step-00000004/model.safetensors must have sha256" in error
    assert "in the tensor" in error
    assert "Traceback" not in error
    assert run_guarded(app, ["checkpoint", "verify", str(tmp_path / "other")]) == 0
    (tmp_path / "other/optimizer.safetensors").unlink()
    assert run_guarded(app, ["checkpoint", "verify", str(tmp_path / "other")]) == 3
