"""A folder in VOC's form made ready: which pictures the lists name, where each lies, and what is said of it.

Knows the folder; the XML is read in `voc.py`, and what becomes of pictures and boxes is in `annotated.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dougong.core import files
from dougong.core.errors import FileError, UsageError
from dougong.core.log import warn
from dougong.data.annotated import AnnotatedData, FoundObjects, made_ready
from dougong.data.annotations import Annotation
from dougong.data.datasets.voc import VocConfig
from dougong.data.reading import Bad
from dougong.data.source import Tally
from dougong.data.voc import read_voc


def prepared(config: VocConfig, cache: Path | None) -> AnnotatedData:
    """Reads the lists and the annotations, looks at each picture, and returns them ready to train on."""
    root, tally = config.path.expanduser(), Tally(config.max_bad_samples)
    names = [_listed(root, name) for name in (config.train_list, config.validation_list)]
    both = set(names[0]) & set(names[1])
    if both:
        warn(
            f"{root}: {len(both):,} pictures are in {config.train_list} and in {config.validation_list}, such as "
            f"{min(both)}: the figures will be of pictures that were trained on"
        )
    places = _places(root / "JPEGImages")
    parts = [list(_annotations(root, each, places, tally)) for each in names]
    learned = {box.label for _, annotation in parts[0] for box in annotation.boxes}
    found = FoundObjects(config.classes or sorted(learned), str(config.path), len(parts[0]))
    if not found.labels:
        raise FileError(f"{root} must have objects in its training pictures, but has none. Name another list.")
    for path, annotation in parts[0] + parts[1]:
        found.add(path, annotation)
    return made_ready(config, found, cache, tally)


def _listed(root: Path, name: str) -> list[str]:
    """Returns the names of the pictures in a list; a line may say more (`000012 -1`)."""
    path = files.inside(root, f"ImageSets/Main/{name}.txt")
    words = [line.split() for line in files.read_text(path).splitlines()]
    found = list(dict.fromkeys(line[0] for line in words if line))
    if not found:
        raise FileError(f"{path} must name pictures, a line each, but is empty. Fill it, or name another list.")
    return found


def _places(folder: Path) -> dict[str, str]:
    """Returns the names of the files in a folder, by what comes before the ending."""
    with files.explained(folder):
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    return {Path(name).stem: name for name in reversed(names)}


def _annotations(
    root: Path, names: list[str], places: dict[str, str], tally: Tally
) -> Iterator[tuple[Path, Annotation]]:
    """Yields each picture of a list with its annotation."""
    for name in names:
        path = files.inside(root, f"Annotations/{name}.xml")
        try:
            annotation = read_voc(path)
        except UsageError:
            tally.quarantine(str(path), "an annotation must be there, but does not exist")
            continue
        except Bad as bad:
            tally.quarantine(str(path), str(bad))
            continue
        yield files.inside(root, f"JPEGImages/{places.get(name) or annotation.picture or name}"), annotation
