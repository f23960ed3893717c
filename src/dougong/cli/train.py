"""`dougong train`: parses, calls, prints."""

from __future__ import annotations

import shlex
from typing import Annotated, Optional

import typer

from dougong.cli.options import Json, Overrides, RunFolder, Source


def train(
    source: Source,
    run: RunFolder = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run, if there is one.")] = False,
    allow: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--allow", metavar="FIELD", help="With --resume: this field, or section, may differ from before."),
    ] = None,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="With --resume: pass over a damaged checkpoint for the one before it.")
    ] = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Train what a recipe describes.

    Everything goes into the run's folder, runs/NAME-1 unless --run says otherwise: the recipe, checkpoints, curves,
    samples, a report, and the model itself as a Hugging Face folder. Ctrl-C saves the state; --resume goes on from it.
    """
    from dougong.cli.output import show_figures, show_json
    from dougong.cli.progress import shown_progress
    from dougong.core.errors import UsageError
    from dougong.recipe import load

    if (allow or fallback) and not resume:
        raise UsageError(f"{'--allow' if allow else '--fallback'} has no effect without --resume. Add --resume.")
    load(source, overrides or ())  # what is wrong in it is told before torch is imported, which takes longer
    from dougong.run import Resume
    from dougong.run import train as train_run
    from dougong.train.report import duration

    goes_on = Resume(tuple(allow or ()), fallback) if resume else False
    with shown_progress() as observers:
        done = train_run(source, run=run, resume=goes_on, overrides=overrides or (), observers=observers)
    if json:
        show_json(done.summary())
        return
    print(
        f"{done.folder}: {done.reason} after {done.steps:,} steps, {duration(done.seconds)} in this call. Validation:"
    )
    show_figures(done.metrics)
    if not done.writes_text:
        print(f"Curves: {done.folder / 'report.html'}. The model: {done.folder / 'model'}")
        return
    prompt = shlex.quote(next((text for text in done.recipe.train.samples.prompts if text.strip()), "Once"))
    print(f"Curves: {done.folder / 'report.html'}. Let it write: dougong generate {done.folder} {prompt}")
