"""How a failure looks: one sentence on standard error and an exit code; a traceback only with DOUGONG_DEBUG=1.

Knows every kind of error that can reach the top.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

import typer
import typer.main

from dougong.core.errors import DougongError, is_memory

JSON_ERRORS = "--json-errors"
INTERRUPTED, BROKEN_PIPE = 130, 141


class Failure(NamedTuple):
    """What is told: a short name, sentences, and the exit code."""

    name: str
    text: str
    exit_code: int


def run_guarded(app: Any, arguments: Sequence[str]) -> int:
    """Runs the command line and returns the exit code; whatever is raised becomes a sentence."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    as_json = JSON_ERRORS in words[:end]
    words = [word for place, word in enumerate(words) if word != JSON_ERRORS or place > end]
    try:
        # Not `app(words)`: it would catch a broken pipe itself, and leave with the code of an error.
        command: Any = typer.main.get_command(app)
        with command.make_context("dougong", words) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as end:
        return end.exit_code
    except BrokenPipeError:
        # Whoever read our output has had enough. What is left to flush at exit must find an open file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (Exception, KeyboardInterrupt) as error:
        failure = explain(error, app)
        if os.environ.get("DOUGONG_DEBUG") == "1":
            traceback.print_exception(error)
        _tell(failure, as_json)
        return failure.exit_code


def explain(error: BaseException, app: Any = None) -> Failure:
    """Returns what to tell about an error."""
    if isinstance(error, DougongError):
        return Failure(error.name, str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure("E-INTERRUPTED", "interrupted before there was a state to save.", INTERRUPTED)
    if hasattr(error, "format_message"):
        return Failure("E-USAGE", _usage(error, app), 2)
    if is_memory(error):
        return Failure(
            "E-MEMORY",
            f"the memory must hold the model and a microbatch, but is full ({_first_line(error)}). "
            "Lower train.microbatch_size, set train.recompute=true, or take a smaller model or context.",
            4,
        )
    return Failure(
        "E-BUG",
        f"this should not have happened: {type(error).__name__}: {_first_line(error)}. "
        "Run it again with DOUGONG_DEBUG=1 to see where, and report it.",
        1,
    )


def _usage(error: Any, app: Any) -> str:
    """Returns typer's complaint about the words of a command line as a sentence of ours."""
    command = getattr(getattr(error, "ctx", None), "command_path", None) or "dougong"
    kind = type(error).__name__
    option = getattr(error, "option_name", None)
    if kind == "NoSuchOption" and option:
        near = difflib.get_close_matches(option, _options(error), n=1)
        advice = f"Did you mean {near[0]}?" if near else f"See: {command} --help"
        return f"{option} is not an option of {command}. {advice}"
    if kind == "MissingParameter":
        name = getattr(error.param, "metavar", None) or "an argument"
        return f"{command} needs {name}, but it is absent. See: {command} --help"
    if kind == "BadParameter" and error.param is not None:
        return f"{error.param.opts[-1]} {error.message}"
    word = str(error.message).split("'")[1] if str(error.message).startswith("No such command '") else None
    if word is not None:
        names = [command.name for command in app.registered_commands] if app is not None else []
        near = difflib.get_close_matches(word, names, n=1)
        return f"{word!r} is not a verb. " + (f"Did you mean {near[0]}?" if near else f"Known: {', '.join(names)}.")
    return f"{command}: {error.format_message()} See: {command} --help"


def _options(error: Any) -> list[str]:
    command = getattr(getattr(error, "ctx", None), "command", None)
    return [option for parameter in getattr(command, "params", ()) for option in parameter.opts if option[0] == "-"]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__)[:200]


def _tell(failure: Failure, as_json: bool) -> None:
    if as_json:
        error = {"name": failure.name, "message": failure.text, "exit_code": failure.exit_code}
        print(json.dumps({"error": error}, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"dougong: error[{failure.name}]: {failure.text}", file=sys.stderr)
