"""`dougong diff`: parses, calls, prints."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dougong.cli.options import Json


def diff(
    a: Annotated[str, typer.Argument(metavar="RUN_A", help="The folder of a run, finished or not.")],
    b: Annotated[str, typer.Argument(metavar="RUN_B", help="The folder of the run to compare it with.")],
    json: Json = False,
) -> None:
    """Tell what first differs between two runs, and so why they parted.

    From causes to effects: recipe, versions and machine, data, tokenizer, samples, losses, weights. Exits with 0 if the
    runs are equal, and with 1 if not.
    """
    from dougong.cli.output import show_json
    from dougong.run import diff as diff_runs

    found = diff_runs(a, b)
    if json:
        show_json(found.summary())
    else:
        for finding in found.findings:
            print(f"{finding.what:<14}{_VERDICTS[finding.verdict]:<14}{finding.note}".rstrip())
            _show_rows(finding.rows)
        print(found.sentence)
    if not found.equal:
        raise typer.Exit(1)


_VERDICTS = {"same": "same", "differs": "differs", "unknown": "not compared"}


def _show_rows(rows: Any) -> None:
    from dougong.core.config import shown

    width = max((len(name) for name in rows), default=0)
    for name, pair in rows.items():
        print(f"  {name:<{width}}  {shown(pair.a)}, {shown(pair.b)}")
