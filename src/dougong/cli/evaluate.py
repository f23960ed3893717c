"""`dougong evaluate`: parses, calls, prints."""

from __future__ import annotations

from dougong.cli.options import Json, Overrides, RunFolder, Source


def evaluate(source: Source, run: RunFolder = None, overrides: Overrides = None, json: Json = False) -> None:
    """Evaluate a run on its whole validation text, beside what gzip and xz make of the same text.

    Of a recipe, the newest run is taken, or the one that --run names.
    """
    from dougong.cli.output import show_figures, show_json
    from dougong.recipe import load

    load(source)  # what is wrong in it is told before torch is imported, which takes longer
    from dougong.run import evaluate as evaluate_run

    figures = evaluate_run(source, run=run, overrides=overrides or ())
    if json:
        show_json(figures)
    else:
        show_figures(figures)
