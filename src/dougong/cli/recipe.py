"""`dougong recipe`: parses, calls, prints."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from dougong.cli.options import Json, Overrides


def recipe(
    source: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="RECIPE", help="A shipped recipe's name, a file, a run folder, or YAML in quotes."),
    ] = None,
    overrides: Overrides = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of all recipes, for editors.")
    ] = False,
    json: Json = False,
) -> None:
    """Print a recipe to edit: dougong recipe gpt-stdlib > mine.yaml.

    A shipped one comes as it is written, with its comments; any other, or a changed one, complete with all defaults.
    """
    from dougong.cli.output import show_json, write
    from dougong.core.errors import UsageError

    if schema:
        from dougong.recipe.recipe import schema_text

        if source is not None or overrides:
            raise UsageError("--schema is that of all recipes: give it alone.")
        print(schema_text())
        return
    if source is None:
        raise UsageError("dougong recipe needs RECIPE, but it is absent. See: dougong list recipes")
    from dougong.recipe import load, shipped_names, shipped_text

    if json:
        show_json(load(source, overrides or ()).values())
    elif source in shipped_names() and not overrides:
        write(shipped_text(source))
    else:
        write(load(source, overrides or ()).to_yaml())
