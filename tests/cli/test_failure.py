"""Whatever is raised becomes one sentence and an exit code."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from dougong.cli import app
from dougong.cli.failure import explain
from dougong.core import errors

CASES = [
    (errors.FileError("a file."), 3, "E-FILE", "a file."),
    (errors.UntrustedError("a file."), 3, "E-UNTRUSTED", "a file."),
    (errors.ResourceError("the disk.", name="E-DISK"), 4, "E-DISK", "the disk."),
    (errors.NonFiniteError("nan."), 5, "E-NONFINITE", "nan."),
    (errors.Preempted("saved."), 75, "E-PREEMPTED", "saved."),
    (KeyboardInterrupt(), 130, "E-INTERRUPTED", "interrupted before there was a state to save."),
    (MemoryError(), 4, "E-MEMORY", "the memory must hold the model"),
    (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
        4,
        "E-MEMORY",
        "the ",
    ),
    (torch.OutOfMemoryError("CUDA out of memory."), 4, "E-MEMORY", "the memory must hold the model"),
    (
        ValueError("odd\nand long"),
        1,
        "E-BUG",
        "this should not have happened: ValueError: odd. Run it again with DOUGONG",
    ),
]


@pytest.mark.parametrize(("error", "code", "name", "text"), CASES, ids=[f"{c[2]}-{n}" for n, c in enumerate(CASES)])
def test_each_error_has_its_name_sentence_and_code(error: BaseException, code: int, name: str, text: str) -> None:
    failure = explain(error)
    assert (failure.exit_code, failure.name) == (code, name)
    assert failure.text.startswith(text)


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Makes `dougong list` raise."""

    def fail(kind: str | None = None) -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("dougong.run.inventory"), "inventory", fail)


def test_a_traceback_is_shown_on_request_alone(dougong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError("odd"))
    quiet = dougong("list")
    assert quiet.code == 1
    assert quiet.err.count("\n") == 1
    monkeypatch.setenv("DOUGONG_DEBUG", "1")
    loud = dougong("list")
    assert "Traceback" in loud.err
    assert loud.sentence == quiet.sentence


def test_errors_are_json_where_that_is_asked(dougong: Any) -> None:
    for words in (["--json-errors", "train", "gpt-stdlb"], ["train", "gpt-stdlb", "--json-errors"]):
        answer = dougong(*words)
        assert json.loads(answer.err) == {
            "error": {
                "name": "E-RECIPE",
                "message": "'gpt-stdlb' is not a recipe. Did you mean gpt-stdlib?",
                "exit_code": 2,
            }
        }
        assert answer.code == 2
    assert dougong("train", "gpt-stdlb").err.startswith("dougong: error[")


def test_a_reader_who_has_had_enough_is_no_error() -> None:
    # The pipe is closed before anything is written; what would be printed is more than a pipe holds.
    code = "import os; from dougong.cli import main; main(['recipe', '--schema'])"
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert found.stderr == ""
    assert found.returncode == 141


def test_no_words_print_the_help(dougong: Any) -> None:
    from dougong.cli import main

    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 0


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from dougong.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"dougong {__import__('dougong').__version__}\n"


def test_the_version_is_the_one_of_the_project() -> None:
    from importlib.metadata import version

    import dougong as package

    assert package.__version__ == version("dougong")
    assert app is not None
