"""The verb `predict`: a trained model's answers about pictures, files and whole folders of them; texts: `texts.py`.

Knows runs, where pictures lie, and what is done about bad ones; how an answer comes about, `infer` knows.
"""

from __future__ import annotations

import glob
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dougong.core import files, log
from dougong.core.errors import FileError, UsageError
from dougong.data.inspection import pictures_below
from dougong.data.intake import Source as Picture
from dougong.data.intake import Taken
from dougong.data.sheet import annotated_picture
from dougong.data.source import Tally
from dougong.infer.predict import Predictor, load_predictor
from dougong.infer.texts import TextPredictor
from dougong.recipe.sources import Source
from dougong.run.folder import find_run, is_run, model_of_run
from dougong.run.memory import loading
from dougong.run.texts import Asked
from dougong.run.texts import answers as answered
from dougong.run.training import Run


@dataclass(frozen=True)
class Prediction:
    """An answer about one picture.

    Attributes:
        picture: The file, or what else it was called.
        answer: JSON values: `label`, `probability` and `likeliest`, or `objects`.
        drawn: The picture with its objects drawn in, if there are such.
    """

    picture: str
    answer: dict[str, Any]
    drawn: Path | None = None


@dataclass(frozen=True)
class Wish:
    """How is predicted.

    Attributes:
        batch_size: Pictures that go through the model at once.
        min_score: Objects of a lower score are left out, from 0 to 1.
        to: Where pictures with objects drawn in go; None: nowhere.
    """

    batch_size: int = 16
    min_score: float | int = 0.5
    to: Path | None = None


def predict(
    source: Source | Run,
    inputs: Picture | Asked | Sequence[Picture | Asked],
    *,
    run: str | Path | None = None,
    precision: str = "auto",
    device: str = "auto",
    **options: Any,
) -> list[dict[str, Any]]:
    """Returns a model's answer about each input: `predict("runs/mine", ["cat.jpg", "folder/", "*.png"])`.

    Args:
        source: A run or its folder, a Hugging Face folder, or a recipe, whose newest run is taken.
        inputs: Of a model for pictures: files, folders and globs; arrays [height width channel] of uint8; Pillow
            images. Of one for texts: texts, tuples of two, and paths of files with a text in each line.
        run: The run folder, where the source is a recipe.
        precision: auto, fp32, bf16 or fp16.
        device: auto, cpu, cuda, cuda:1 or mps.
        options: The fields of `Wish`: batch_size and, of a detector, min_score and to; of a model for texts, columns:
            the names of those of a table that hold the texts; and max_bad_samples, how many pictures or lines may be
            broken before it stops.

    Raises:
        UsageError: There is no such run or input, or the model answers about neither pictures nor texts.
        FileError: More pictures or lines are broken than are put up with.
    """
    predictor = open_predictor(source, run, precision, device)
    of_detectors = {name: options.get(name) for name in ("min_score", "to")}
    require_effect(predictor, of_detectors, {"columns": options.get("columns")})
    if isinstance(predictor, TextPredictor):
        asked: Any = inputs if isinstance(inputs, list) else [inputs]
        tally = Tally(options.pop("max_bad_samples", 0))
        answers = list(answered(predictor, asked, tally, **options))
        tell_bad(tally, "texts")
        return answers
    several: Any = [inputs] if not isinstance(inputs, list | tuple) else inputs
    if options.get("to") is not None:
        options["to"] = Path(options["to"])
    tally = Tally(options.pop("max_bad_samples", 0))
    found = [
        {"picture": each.picture, **each.answer} for each in predictions(predictor, several, Wish(**options), tally)
    ]
    tell_bad(tally)
    return found


def require_effect(
    predictor: Predictor | TextPredictor, of_detectors: Mapping[str, object], of_texts: Mapping[str, object]
) -> None:
    """Refuses what the model takes no notice of.

    Args:
        predictor: The model.
        of_detectors: Values by the names of options that only a detector has; None is not given.
        of_texts: The same of those that only a model for texts has.

    Raises:
        UsageError: The first of them.
    """
    if isinstance(predictor, TextPredictor):
        idle, what = of_detectors, "answers about texts"
    elif predictor.finds_objects:
        idle, what = of_texts, "finds objects in pictures"
    else:
        idle, what = {**of_detectors, **of_texts}, "tells classes and finds no objects"
    for name, value in idle.items():
        if value is not None:
            raise UsageError(f"{name} has no effect, as this model {what}. Leave it out.")


