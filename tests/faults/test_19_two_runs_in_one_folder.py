"""Row 19: two runs in one folder, a run that is there already, a folder or disk that cannot be written. Promise:
refused before anything is allocated, with exit 2 or 4; the process that holds the folder is named; the lock of one that
is gone is recovered; nothing is overwritten.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dougong.core.errors import UsageError
from dougong.run import folder as folders
from tests.tiny import write_recipe


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "DOUGONG_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "dougong", "train", str(folder / "tiny.yaml"), "--run", str(folder / "mine"), *words]


@pytest.fixture
def running(tmp_path: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A run that is well on its way and has long to go."""
    write_recipe(tmp_path, train={"steps": 100_000, "checkpoint": {"every": 20}, "evaluate": {"every": 0}})
    process = subprocess.Popen(command(tmp_path), env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("mine/checkpoints/step-*")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    if process.poll() is None:
        process.kill()
        process.communicate()


def tried(folder: Path, environment: dict[str, str], *words: str) -> tuple[int, str]:
    found = subprocess.run(command(folder, *words), env=environment, capture_output=True, text=True, check=False)
    return found.returncode, found.stderr


def test_the_second_run_is_refused_and_the_killed_one_taken_over(
    running: subprocess.Popen[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    for words in ((), ("--resume",)):
        code, text = tried(tmp_path, environment, *words)
        assert code == 2
        assert text.rstrip().split("\n")[-1].startswith("dougong: error[E-LOCKED]: ")
        assert f"the process {running.pid} is running in it" in text
    assert running.poll() is None
    running.send_signal(signal.SIGKILL)
    running.communicate()
    recipe = (tmp_path / "mine" / "recipe.yaml").read_bytes()
    code, text = tried(tmp_path, environment)
    assert code == 2
    assert "error[E-EXISTS]" in text
    assert (tmp_path / "mine" / "recipe.yaml").read_bytes() == recipe
    steps = max(int(path.name[5:]) for path in tmp_path.glob("mine/checkpoints/step-*"))
    code, text = tried(tmp_path, environment, "--resume", "--set", f"train.steps={steps + 5}")
    assert code == 0, text
    assert f"from step {steps}" in text.replace(",", "")


def test_the_refusal_comes_before_the_data_is_read(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    with folders.claimed(tmp_path / "mine", resume=False):
        (tmp_path / "tiny.txt").unlink()
        from dougong.run import train

        with pytest.raises(UsageError, match=f"the process {os.getpid()} is running in it"):
            train(tmp_path / "tiny.yaml", run=tmp_path / "mine")


def test_a_lock_whose_holder_is_gone_is_recovered(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "lock").write_text("4194304\n")
    with folders.claimed(tmp_path / "mine", resume=False):
        assert (tmp_path / "mine" / "lock").read_text() == f"{os.getpid()}\n"
    assert (tmp_path / "mine" / "lock").read_text() == ""


def test_without_the_lock_two_would_run_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from pathlib import Path; from dougong.run.folder import claimed\n"
        "with claimed(Path(sys.argv[1]), resume=False): print('in')"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "mine")]
    with folders.claimed(tmp_path / "mine", resume=False):
        assert subprocess.run(words, capture_output=True, text=True, check=False).stdout == ""
    monkeypatch.setattr(fcntl, "lockf", lambda *_: None)
    with folders.claimed(tmp_path / "mine", resume=False):
        assert subprocess.run(words, capture_output=True, text=True, check=False).stdout == "in\n"


def test_a_path_that_cannot_be_a_folder_is_refused_with_the_disks_code(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    write_recipe(tmp_path)
    (tmp_path / "mine").write_text("a file")
    code, text = tried(tmp_path, environment)
    assert code in (2, 3, 4)
    assert "Traceback" not in text
    assert (tmp_path / "mine").read_text() == "a file"


def own_mounts(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command with mounts of its own, as the superuser of a namespace of its own."""
    return subprocess.run(["unshare", "-rm", *words], env=environment, capture_output=True, text=True, check=False)


needs_mounts = pytest.mark.skipif(
    shutil.which("unshare") is None
    or own_mounts("mount", "--bind", str(Path(__file__).parent), "/mnt").returncode != 0,
    reason="the system lets nobody mount",
)


@needs_mounts
@pytest.mark.parametrize("words", [(), ("--resume",)], ids=["new", "resumed"])
def test_a_disk_that_can_only_be_read_is_refused_with_code_4(
    words: tuple[str, ...], tmp_path: Path, environment: dict[str, str]
) -> None:
    write_recipe(tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    train = [sys.executable, "-m", "dougong", "train", str(tmp_path / "tiny.yaml"), "--run", str(disk / "mine"), *words]
    read_only = f"mount --bind {disk} {disk} && mount -o remount,bind,ro {disk} && exec {shlex.join(train)}"
    found = own_mounts("bash", "-c", read_only, environment=environment)
    assert found.returncode == 4
    assert found.stderr == (f"dougong: error[E-RESOURCE]: {disk / 'mine'} cannot be written: Read-only file system.\n")
    assert list(disk.iterdir()) == []
    assert not (tmp_path / "cache").exists(), "nothing was prepared before it was refused"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused_with_code_4(tmp_path: Path, environment: dict[str, str]) -> None:
    write_recipe(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "mine").mkdir(mode=0o500)
    code, text = tried(tmp_path, environment)
    assert code == 4
    assert "error[E-PERMISSION]" in text
