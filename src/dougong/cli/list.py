"""`dougong list`: parses, calls, prints."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from dougong.cli.options import Json


def list_(
    kind: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="KIND", help="recipes, models, tasks, datasets, sources, tokenizers, optimizers, schedules."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List everything that a recipe can name."""
    from dougong.cli.output import show_json, show_table
    from dougong.run.inventory import inventory

    found = inventory(kind)
    if json:
        show_json(found)
    else:
        show_table(found if kind is None else found[kind])
