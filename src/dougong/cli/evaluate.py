"""`dougong evaluate`: parses, calls, prints."""

from __future__ import annotations

from dougong.cli.options import Json, Overrides, RunFolder, Source


def evaluate(source: Source, run: RunFolder = None, overrides: Overrides = None, json: Json = False) -> None:
    """Evaluate a run on all its validation data: a text beside what gzip and xz make of it, and each class apart.

    Of a recipe, the newest run is taken, or the one that --run names.
    """
    from dougong.cli.output import show_figures, show_json, show_rows
    from dougong.recipe import load

    load(source)  # what is wrong in it is told before torch is imported, which takes longer
    from dougong.run.evaluation import evaluate_in_full

    figures, details = evaluate_in_full(source, run=run, overrides=overrides or ())
    if json:
        show_json({**figures, **details})
        return
    show_figures(figures)
    show_rows([{"class": name, **row} for name, row in details.get("classes", {}).items()])
    show_rows(details.get("confusions", [])[:10])
