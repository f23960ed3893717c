"""`dougong train`: parses, calls, prints."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from dougong.cli.options import Json, Overrides, RunFolder, Source


def train(
    source: Source,
    run: RunFolder = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run, if there is one.")] = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Train what a recipe describes.

    Everything goes into the run's folder, runs/NAME-1 unless --run says otherwise: the recipe, checkpoints, curves,
    samples, a report, and the model itself as a Hugging Face folder. Ctrl-C saves the state; --resume goes on from it.
    """
    from dougong.cli.output import show_figures, show_json
    from dougong.cli.progress import shown_progress
    from dougong.recipe import load

    load(source, overrides or ())  # what is wrong in it is told before torch is imported, which takes longer
    from dougong.run import train as train_run
    from dougong.train.report import duration

    with shown_progress() as observers:
        done = train_run(source, run=run, resume=resume, overrides=overrides or (), observers=observers)
    if json:
        show_json(done.summary())
        return
    print(
        f"{done.folder}: {done.reason} after {done.steps:,} steps, {duration(done.seconds)} in this call. Validation:"
    )
    show_figures(done.metrics)
    prompt = shlex.quote(next((text for text in done.recipe.train.samples.prompts if text.strip()), "Once"))
    print(f"Curves: {done.folder / 'report.html'}. Let it write: dougong generate {done.folder} {prompt}")
