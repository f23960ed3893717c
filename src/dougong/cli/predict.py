"""`dougong predict`: parses, calls, prints."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from dougong.cli.options import Json, RunFolder, Source, integer, number


def predict(
    source: Source,
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE...", help="Files, folders and patterns in quotes.")],
    run: RunFolder = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="INTEGER", parser=integer, help="Pictures at once.")
    ] = 16,
    min_score: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--min-score", metavar="NUMBER", parser=number, help="Of a detector: the least score to tell; absent: 0.5."
        ),
    ] = None,
    to: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--to", metavar="FOLDER", help="Of a detector: where pictures with their objects drawn in go."),
    ] = None,
    max_bad_samples: Annotated[
        int,
        typer.Option(
            "--max-bad-samples",
            metavar="INTEGER",
            parser=integer,
            help="Broken pictures to leave aside.",
        ),
    ] = 0,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    json: Json = False,
) -> None:
    """Ask a trained model about pictures: which class each shows, or which objects are in it and where.

    The model is a run's, a recipe's newest run's, or that of a Hugging Face folder. What a detector finds is drawn into
    copies of the pictures.
    """
    from pathlib import Path

    from dougong.cli.output import show_json
    from dougong.data.source import Tally
    from dougong.run.prediction import Wish, default_place, open_predictor, predictions, require_effect, tell_bad

    predictor = open_predictor(source, run, precision, device)
    require_effect(predictor, {"--min-score": min_score, "--to": to})
    place = Path(to) if to is not None else default_place(source, run)
    tally = Tally(max_bad_samples)
    found: list[dict[str, Any]] = []
    least = 0.5 if min_score is None else min_score
    for each in predictions(predictor, pictures, Wish(batch_size, least, place), tally):
        drawn = {} if each.drawn is None else {"drawn": str(each.drawn)}
        found.append({"picture": each.picture, **each.answer, **drawn})
        if not json:
            _show(found[-1])
    tell_bad(tally)
    if json:
        show_json(found)
    elif any("drawn" in each for each in found):
        print(f"Drawn in {place}/")


def _show(found: dict[str, Any]) -> None:
    """Prints the lines of one picture."""
    if "objects" not in found:
        first, *others = (f"{each['label']}  {each['probability']:.4f}" for each in found["likeliest"][:3])
        print(f"{found['picture']}  {first}" + (f"  ({', '.join(others)})" if others else ""))
        return
    print(f"{found['picture']}  {len(found['objects'])} object{'s' * (len(found['objects']) != 1)}")
    for each in found["objects"]:
        box = " ".join(f"{edge:7.1f}" for edge in each["box"])
        print(f"  {each['label']!s:<20} {each['score']:.4f}  {box}")
