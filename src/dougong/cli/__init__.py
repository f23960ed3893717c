"""The command line: one verb per file, each of which parses, calls and prints.

Knows how results and errors look on a terminal. Imports nothing heavy, so that `--help` is immediate; each verb imports
what it needs when it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from dougong.cli import checkpoint
from dougong.cli.check import check
from dougong.cli.data import data
from dougong.cli.diff import diff
from dougong.cli.doctor import doctor
from dougong.cli.evaluate import evaluate
from dougong.cli.failure import JSON_ERRORS, run_guarded
from dougong.cli.generate import generate
from dougong.cli.import_ import import_
from dougong.cli.list import list_
from dougong.cli.plan import plan
from dougong.cli.predict import predict
from dougong.cli.recipe import recipe
from dougong.cli.train import train

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train)
app.command("check")(check)
app.command("data")(data)
app.command("plan")(plan)
app.command("evaluate")(evaluate)
app.command("generate")(generate)
app.command("predict")(predict)
app.command("import")(import_)
app.command("recipe")(recipe)
app.command("list")(list_)
app.command("diff")(diff)
app.command("doctor")(doctor)
app.add_typer(checkpoint.app, name="checkpoint")


@app.callback()
def dougong(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
    json_errors: Annotated[bool, typer.Option(JSON_ERRORS, help="Print errors as JSON, on standard error.")] = False,
) -> None:
    """Design, train and run large neural models.

    A verb takes a recipe: the name of a shipped one, a file, the folder of a run, or YAML in quotes.
    Begin with: dougong train gpt-stdlib
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and leaves the process with its exit code."""
    given = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if "--version" in given[:1]:
        from importlib.metadata import version

        print(f"dougong {version('dougong')}")
        raise SystemExit(0)
    raise SystemExit(run_guarded(app, given))