def open_predictor(
    source: Source | Run, run: str | Path | None = None, precision: str = "auto", device: str = "auto"
) -> Predictor | TextPredictor:
    """Returns the model; arguments and errors as `predict`."""
    folder = folder_of(source, run)
    with loading(folder):
        return load_predictor(folder, precision, device)


def folder_of(source: Source | Run, run: str | Path | None) -> Path:
    """Returns the model folder of a run, or the one that is named itself."""
    if isinstance(source, Run):
        return source.folder / "model"
    if run is None and isinstance(source, str | Path) and (Path(source) / "config.json").is_file():
        return Path(source)
    return model_of_run(find_run(source, run))


def default_place(source: Source, run: str | Path | None = None) -> Path:
    """Returns where drawn pictures go if nothing else is said: `predictions` in the run's folder, or here."""
    folder = folder_of(source, run)
    return (folder.parent if is_run(folder.parent) else Path()) / "predictions"


def predictions(predictor: Predictor, pictures: Sequence[Picture], wish: Wish, tally: Tally) -> Iterator[Prediction]:
    """Yields the answers as they come, in the order of the pictures; broken ones are counted and left out.

    Raises:
        UsageError: There is no such picture.
        FileError: More pictures are broken than are put up with.
    """
    if not 0 <= wish.min_score <= 1:
        raise UsageError(f"min_score must be from 0 to 1, but is {wish.min_score}.")
    if wish.batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, but is {wish.batch_size}.")
    listed = list(_listed(pictures, tally))
    names: list[str] = []

    def taken() -> Iterator[Taken]:
        for number, picture in enumerate(listed):
            name = str(picture) if isinstance(picture, str | Path) else f"picture {number}"
            try:
                found = predictor.intake.take(picture, name)
            except FileError as error:
                tally.quarantine(name, str(error).removeprefix(f"{name}: ").rstrip("."))
                continue
            tally.used += 1
            names.append(name)
            yield found

    drawn: set[str] = set()
    for number, (found, answer) in enumerate(predictor.answers(taken(), wish.batch_size)):
        if "objects" in answer:
            answer = {"objects": [each for each in answer["objects"] if each["score"] >= wish.min_score]}
        path = None
        if wish.to is not None and "objects" in answer:
            path = wish.to / _free(Path(names[number]).stem, drawn)
            _draw(found, answer["objects"], predictor.labels, path)
        yield Prediction(names[number], answer, path)


def _listed(pictures: Sequence[Picture], tally: Tally) -> Iterator[Picture]:
    """Yields each picture: a folder stands for those in it, a pattern for those that it fits.

    Raises:
        UsageError: There are none.
    """
    for picture in pictures:
        if not isinstance(picture, str | Path):
            yield picture
            continue
        path = Path(picture).expanduser()
        if path.is_dir():
            inside = list(pictures_below(path, tally))
            if not inside:
                raise UsageError(f"{path} must hold pictures, but holds none.", name="E-PATH")
            yield from inside
        elif path.exists() or not any(letter in str(picture) for letter in "*?["):
            yield path
        else:
            found = sorted(glob.glob(str(path), recursive=True))
            if not found:
                raise UsageError(f"{picture} must fit pictures, but fits none. Check the path.", name="E-PATH")
            yield from _listed([Path(name) for name in found], tally)


def _free(stem: str, taken: set[str]) -> str:
    """Returns a name for a drawn picture that no other of this call has."""
    name, number = f"{stem}.png", 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}.png"
    taken.add(name)
    return name


def _draw(found: Taken, objects: Sequence[dict[str, Any]], names: Sequence[str] | None, path: Path) -> None:
    # A class beyond the names is told by its number.
    numbers = [names.index(name) if names and name in names else int(name) for name in (e["label"] for e in objects)]
    boxes = np.array([each["box"] for each in objects], dtype=np.float32).reshape(-1, 4)
    picture = annotated_picture(found.pixels, boxes, numbers, [each["score"] for each in objects], names)
    content = io.BytesIO()
    picture.save(content, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(path, content.getvalue())


def tell_bad(tally: Tally, what: str = "pictures") -> None:
    """Says which inputs were left aside, if any were."""
    for where, reason in tally.quarantined:
        log.warn(f"{where}: {reason}. Left aside.")
    if tally.quarantined:
        log.say(f"{tally.used:,} {what} used of {tally.read:,}, {len(tally.quarantined):,} left aside")
