"""The table of faults in `docs/reliability.md`, written at the end of a test run that ran every one of them.

A row is a file `test_NN_name.py`. The first paragraph of its docstring says what breaks and what is promised; its tests
say whether that holds. The page has no dates and no timings, so it changes only when a promise or a result does.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "tests" / "faults"
PAGE = ROOT / "docs" / "reliability.md"
_FORM = re.compile(r"Row (\d+): (.+?)\. Promise: (.+?)\.?")
_CONTROL = "test_without_"

INTRODUCTION = """\
# What happens when something breaks

Each row is a fault that training meets sooner or later, what dougong promises to do then, and a file of tests that
brings the fault about and looks. A promise is not believed because a test passes: each file has **controls**, tests
that switch the protection off and see the fault strike. This page is written by the test run itself; a row that fails
says so here.

To break something yourself:

```sh
make test ARGS="tests/faults/test_20_bad_recipes.py"
```

Numbers that are missing belong to what is not built yet: several machines, serving, privacy.

"""


@dataclass(frozen=True)
class Row:
    """One fault: its number, what breaks, what is promised, and the file that shows it."""

    number: int
    fault: str
    promise: str
    file: str


def rows(folder: Path) -> list[Row]:
    """Returns the rows of a folder, in their order.

    Raises:
        ValueError: A docstring does not begin with a row.
    """
    return sorted((_row(path) for path in folder.glob("test_[0-9][0-9]_*.py")), key=lambda row: (row.number, row.file))


def _row(path: Path) -> Row:
    paragraph = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    found = _FORM.fullmatch(" ".join(paragraph.split()))
    if found is None or int(found[1]) != int(path.name[5:7]):
        raise ValueError(f"{path.name} must begin with `Row {path.name[5:7]}: fault. Promise: promise.`, but does not")
    return Row(int(found[1]), found[2], found[3], path.name)


@dataclass(frozen=True)
class Outcome:
    """How one test ended: "passed", "failed" or "skipped", and why it was skipped."""

    how: str
    reason: str = ""


Outcomes = Mapping[str, Mapping[str, Outcome]]  # by file and test


def result(outcomes: Mapping[str, Outcome]) -> str:
    """Returns what the tests of a row came to."""
    named = {how: [test for test, outcome in outcomes.items() if outcome.how == how] for how in ("passed", "failed")}
    if named["failed"]:
        return f"**failed**: {len(named['failed'])} of {len(outcomes)} tests"
    reasons = sorted({outcome.reason for outcome in outcomes.values() if outcome.how == "skipped"})
    skipped = f"{len(outcomes) - len(named['passed'])} skipped ({'; '.join(reasons)})" if reasons else ""
    if not named["passed"]:
        return skipped or "not run in the last run of all tests"
    controls = sum(test.startswith(_CONTROL) for test in named["passed"])
    passed = f"{len(named['passed'])} passed, {controls} of them controls" if controls else "**no control passed**"
    return f"{passed}; {skipped}" if skipped else passed


def page(found: list[Row], outcomes: Outcomes) -> str:
    """Returns the page."""
    lines = ["| row | what breaks | what is promised | shown by | result |", "| --- | --- | --- | --- | --- |"]
    for row in found:
        came_to = result(outcomes.get(row.file, {}))
        cells = (f"{row.number:02}", row.fault, row.promise, f"`tests/faults/{row.file}`", came_to)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text[:1].upper() + text[1:].replace("|", "\\|")


class Reliability:
    """A pytest plugin that writes the page. Under xdist it works where all reports arrive."""

    def __init__(self, folder: Path = ROWS, target: Path = PAGE):
        self.folder, self.target = folder, target
        self.outcomes: dict[str, dict[str, Outcome]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes note of how a test ended; a fixture that fails is a test that fails."""
        file, _, test = report.nodeid.partition("::")
        path = Path(file)
        if path.parent.name != self.folder.name or not re.match(r"test_\d\d_", path.name):
            return
        tests = self.outcomes.setdefault(path.name, {})
        if report.failed or report.skipped or (report.when == "call" and tests.get(test) is None):
            reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
            tests[test] = Outcome(report.outcome, reason)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Writes the page, if every row was run completely and something has changed."""
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not self._is_whole(session.config):
            return
        text = page(rows(self.folder), self.outcomes)
        if not self.target.exists() or self.target.read_text(encoding="utf-8") != text:
            with contextlib.suppress(OSError):  # a tree that cannot be written is tested all the same
                self.target.write_text(text, encoding="utf-8")

    def _is_whole(self, config: Any) -> bool:
        """Tells whether nothing left tests out: no selection, no end before the end."""
        given = config.option
        usual = _markers(config.getini("addopts"))
        narrowed = given.keyword or given.deselect or given.markexpr != usual or getattr(given, "lf", False)
        stopped = given.maxfail and any(outcome.how == "failed" for outcome in self._all())
        return not narrowed and not stopped and given.collectonly is False and any(map(self._covers, _paths(config)))

    def _all(self) -> Iterator[Outcome]:
        for tests in self.outcomes.values():
            yield from tests.values()

    def _covers(self, path: Path) -> bool:
        return self.folder.resolve().is_relative_to(path)


def _markers(options: list[str]) -> str:
    """Returns the markers that are left out where nobody asks for others."""
    return options[options.index("-m") + 1] if "-m" in options else ""


def _paths(config: Any) -> list[Path]:
    return [(config.invocation_params.dir / word).resolve() for word in config.args]
