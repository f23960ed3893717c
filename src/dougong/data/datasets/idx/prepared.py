"""Files of the idx form made ready: pictures in memory, checked against their labels, and divided.

Knows arrays of pictures; what is made of them is in `classified.py`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from dougong.core.errors import FileError
from dougong.data.classified import ClassifiedData, Pictures
from dougong.data.datasets.idx import IdxConfig
from dougong.data.idx import read_idx
from dougong.data.image import Limits
from dougong.data.source import Tally


def prepared(config: IdxConfig) -> ClassifiedData:
    """Reads pictures and labels, and returns them ready to train on."""
    source = ", ".join(str(path) for path in (config.images_path, config.validation_images_path) if path is not None)
    images, labels = _read(config, config.images_path, config.labels_path)
    names = config.classes or [str(number) for number in range(int(labels.max(initial=0)) + 1)]
    tally = Tally(used=len(labels))
    if config.validation_images_path is None or config.validation_labels_path is None:
        _check(config.labels_path, labels, names)
        apart = np.array([config.held_out.keeps(image.tobytes()) for image in images], dtype=bool)
        parts = [(images[part], labels[part], config.images_path, np.flatnonzero(part)) for part in (~apart, apart)]
    else:
        more = _read(config, config.validation_images_path, config.validation_labels_path)
        for path, numbers in ((config.labels_path, labels), (config.validation_labels_path, more[1])):
            _check(path, numbers, names)
        tally.used += len(more[1])
        parts = [
            (images, labels, config.images_path, np.arange(len(labels))),
            (*more, config.validation_images_path, np.arange(len(more[1]))),
        ]
    train, validation = (_pictures(config, source, *part) for part in parts)
    return ClassifiedData(config, names, train, validation, tally)


def _read(
    config: IdxConfig, images_path: Path, labels_path: Path
) -> tuple[UInt8[np.ndarray, "example height width"], Int[np.ndarray, " example"]]:
    """Returns pictures and labels of two files."""
    images, labels = read_idx(images_path.expanduser()), read_idx(labels_path.expanduser())
    if images.ndim != 3 or images.dtype != np.uint8:
        raise FileError(
            f"{images_path} must hold pictures, bytes in 3 dimensions, but holds {images.dtype} in {images.ndim}. "
            "Name the file of images."
        )
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise FileError(
            f"{labels_path} must hold labels, whole numbers in 1 dimension, but holds {labels.dtype} in {labels.ndim}. "
            "Name the file of labels."
        )
    if len(images) != len(labels):
        raise FileError(
            f"{images_path} and {labels_path} must hold as many pictures as labels, but hold {len(images):,} and "
            f"{len(labels):,}. Name files that belong together."
        )
    height, width = images.shape[1:]
    limits = Limits(max_pixels=config.max_pixels)
    if min(height, width) < limits.min_side or height * width > limits.max_pixels:
        raise FileError(
            f"{images_path} must hold pictures of {limits.min_side} pixels high and wide or more, and of at most "
            f"{limits.max_pixels:,} pixels, but they are {height} x {width}. Name other pictures."
        )
    return images, labels.astype(np.int64)


def _check(path: Path, labels: Int[np.ndarray, " example"], names: list[str]) -> None:
    """Sees that each label is the number of a class."""
    for number in np.flatnonzero((labels < 0) | (labels >= len(names)))[:1]:
        raise FileError(
            f"{path} must hold numbers of classes, 0 to {len(names) - 1}, but label {number + 1:,} is "
            f"{labels[number]}. Complete classes, or repair the file."
        )


def _pictures(
    config: IdxConfig,
    source: str,
    images: UInt8[np.ndarray, "example height width"],
    labels: Int[np.ndarray, " example"],
    path: Path,
    numbers: Int[np.ndarray, " example"],
) -> Pictures:
    return Pictures(
        lambda index: np.broadcast_to(images[index][..., None], (*images.shape[1:], config.channels)),
        lambda index: f"{path}, picture {numbers[index] + 1}",
        [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
        np.tile(np.array(images.shape[1:], dtype=np.int64), (len(images), 1)),
        labels,
        config.licence,
        source,
    )
