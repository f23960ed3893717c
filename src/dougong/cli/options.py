"""The options that several verbs share, each written once. Knows typer alone."""

from __future__ import annotations

from typing import Annotated, Optional

import typer


def integer(text: str | int) -> int:
    """Reads an integer, or takes it where it is an option's default."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"must be an integer, but is {text!r}.") from None


def number(text: str | float) -> float:
    """Reads a number, or takes it where it is an option's default."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number, but is {text!r}.") from None


Source = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, a file, a run folder, or YAML in quotes.")
]
RunFolder = Annotated[
    Optional[str], typer.Option("--run", metavar="FOLDER", help="The folder of the run.")  # noqa: UP045
]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="PATH=VALUE", help="Change an option of the recipe, such as train.steps=500."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON; all else goes to standard error.")]
