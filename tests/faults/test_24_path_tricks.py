"""Row 24: path tricks: names that climb out, absolute names, links, pipes, devices, NUL, long names, names that differ
in capitals alone, archives that unpack elsewhere. Promise: exit 3 (2 where the name itself does not exist); what lies
outside a folder is neither read nor changed, and no pipe or device is opened; temporary folders are private.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

import dougong
from dougong.checkpoint import seal, store
from dougong.checkpoint.weights import load_model
from dougong.cli import app
from dougong.cli.failure import run_guarded
from dougong.core import files, log
from dougong.core.errors import DougongError, FileError
from dougong.data.tokenizer import Tokenizer
from dougong.run import importing
from tests.faults import hostile

SECRET = "the secret outside"


class Outside:
    """A folder that nothing may touch: a file, a copy of a sound model, and a pipe that tells whether it was opened."""

    def __init__(self, folder: Path):
        self.folder = hostile.sound_model(folder)
        self.secret, self.pipe = folder / "secret", folder / "pipe"
        self.secret.write_text(SECRET)
        os.mkfifo(self.pipe)
        self.opened = threading.Event()
        self.thread = threading.Thread(target=self._wait, daemon=True)
        self.thread.start()
        self.before = self.state()

    def _wait(self) -> None:
        """Opens the pipe to write, which returns when somebody opens it to read."""
        with self.pipe.open("wb"):
            self.opened.set()

    def state(self) -> dict[str, tuple[int, bytes]]:
        """The content of every file, and when it was last written."""
        found = sorted(path for path in self.folder.iterdir() if path.is_file())
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}

    def untouched(self) -> bool:
        """Tells whether nothing was written, and the pipe not opened."""
        return not self.opened.is_set() and self.state() == self.before

    def close(self) -> None:
        """Lets the thread go."""
        os.close(os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK))
        self.thread.join(5)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    place = Outside(tmp_path / "outside")
    yield place
    place.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return hostile.sound_model(tmp_path / "model")


def indexed(folder: Path, *names: str) -> None:
    """Lets the index map the model's tensors to these files."""
    tensors = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    weight_map = {tensor: names[place % len(names)] for place, tensor in enumerate(tensors)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def linked(folder: Path, name: str, target: Path | str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


# What is done to a sound model folder. Each must be refused when the model, or its tokenizer, is read.
INDEXES: dict[str, list[str]] = {
    "climbs": ["../outside/model.safetensors"],
    "climbs from below": ["sub/../../outside/model.safetensors"],
    "absolute": ["{outside}/model.safetensors"],
    "NUL": ["part.safetensors\0.txt"],
    "long": ["x" * 5000 + ".safetensors"],
    "deep": ["/".join(["d"] * 3000)],
    "no Unicode": ["\ud800.safetensors"],
    "empty": [""],
    "itself": ["."],
    "capitals": ["part.safetensors", "PART.safetensors"],
    "pipe": ["pipe"],
    "folder": ["sub"],
    "device": ["/dev/zero"],
}
LINKS: dict[str, tuple[str, str]] = {
    "weights": ("model.safetensors", "{outside}/model.safetensors"),
    "weights by steps": ("model.safetensors", "../outside/model.safetensors"),
    "weights to a pipe": ("model.safetensors", "{outside}/pipe"),
    "weights to a device": ("model.safetensors", "/dev/zero"),
    "weights in a circle": ("model.safetensors", "model.safetensors"),
    "config": ("config.json", "{outside}/config.json"),
    "config to a pipe": ("config.json", "{outside}/pipe"),
    "tokenizer": ("tokenizer.json", "{outside}/tokenizer.json"),
    "tokenizer to a pipe": ("tokenizer.json", "{outside}/pipe"),
    "settings": ("tokenizer_config.json", "{outside}/tokenizer_config.json"),
}


def read_whole(folder: Path) -> None:
    load_model(folder)
    Tokenizer.from_folder(folder)


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_leads_nowhere_outside(name: str, model: Path, outside: Outside) -> None:
    read_whole(model)
    (model / "sub").mkdir()
    os.mkfifo(model / "pipe")
    indexed(model, *(file.format(outside=outside.folder) for file in INDEXES[name]))
    with pytest.raises(FileError) as caught:
        read_whole(model)
    assert caught.value.exit_code == 3
    assert len(str(caught.value)) < 1000
    assert outside.untouched()


@pytest.mark.parametrize("name", LINKS)
def test_a_link_leads_nowhere_outside(name: str, model: Path, outside: Outside) -> None:
    file, target = LINKS[name]
    linked(model, file, target.format(outside=outside.folder))
    with pytest.raises(FileError) as caught:
        read_whole(model)
    assert caught.value.exit_code == 3
    assert outside.untouched()


def test_a_folder_that_is_a_link_leads_nowhere_outside(model: Path, outside: Outside) -> None:
    linked(model, "sub", outside.folder)
    indexed(model, "sub/model.safetensors")
    with pytest.raises(FileError, match="leads outside"):
        load_model(model)


# Run folders: what a run would read or write through a link.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.sound_run(tmp_path_factory.mktemp("sound"))


def to_secret(mine: Path, name: str, outside: Outside) -> None:
    linked(mine, name, outside.secret)


def hard_linked(mine: Path, name: str, outside: Outside) -> None:
    (mine / name).unlink()
    os.link(outside.secret, mine / name)


def to_pipe(mine: Path, name: str, outside: Outside) -> None:
    linked(mine, name, outside.pipe)


@pytest.mark.parametrize("name", ["lock", "run.jsonl"])
@pytest.mark.parametrize("trick", [to_secret, hard_linked, to_pipe])
def test_a_run_does_not_write_through_a_link(
    trick: Callable[[Path, str, Outside], None], name: str, run: Path, tmp_path: Path, outside: Outside
) -> None:
    mine = hostile.copied(run, tmp_path / "run")
    trick(mine, name, outside)
    with log.listening(lambda text: None):
        assert run_guarded(app, ["train", str(mine), "--resume", "--set", "train.steps=9"]) == 3
    assert outside.secret.read_text() == SECRET
    assert outside.untouched()


def test_a_checkpoint_reads_nothing_outside_it(run: Path, tmp_path: Path, outside: Outside) -> None:
    checkpoint = hostile.copied(run, tmp_path / "run") / "checkpoints/step-00000008"
    outer = outside.folder / "weights"
    outer.write_bytes((checkpoint / "model.safetensors").read_bytes())
    store.load(checkpoint)
    linked(checkpoint, "model.safetensors", outer)
    with pytest.raises(FileError, match="leads outside"):
        store.load(checkpoint)
    listed = {"../../../outside/secret": {"bytes": len(SECRET), "sha256": files.sha256(outside.secret)}}
    (checkpoint / "manifest.json").write_text(seal._text(listed))
    with pytest.raises(FileError):
        store.load(checkpoint)


# Importing


@pytest.mark.parametrize("name", ["../outside/secret", "{outside}/secret", "pipe", "link"])
def test_import_reads_nothing_outside_the_folder(
    name: str, model: Path, outside: Outside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked(model, "link", outside.pipe)
    os.mkfifo(model / "pipe")
    index = {"weight_map": {"a": name.format(outside=outside.folder)}}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    monkeypatch.setattr(importing, "_converted", pytest.fail)
    with pytest.raises(FileError):
        dougong.import_weights(model, tmp_path / "new")
    assert outside.untouched()


def test_import_takes_no_pipe_and_writes_over_nothing(tmp_path: Path, outside: Outside) -> None:
    with pytest.raises(FileError, match="must be a regular file"):
        dougong.import_weights(outside.pipe, tmp_path / "new")
    (tmp_path / "link").symlink_to(tmp_path / "made")
    for target in (outside.folder, tmp_path / "link"):
        with pytest.raises(DougongError, match="must be a new folder, but exists") as caught:
            dougong.import_weights(outside.secret, target)
        assert caught.value.exit_code == 2
    assert outside.untouched()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "outside"]


def test_an_archive_is_not_unpacked_so_its_names_lead_nowhere(tmp_path: Path, outside: Outside) -> None:
    (tmp_path / "a.pt").write_bytes(hostile.saved(hostile.weights()))
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        archive.writestr("../outside/secret", "changed")
        archive.writestr(str(outside.secret), "changed")
    with pytest.raises(FileError, match="must be an archive of one torch.save"):
        dougong.import_weights(tmp_path / "a.pt", tmp_path / "new")
    assert outside.untouched()


def test_tensors_are_only_called_as_they_please(tmp_path: Path, outside: Outside) -> None:
    (tmp_path / "a.pt").write_bytes(hostile.saved({"../outside/secret": hostile.weights()["head.bias"]}))
    dougong.import_weights(tmp_path / "a.pt", tmp_path / "new")
    assert list(load_file(tmp_path / "new/model.safetensors")) == ["../outside/secret"]
    assert outside.untouched()


def test_temporary_folders_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with files.new_folder(tmp_path / "new") as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        os.umask(before)


# Without the protection


def test_without_the_look_at_names_the_outside_is_read(
    model: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(model, "../outside/model.safetensors")
    with pytest.raises(FileError, match="leads outside"):
        load_model(model)
    monkeypatch.setattr(files, "member", lambda folder, name: Path(folder) / name)
    load_model(model)


def test_without_the_look_at_links_the_outside_is_written(
    run: Path, tmp_path: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked(tmp_path, "lock", outside.secret)
    with pytest.raises(FileError, match="is a link"):
        files.open_binary(tmp_path / "lock", "a+b")
    monkeypatch.setattr(files, "_check_writable", lambda path: None)
    with files.open_binary(tmp_path / "lock", "a+b") as file:
        file.truncate(0)
    assert not outside.untouched()


def test_without_the_look_at_the_kind_the_pipe_is_opened(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match="must be a regular file"):
        files.read_bytes(outside.pipe)
    assert not outside.opened.wait(0.2)
    monkeypatch.setattr(files, "_refuse_special", lambda *_: None)
    files.open_binary(outside.pipe).close()
    assert outside.opened.wait(5)
