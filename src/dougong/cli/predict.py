"""`dougong predict`: parses, calls, prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Optional

import typer

from dougong.cli.options import Json, RunFolder, Source, integer, number


def predict(
    source: Source,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Pictures, folders and patterns; or texts in quotes, files of lines, and - (standard input).",
        ),
    ],
    run: RunFolder = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="INTEGER", parser=integer, help="Inputs at once.")
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
    columns: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--columns",
            metavar="NAME[,NAME]",
            help="Of tables (.csv, .tsv, .jsonl, .json, .parquet): the column of the text, and that of a second.",
        ),
    ] = None,
    max_bad_samples: Annotated[
        int,
        typer.Option(
            "--max-bad-samples",
            metavar="INTEGER",
            parser=integer,
            help="Broken pictures or lines to leave aside.",
        ),
    ] = 0,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    json: Json = False,
) -> None:
    """Ask a trained model about pictures or texts: classes, objects, tags, answers to questions, translations.

    The model is a run's, a recipe's newest run's, or that of a Hugging Face folder. What a detector finds is drawn into
    copies of the pictures. A tab stands between two texts that belong together: a pair to classify, or a question and
    the text that answers it. Answers about texts come one by one, with --json a line each.
    """
    from dougong.data.source import Tally
    from dougong.infer.texts import TextPredictor
    from dougong.run.prediction import open_predictor, require_effect, tell_bad

    predictor = open_predictor(source, run, precision, device)
    require_effect(predictor, {"--min-score": min_score, "--to": to}, {"--columns": columns})
    tally = Tally(max_bad_samples)
    if isinstance(predictor, TextPredictor):
        from dougong.run.texts import answers, named

        asked = [named(text) for text in inputs]
        _show_texts(answers(predictor, asked, tally, batch_size, columns=_names(columns)), json)
        tell_bad(tally, "texts")
        return
    from dougong.cli.output import show_json
    from dougong.run.prediction import Wish, default_place, predictions

    place = to or default_place(source, run)
    found: list[dict[str, Any]] = []
    least = 0.5 if min_score is None else min_score
    for each in predictions(predictor, inputs, Wish(batch_size, least, _path(place)), tally):
        drawn = {} if each.drawn is None else {"drawn": str(each.drawn)}
        found.append({"picture": each.picture, **each.answer, **drawn})
        if not json:
            _show(found[-1])
    tell_bad(tally)
    if json:
        show_json(found)
    elif any("drawn" in each for each in found):
        print(f"Drawn in {place}/")


def _names(columns: str | None) -> list[str]:
    return [] if columns is None else [name.strip() for name in columns.split(",")]


def _path(place: Any) -> Any:
    from pathlib import Path

    return Path(place)


def _show(found: dict[str, Any]) -> None:
    """Prints the lines of one picture."""
    if "objects" not in found:
        print(f"{found['picture']}  {_likeliest(found)}")
        return
    print(f"{found['picture']}  {len(found['objects'])} object{'s' * (len(found['objects']) != 1)}")
    for each in found["objects"]:
        box = " ".join(f"{edge:7.1f}" for edge in each["box"])
        print(f"  {each['label']!s:<20} {each['score']:.4f}  {box}")


def _likeliest(found: Mapping[str, Any]) -> str:
    """Returns `cat  0.9812  (dog  0.0100, ...)`."""
    first, *others = (f"{each['label']}  {each['probability']:.4f}" for each in found["likeliest"][:3])
    return first + (f"  ({', '.join(others)})" if others else "")


def _show_texts(answers: Iterable[Mapping[str, Any]], json: bool) -> None:
    """Prints the answer about each text as it comes."""
    from dougong.cli.output import show_json

    for each in answers:
        if json:
            show_json(each, indent=None)
        else:
            print("\n".join(_lines(each)), flush=True)


def _lines(found: Mapping[str, Any]) -> list[str]:
    """Returns what a person reads of one answer."""
    if "likeliest" in found:
        return [f"{_likeliest(found)}  {found['input']}"]
    if "translation" in found:
        return [found["translation"]]
    if "no_answer" in found:
        return [f"{found['text'] or '(no answer)'}  {found['score']:.4f}  {found['question']}"]
    if "embedding" in found:
        return [" ".join(f"{number:.6g}" for number in found["embedding"])]
    if "masks" in found:
        hidden = [", ".join(f"{e['word']}  {e['probability']:.4f}" for e in mask[:3]) for mask in found["masks"]]
        return [found["input"], *(f"  {line}" for line in hidden)]
    named = found.get("entities")
    shown = found["words"] if named is None else named
    key = "tag" if named is None else "type"
    return [found["input"], *(f"  {e['text']}  {e[key]}  {e['probability']:.4f}" for e in shown)]
