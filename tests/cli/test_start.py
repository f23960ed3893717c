"""The command line starts at once."""

from __future__ import annotations

import resource
import subprocess
import sys

HEAVY = ("torch", "numpy", "pydantic", "ruamel.yaml", "tokenizers", "grain", "matplotlib")


def helped(code: str) -> str:
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout + found.stderr


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from dougong.cli import main
try:
    main(["--help"])
except SystemExit:
    print("loaded:", [name for name in {HEAVY} if name in sys.modules])
"""
    assert helped(code).endswith("loaded: []\n")


def test_the_check_for_heavy_imports_finds_one() -> None:
    code = f"import sys, numpy; print('loaded:', [name for name in {HEAVY} if name in sys.modules])"
    assert helped(code) == "loaded: ['numpy']\n"


def test_help_takes_at_most_a_quarter_of_a_second_of_the_processor() -> None:
    """Processor time, least of three: what else runs on the machine does not count."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "dougong", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) <= 0.25
