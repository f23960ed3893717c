"""What every test shares: shapes in signatures are checked, randomness is fixed, and real data is found or skipped."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("DOUGONG_CACHE", str(Path(__file__).parent / ".cache"))

from jaxtyping import install_import_hook

install_import_hook("dougong", "beartype.beartype")

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared"


def shared(path: str) -> Path:
    """Returns a file or folder of the shared real data; skips the test, with the reason, where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"the shared data is absent: {path}")
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Lets the run write `docs/reliability.md`; a worker of xdist sees only some of the tests and writes nothing."""
    from tests.faults.reliability import Reliability

    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Reliability(), "reliability")


@pytest.fixture(autouse=True)
def fixed_randomness() -> None:
    """Seeds torch, so that a test that draws its inputs draws the same ones every time."""
    torch.manual_seed(0)
