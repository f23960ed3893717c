"""The demonstration's recipe, put to the proof as a user would, compiler and processes included."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_every_line_of_gpt_stdlib_is_green(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dougong", "check", "gpt-stdlib", "--json"]
    environment = {**os.environ, "DOUGONG_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {check["name"]: check["verdict"] for check in found["checks"]} == dict.fromkeys(
        (
            "builds", "samples", "gradients", "microbatches", "separate", "randomness", "compiled", "precision",
            "resume", "processes", "initial_loss", "overfit", "memory",
        ),
        "passed",
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"]  # nothing is left behind
