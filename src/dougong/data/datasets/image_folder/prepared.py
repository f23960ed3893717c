"""Folders of pictures made ready: which classes there are, and which files each has.

Knows folders; what becomes of the pictures is in `classified.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dougong.core import files
from dougong.core.config import did_you_mean
from dougong.core.errors import FileError
from dougong.data.classified import ClassifiedData, Found, made_ready
from dougong.data.datasets.image_folder import ImageFolderConfig
from dougong.data.inspection import PictureFiles, pictures_below
from dougong.data.source import Tally


def prepared(config: ImageFolderConfig, cache: Path | None) -> ClassifiedData:
    """Finds the classes and their pictures, looks at each, and returns them ready to train on."""
    tally = Tally(config.max_bad_samples)
    root = config.path.expanduser()
    labels = _classes(root, tally)
    if len(labels) < 2:
        raise FileError(
            f"{root} must hold a folder of pictures for each of two classes or more, but holds {len(labels) or 'none'}."
            " Name the folder above."
        )
    paths, classes = _below(root, labels, labels, tally)
    begins, source = None, str(config.path)
    if config.validation_path is not None:
        apart = config.validation_path.expanduser()
        begins, source = len(paths), f"{config.path}, {config.validation_path}"
        more, their = _below(apart, _known(apart, labels, tally), labels, tally)
        paths, classes = paths + more, classes + their
    return made_ready(config, Found(PictureFiles(paths), classes, labels, begins, source), cache, tally)


def _classes(root: Path, tally: Tally) -> list[str]:
    """Returns the names of the folders in a folder, sorted."""
    with files.explained(root):
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    for entry in entries:
        if not entry.is_dir():
            tally.leave_out("in no class")
    return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _known(root: Path, labels: list[str], tally: Tally) -> list[str]:
    """Returns the classes of the part to validate on, which must be some of those to train on."""
    found = _classes(root, tally)
    for label in found:
        if label not in labels:
            raise FileError(
                f"{root / label} must be a class to train on, but there is none of this name."
                f"{did_you_mean(label, labels)} Rename or remove the folder."
            )
    return found


def _below(root: Path, found: list[str], labels: list[str], tally: Tally) -> tuple[list[Path], list[int]]:
    """Returns every picture below the folders of classes, and the number of its class."""
    pairs = [(path, labels.index(label)) for label in found for path in _pictures(root / label, tally)]
    return [path for path, _ in pairs], [number for _, number in pairs]


def _pictures(folder: Path, tally: Tally) -> Iterator[Path]:
    paths = list(pictures_below(folder, tally))
    if not paths:
        raise FileError(
            f"{folder} must hold pictures, as it is the folder of a class, but holds none. Remove or fill it."
        )
    yield from paths
