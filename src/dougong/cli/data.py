"""`dougong data`: parses, calls, prints."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from dougong.cli.options import Json, Overrides, Source, integer


def data(
    source: Source,
    show: Annotated[
        bool,
        typer.Option("--show", help="Show the first training examples as the model sees them."),
    ] = False,
    to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--to", metavar="FILE", help="The file for the pictures; absent: examples.png here."),
    ] = None,
    count: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--count", metavar="INTEGER", parser=integer, help="How many examples to show; absent: 24."),
    ] = None,
    validation: Annotated[bool, typer.Option("--validation", help="Show those that are kept apart instead.")] = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Read a recipe's data, and tell what it holds: source, licence, classes, what was read, used and left aside.

    With --show its first examples, in the order of training and changed at random as the recipe says, are put into one
    picture with their classes and boxes, or printed if they are text.
    """
    from dougong.cli.output import show_json, show_table
    from dougong.core.errors import UsageError
    from dougong.recipe import load

    if not show and (to is not None or count is not None or validation):
        raise UsageError("--to, --count and --validation have no effect without --show. Add it.")
    count = 24 if count is None else count
    if count < 1:
        raise UsageError(f"--count must be at least 1, but is {count}.")
    load(source, overrides or ())  # what is wrong in it is told before numpy and torch are imported
    from dougong.run.showing import show as show_data

    found = show_data(source, to or "examples.png", count if show else 0, validation, overrides or ())
    sheet: dict[str, Any] = {} if found.sheet is None else {"sheet": str(found.sheet)}
    if json:
        show_json({**found.facts, **sheet, **({"examples": list(found.texts)} if found.texts else {})})
        return
    counts = found.facts["counts"]
    show_table({key: value for key, value in found.facts.items() if key != "counts"})
    for each in counts:
        print()
        show_table(each)
    for text in found.texts:
        print(f"\n{text}")
    if sheet:
        print(f"\nThe examples: {found.sheet}")
