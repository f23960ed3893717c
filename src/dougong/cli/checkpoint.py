"""`dougong checkpoint`: four verbs, each of which parses, calls, prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from dougong.cli.options import Json, integer

app = typer.Typer(rich_markup_mode=None, help="List, verify, compare and remove checkpoints.")
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a recipe's name for its newest run.")]


@app.command("list")
def list_(run: Run, json: Json = False) -> None:
    """List a run's checkpoints: step, size, age, whether whole, and why each stays.

    Whole means that the manifest is sound and every file is there with its size. Every byte is checked by: verify.
    """
    from dougong.cli.output import show_json
    from dougong.run.checkpoints import list_checkpoints
    from dougong.train.report import duration

    entries = list_checkpoints(run)
    if json:
        show_json([vars(entry) for entry in entries])
        return
    for entry in entries:
        whole = "whole" if entry.whole else "DAMAGED"
        why = ", ".join(entry.kept) or "not kept: goes with the next save"
        size = f"{entry.bytes / 1e6:,.1f} MB"
        print(f"{entry.step:>10,}  {size:>12}  {duration(entry.age_seconds):>9} ago  {whole:<8} {why}")
        if entry.fault is not None:
            print(f"{'':12}{entry.fault}")


@app.command("verify")
def verify(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A run folder, a checkpoint's, a model's, or a recipe's name.")
    ],
    latest: Annotated[bool, typer.Option("--latest", help="Check the newest checkpoint of a run alone.")] = False,
    json: Json = False,
) -> None:
    """Check every byte of all checkpoints and of the model; exit code 3 names file and tensor of what is damaged."""
    from dougong.cli.output import show_json
    from dougong.run.checkpoints import verify_checkpoints

    checked = verify_checkpoints(source, latest)
    if json:
        show_json({"whole": checked})
        return
    for folder in checked:
        print(f"{folder}: whole")


@app.command("diff")
def diff(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A run folder, whose newest checkpoint is taken, or a checkpoint's.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The other.")],
    bitwise: Annotated[
        bool,
        typer.Option("--bitwise", help="Compare all values: also environment, decisions and identity (the recipe)."),
    ] = False,
    json: Json = False,
) -> None:
    """Compare two checkpoints: exit code 0 if they are equal, 1 if not.

    Tensors are always compared bit by bit. Of the other values, three are left out without --bitwise, as they say how
    and where it was computed, not what came out: environment (versions, machine, threads), decisions (precision and
    compilation, where the recipe leaves them open) and identity (the recipe).
    """
    from dougong.cli.output import show_json
    from dougong.run.checkpoints import diff_checkpoints

    found = diff_checkpoints(first, second, bitwise)
    if json:
        show_json(found.summary())
    else:
        for name, how in found.tensors.items():
            print(f"{name}: {_how(how)}")
        for name, (one, other) in found.scalars.items():
            print(f"{name}: {_short(one)} and {_short(other)}")
        print(f"{found.first} and {found.second}: {'equal' if found.equal else 'different'}")
    if not found.equal:
        raise typer.Exit(1)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _how(how: Mapping[str, Any]) -> str:
    if how["how"] != "values":
        return str(how["how"])
    return f"largest difference {how['max_abs_difference']:.3g}, {how['differing']:,} of {how['of']:,} numbers"


@app.command("prune")
def prune(
    run: Run,
    keep: Annotated[int, typer.Option("--keep", metavar="N", parser=integer, help="How many of the newest stay.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    json: Json = False,
) -> None:
    """Remove the older checkpoints of a run in which no process trains.

    What the recipe keeps besides stays: multiples of keep_every, the best, and the newest multiple of every. So does
    the newest that is whole, whatever else is.
    """
    from dougong.cli.output import show_json
    from dougong.run.checkpoints import prune_checkpoints

    gone = prune_checkpoints(run, keep, dry_run)
    if json:
        show_json({"removed": gone, "dry_run": dry_run})
        return
    steps = ", ".join(f"{step:,}" for step in gone) or "none"
    print(f"{'would be removed' if dry_run else 'removed'}: {steps}")
