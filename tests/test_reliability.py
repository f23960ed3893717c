"""The page of reliability says what the tests of each row came to, and only where all of them ran."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.reliability import ROWS, Outcome, page, result, rows

GOOD = '''\
"""Row 07: the lights go | out. Promise: a candle
is lit.

More is said here.
"""

def test_candle(): ...
def test_without_matches_it_is_dark(): ...
'''
BAD = '"""Row 09: the cat leaves. Promise: it returns."""\n\ndef test_cat(): assert False\ndef test_dog(): ...\n'
SKIPPED = '''\
"""Row 11: rain. Promise: an umbrella."""
import pytest
def test_umbrella(): ...
def test_without_a_roof(): ...
@pytest.mark.skip(reason="no cellar here")
def test_cellar(): ...
'''
SLOW = '"""Row 10: an ice age. Promise: spring."""\nimport pytest\n@pytest.mark.slow\ndef test_spring(): ...\n'
CONFTEST = """\
from pathlib import Path
import sys
sys.path.insert(0, {root!r})
from tests.faults.reliability import Reliability
def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        here = Path(__file__).parent
        config.pluginmanager.register(Reliability(here / "faults", here / "reliability.md"))
"""
OPTIONS = """\
[pytest]
addopts = -m "not slow"
markers = slow: takes long
"""
PASSED = (
    "| 07 | The lights go \\| out | A candle is lit | `tests/faults/test_07_light.py` | 2 passed, 1 of them controls |"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project with rows of its own."""
    (tmp_path / "pytest.ini").write_text(OPTIONS)
    (tmp_path / "conftest.py").write_text(CONFTEST.format(root=str(ROWS.parents[1])))
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "test_07_light.py").write_text(GOOD)
    (tmp_path / "test_other.py").write_text("def test_other(): ...\n")
    return tmp_path


def left_by(project: Path, *words: str) -> str | None:
    """Returns the page that a test run leaves, if it leaves one."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "xdist", *words]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, cwd=project, env=alone, capture_output=True, check=False)
    target = project / "reliability.md"
    return target.read_text(encoding="utf-8") if target.exists() else None


def table(text: str | None) -> list[str]:
    assert text is not None
    return [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| row", "| ---"))]


@pytest.mark.parametrize("words", [(), ("faults",), ("-n", "2")], ids=["all", "folder", "two processes"])
def test_a_whole_run_writes_the_page(project: Path, words: tuple[str, ...]) -> None:
    assert table(left_by(project, *words)) == [PASSED]


def test_a_row_that_fails_says_so(project: Path) -> None:
    (project / "faults" / "test_09_cat.py").write_text(BAD)
    (project / "faults" / "test_10_ice.py").write_text(SLOW)
    (project / "faults" / "test_11_rain.py").write_text(SKIPPED)
    found = table(left_by(project))
    assert found[0] == PASSED
    assert found[1].endswith("| `tests/faults/test_09_cat.py` | **failed**: 1 of 2 tests |")
    assert found[2].endswith("| Not run in the last run of all tests |")
    assert found[3].endswith("| 2 passed, 1 of them controls; 1 skipped (no cellar here) |")


@pytest.mark.parametrize(
    "words",
    [
        ("-k", "candle"),
        ("test_other.py",),
        ("faults/test_07_light.py::test_candle",),
        ("-m", ""),
        ("--deselect", "faults/test_07_light.py::test_candle"),
        ("--collect-only",),
    ],
    ids=lambda words: words[0],
)
def test_a_run_that_left_something_out_writes_nothing(project: Path, words: tuple[str, ...]) -> None:
    assert left_by(project, *words) is None


@pytest.mark.parametrize("words", [("-x",), ("-x", "-n", "2")], ids=["one process", "two"])
def test_a_run_that_stopped_early_writes_nothing(project: Path, words: tuple[str, ...]) -> None:
    (project / "faults" / "test_09_cat.py").write_text(BAD)
    assert left_by(project, *words) is None


def test_a_page_that_would_be_the_same_is_left_alone(project: Path) -> None:
    left_by(project)
    before = (project / "reliability.md").stat().st_mtime_ns
    left_by(project)
    assert (project / "reliability.md").stat().st_mtime_ns == before


def test_a_fixture_that_fails_is_a_test_that_fails(project: Path) -> None:
    text = GOOD + "import pytest\n@pytest.fixture\ndef dark(): raise ValueError\ndef test_dark(dark): ...\n"
    (project / "faults" / "test_07_light.py").write_text(text)
    assert table(left_by(project))[0].endswith("| **failed**: 1 of 3 tests |")


def test_a_row_without_a_control_is_no_proof() -> None:
    assert result({"test_a": Outcome("passed")}) == "**no control passed**"


def test_a_docstring_of_another_form_is_refused(tmp_path: Path) -> None:
    for text in ('"""The lights go out."""', '"""Row 08: other. Promise: number."""', ""):
        (tmp_path / "test_07_light.py").write_text(text)
        with pytest.raises(ValueError, match=r"test_07_light\.py must begin with `Row 07: fault\. Promise: promise\.`"):
            rows(tmp_path)


def test_the_rows_of_the_project_have_the_form_and_a_control() -> None:
    found = rows(ROWS)
    assert page(found, {}).count("\n| ") == len(found) + 2
    for row in found:
        names = [node.name for node in ast.walk(ast.parse((ROWS / row.file).read_text())) if hasattr(node, "name")]
        assert [name for name in names if str(name).startswith("test_without_")], row.file
