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
        failure = explain(error)
        if os.environ.get("DOUGONG_DEBUG") == "1":
            traceback.print_exception(error)
        _tell(failure, as_json)
        return failure.exit_code


def explain(error: BaseException) -> Failure:
    """Returns what to tell about an error."""
    if isinstance(error, DougongError):
        return Failure(error.name, str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Failure("E-INTERRUPTED", "interrupted before there was a state to save.", INTERRUPTED)
    if hasattr(error, "format_message"):
        return Failure("E-USAGE", _usage(error), 2)
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


def _usage(error: Any) -> str:
    """Returns typer's complaint about the words of a command line as a sentence of ours."""
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", None) or "dougong"
    kind, option, message = type(error).__name__, getattr(error, "option_name", None), str(error.message)
    if kind == "NoSuchOption" and option:
        near = difflib.get_close_matches(option, _options(context), n=1)
        advice = f"Did you mean {near[0]}?" if near else f"See: {command} --help"
        return f"{option} is not an option of {command}. {advice}"
    if kind == "MissingParameter":
        return f"{command} needs {_wanted(error.param)}, but it is absent. See: {command} --help"
    if kind == "BadParameter" and error.param is not None:
        return f"{error.param.opts[-1]} {message}"
    if "requires an argument" in message:
        return f"{option} needs a value, but nothing follows it."
    if "unexpected extra argument" in message:
        words = message.rpartition("(")[2].rstrip(")")
        return f"{command} takes fewer words, but has {words} as well. Leave it out, or put what has spaces in quotes."
    verbs = list(getattr(getattr(context, "command", None), "commands", ()))
    if message.startswith("Missing command"):
        return f"{command} needs a verb, but it is absent. Known: {', '.join(verbs)}."
    if message.startswith("No such command '"):
        word = message.split("'")[1]
        near = difflib.get_close_matches(word, verbs, n=1)
        return f"{word!r} is not a verb. " + (f"Did you mean {near[0]}?" if near else f"Known: {', '.join(verbs)}.")
    return f"{command}: {error.format_message()} See: {command} --help"


def _wanted(parameter: Any) -> str:
    """Returns how a parameter is written: `RECIPE`, `--to FOLDER`."""
    name = getattr(parameter, "metavar", None) or "a value"
    return f"{parameter.opts[-1]} {name}" if parameter.opts[-1].startswith("-") else name


def _options(context: Any) -> list[str]:
    command = getattr(context, "command", None)
    return [option for parameter in getattr(command, "params", ()) for option in parameter.opts if option[0] == "-"]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__)[:200]


def _tell(failure: Failure, as_json: bool) -> None:
    if as_json:
        error = {"name": failure.name, "message": failure.text, "exit_code": failure.exit_code}
        print(json.dumps({"error": error}, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"dougong: error[{failure.name}]: {failure.text}", file=sys.stderr)
