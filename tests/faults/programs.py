"""A suite of one problem, written as often as there are programs to examine, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dougong.run.exam import Examiner, Verdict, allowance
from dougong.run.problems import read_suite

PROMPT = 'def f(x):\n    """Returns the number after x."""\n'
TEST = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(41) == 42\n"
HONEST = "    return x + 1\n"


def problem(task_id: str, /, **changes: Any) -> dict[str, Any]:
    """One line of a suite in HumanEval's form."""
    values = {"task_id": task_id, "prompt": PROMPT, "entry_point": "f", "canonical_solution": HONEST, "test": TEST}
    return {**values, **changes}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def written(folder: Path, bodies: Mapping[str, str]) -> dict[str, Path]:
    """Writes a suite with a problem for each program, and the file of solutions; as `evaluate_code` takes them."""
    return {
        "suite": write_lines(folder / "suite.jsonl", [problem(name) for name in bodies]),
        "solutions": write_lines(
            folder / "solutions.jsonl", [{"task_id": name, "completion": body} for name, body in bodies.items()]
        ),
    }


def kept_verdicts(folder: Path) -> dict[str, tuple[str, str]]:
    """What an evaluation that kept its verdicts in a folder came to: verdict and reason by problem."""
    rows = map(json.loads, (folder / "verdicts.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["task_id"]: (row["verdict"], row["reason"]) for row in rows}


def examined(folder: Path, body: str, limits: Any = None, **changes: Any) -> Verdict:
    """What one program comes to."""
    suite = read_suite(write_lines(folder / "one.jsonl", [problem("one", **changes)]))
    with Examiner(limits or allowance(20)) as examiner:
        return examiner.examine(suite.problems[0], suite.problems[0].program(body))
