"""Suites of programming problems: the files of HumanEval and of MBPP, read as data.

Knows the two forms and what of each goes where: before the model, into the program, beside the tests. Runs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.core.errors import FileError
from dougong.core.files import parse_json
from dougong.data.reading import raw_chunks

LARGEST = 1 << 28
"""Bytes of the largest suite, or file of solutions, that is read, when unpacked."""
_FUNCTION_ENDS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint")  # Chen et al. 2021, section 3.1
_PROGRAM_ENDS = ("\nassert", '\n"""', "\nprint", "\nif __name__")
_FORMS = (
    "HumanEval's (task_id, prompt, entry_point, test) or MBPP's (task_id, text or prompt, test_list, test_setup_code)"
)


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        task_id: Its name in the suite.
        prompt: What a model goes on from.
        given: What of the program is there before the completion.
        setup: The suite's own code that the tests need; it never holds what a model wrote.
        tests: The tests, as a program.
        names: The functions under test; none: each name that the tests use and the suite does not define.
        stop: A completion ends before one of these.
        reference: The suite's own completion.
    """

    task_id: str
    prompt: str
    given: str
    setup: str
    tests: str
    names: tuple[str, ...]
    stop: tuple[str, ...]
    reference: str

    def program(self, completion: str) -> str:
        """Returns the program that a completion makes."""
        return self.given + completion


@dataclass(frozen=True)
class Suite:
    """The problems of a file, and the sha256 of what the file holds, unpacked."""

    name: str
    problems: tuple[Problem, ...]
    fingerprint: str


def read_suite(path: str | Path) -> Suite:
    """Returns the suite in a file, `.jsonl` or `.jsonl.gz`.

    Raises:
        UsageError: The file does not exist.
        FileError: A line is neither form, or a problem is there twice; or the file is too large, broken or empty.
    """
    path = Path(path)
    problems: dict[str, Problem] = {}
    digest = hashlib.sha256()
    for where, row, raw in _rows(path):
        digest.update(raw + b"\n")
        problem = _problem(row, where)
        if problem.task_id in problems:
            raise FileError(f"{where}: a problem must be there once, but {problem.task_id} is there again. Remove it.")
        problems[problem.task_id] = problem
    if not problems:
        raise FileError(f"{path} must hold problems, one a line, but is empty. Fetch it again.")
    name = path.name.lower().removesuffix(".gz").removesuffix(".jsonl")
    return Suite(name, tuple(problems.values()), digest.hexdigest())


def read_solutions(path: str | Path, suite: Suite) -> dict[str, list[str]]:
    """Returns the completions in a file of `task_id` and `completion`, for each problem in their order.

    Raises:
        UsageError: The file does not exist.
        FileError: A line is no solution, or of no problem of the suite; or a problem has none.
    """
    found: dict[str, list[str]] = {problem.task_id: [] for problem in suite.problems}
    for where, row, _ in _rows(Path(path)):
        task = str(row.get("task_id"))
        if not isinstance(row.get("completion"), str):
            raise FileError(f"{where}: a solution must have the text `completion`, but has none. Add it.")
        if task not in found:
            raise FileError(f"{where}: a solution must be of a problem in {suite.name}, but {task[:80]!r} is none.")
        found[task].append(row["completion"])
    if missing := [task for task, texts in found.items() if not texts]:
        raise FileError(
            f"{path} must have a solution of every problem, but {missing[0]} has none ({len(missing)} have none). "
            "Add one, an empty completion if there is nothing."
        )
    return found


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Yields where each line is, its object, and its bytes."""
    chunks, total = [], 0
    for chunk in raw_chunks(path):
        total += len(chunk)
        if total > LARGEST:
            raise FileError(f"{path} must have at most {LARGEST:,} bytes when unpacked, but has more. Refused.")
        chunks.append(chunk)
    for number, line in enumerate(b"".join(chunks).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise FileError(f"{where}: a line must be a JSON object, but is not: {error}. Fetch it again.") from error
        if not isinstance(row, dict):
            raise FileError(f"{where}: a line must be a JSON object, but is a {type(row).__name__}. Fetch it again.")
        yield where, row, line


def _problem(row: Mapping[str, Any], where: str) -> Problem:
    try:
        return _function(row) if "entry_point" in row else _whole_program(row)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise FileError(f"{where}: a problem must have {_FORMS}, but {reason}. Repair it.") from error


def _function(row: Mapping[str, Any]) -> Problem:
    """Returns a problem of HumanEval's form: the body of a function is to be written below its head."""
    prompt, entry = _text(row, "prompt"), _text(row, "entry_point")
    if not entry.isidentifier():
        raise ValueError(f"entry_point is {entry[:80]!r}, no name of Python")
    return Problem(
        task_id=_name(row),
        prompt=prompt,
        given=prompt,
        setup=prompt,
        tests=f"{_text(row, 'test')}\n\ncheck({entry})\n",
        names=(entry,),
        stop=_FUNCTION_ENDS,
        reference=_text(row, "canonical_solution", ""),
    )


def _whole_program(row: Mapping[str, Any]) -> Problem:
    """Returns a problem of MBPP's form: a whole program is to be written, from what it should do and its tests."""
    imports, tests = _texts(row, "test_imports", ()), _texts(row, "test_list")
    wish = _text(row, "text") if "text" in row else _text(row, "prompt")
    lines = "\n".join(tests)
    return Problem(
        task_id=_name(row),
        prompt=f'"""\n{wish}\n{lines}\n"""\n',
        given="",
        setup="\n".join([*imports, _text(row, "test_setup_code", "")]),
        tests=lines + "\n",
        names=(),
        stop=_PROGRAM_ENDS,
        reference=_text(row, "code", ""),
    )


def _name(row: Mapping[str, Any]) -> str:
    if isinstance(row["task_id"], bool) or not isinstance(row["task_id"], str | int):
        raise TypeError("task_id is neither text nor a number")
    return str(row["task_id"])


def _text(row: Mapping[str, Any], key: str, absent: str | None = None) -> str:
    value = row[key] if absent is None else row.get(key, absent)
    if not isinstance(value, str):
        raise TypeError(f"{key} is no text")
    return value.replace("\r\n", "\n")


def _texts(row: Mapping[str, Any], key: str, absent: tuple[str, ...] | None = None) -> list[str]:
    values = row[key] if absent is None else row.get(key, absent)
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{key} is no list of texts")
    return [value.replace("\r\n", "\n") for value in values]
