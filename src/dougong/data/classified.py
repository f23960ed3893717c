"""Pictures to classify made ready, wherever they come from: two parts with random access, seen as the model takes them.

Knows decoded pictures and their classes; does not know files or formats, models or batches.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from dougong.core import files
from dougong.core.errors import FileError
from dougong.core.log import warn
from dougong.data.augment.apply import Pipeline
from dougong.data.examples import LabelledImage, Picture
from dougong.data.image import Limits, Pixels
from dougong.data.images import ClassifiedConfig, SplitConfig
from dougong.data.inspection import Decoded, Seen, Stock, folder_for, inspect, write_quarantine
from dougong.data.source import Tally
from dougong.data.viewing import Viewing


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures with their classes, with random access; a `Dataset`.

    Attributes:
        read: Returns the pixels of the picture of a number.
        name: Returns what a message calls it.
        hashes: A hash of the content of each.
        sizes: Height and width of each.
        labels: The number of each one's class.
        licence: Of the pictures.
        source: Where they come from.
    """

    read: Callable[[int], Pixels]
    name: Callable[[int], str]
    hashes: Sequence[str]
    sizes: Int[np.ndarray, "example 2"]
    labels: Int[np.ndarray, " example"]
    licence: str
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Picture:
        return Picture(self.read(index), int(self.labels[index]))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of every picture's content and label."""
        whole = hashlib.sha256("\n".join(self.hashes).encode())
        whole.update(self.labels.astype("<i8").tobytes())
        return whole.hexdigest()


@dataclass(frozen=True)
class Views:
    """The same pictures as the model takes them; a `Dataset`."""

    pictures: Pictures
    viewing: Viewing

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> LabelledImage:
        picture = self.pictures[index]
        return LabelledImage(self.viewing.views(picture.pixels), picture.label)

    @property
    def licence(self) -> str:
        """The licence of the pictures."""
        return self.pictures.licence

    @property
    def source(self) -> str:
        """Where they come from."""
        return self.pictures.source

    @property
    def fingerprint(self) -> str:
        """A hash of the pictures, their labels, and how they are seen."""
        config, size = self.viewing.config, self.viewing.size
        how = (config.channels, config.scaling(), size, config.resize, config.views, config.scales, config.draft)
        return hashlib.sha256(f"{self.pictures.fingerprint} {how!r}".encode()).hexdigest()


class ClassifiedData:
    """Pictures to classify, ready to train on.

    Attributes:
        config: What described them.
        labels: The name of each class.
        viewing: How they are seen.
        views: How many views of each go through the model in evaluation.
        train: The decoded training pictures; one source, without a weight. `augment` makes examples of them.
        validation: The pictures that are kept apart, as the model takes them.
        determines: Fields of the model that the data decides.
        fingerprint: A hash of every picture and label, and of what is made of them.
        licence: Of the pictures.
        source: Where they come from.
        counts: Pictures read, used, quarantined, left out, and the examples of both parts.

    Args:
        config: What described them.
        labels: The name of each class.
        train: The training pictures.
        validation: Those that are kept apart.
        tally: How many were read and used.

    Raises:
        FileError: A class has pictures to validate on, but none to train on; or a part has none; or no size is named,
            and the pictures are of several.
    """

    def __init__(
        self, config: ClassifiedConfig, labels: Sequence[str], train: Pictures, validation: Pictures, tally: Tally
    ):
        _require_all(labels, train, validation, tally)
        size = config.height_and_width or _one_size(train, validation)
        self.config, self.labels, self.viewing = config, list(labels), Viewing(config, size)
        self.views = {"center": 1, "ten": 10, "grid": 50}[config.views] * len(config.scales or (0,))
        self.train: list[tuple[Pictures, float | None]] = [(train, None)]
        self.validation = Views(validation, self.viewing)
        self.determines: dict[str, Any] = {"num_classes": len(labels), "image_shape": (config.channels, *size)}
        changes = [each.model_dump(mode="json") for each in config.augment]
        facts = [train.fingerprint, self.validation.fingerprint, repr(changes), *labels]
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self.licence, self.source = train.licence, train.source
        self.counts = [_counts(self.source, tally, {"train": len(train), "validation": len(validation)})]
        self._pipeline = Pipeline(config.augment, size) if config.augment else None

    def augment(self, picture: Picture, rng: np.random.Generator) -> LabelledImage:
        """Makes a training example of a picture, a function of it and of what the generator draws alone."""
        if self._pipeline is None:
            return LabelledImage(self.viewing.normalised(self.viewing.middle(picture.pixels)), picture.label)
        train = self.train[0][0]
        pixels, other, share = self._pipeline.classified(picture, train.__getitem__, len(train), rng)
        return LabelledImage(self.viewing.normalised(pixels), picture.label, other, share)

    def save_assets(self, folder: str | Path) -> None:
        """Writes what a model needs beside its weights: the labels, and how pictures are made ready."""
        files.write_json(Path(folder) / "labels.json", self.labels)
        files.write_json(Path(folder) / "preprocessor_config.json", self.viewing.preprocessor())


@dataclass(frozen=True)
class Found:
    """Pictures that were found, with their classes, before any was looked at.

    Attributes:
        stock: The pictures.
        classes: The number of each one's class.
        labels: The name of each class.
        begins: The number of the first one that is there to validate on; None: some are to be kept apart.
        source: Where they come from.
    """

    stock: Stock
    classes: Sequence[int]
    labels: Sequence[str]
    begins: int | None
    source: str


def made_ready(config: SplitConfig, found: Found, cache: Path | None, tally: Tally) -> ClassifiedData:
    """Looks at all pictures, divides them, and returns them ready to train on.

    Args:
        config: How they are decoded, divided and seen.
        found: The pictures.
        cache: Where what is found of each is kept; None: in the folder that is for such.
        tally: What was counted already.

    Raises:
        FileError: More samples are bad than allowed, or too few are left.
    """
    limits = Limits(max_pixels=config.max_pixels)
    folder = folder_for(cache or files.cache_folder(), found.source, limits)
    seen = inspect(found.stock, limits, folder, tally)
    write_quarantine(folder, found.source, tally)
    parts: tuple[list[int], list[int]] = ([], [])
    for number, each in enumerate(seen):
        if not each.bad:
            kept = config.held_out.keeps(bytes.fromhex(each.sha256)) if found.begins is None else number >= found.begins
            parts[kept].append(number)
    train, validation = (_part(config, found, seen, numbers) for numbers in parts)
    return ClassifiedData(config, found.labels, train, validation, tally)


def _part(config: ClassifiedConfig, found: Found, seen: Sequence[Seen], numbers: Sequence[int]) -> Pictures:
    size, mine = config.height_and_width, [seen[number] for number in numbers]
    draft = None if size is None else Viewing(config, size).wanted
    decoded = Decoded(found.stock, seen, config.channels, Limits(max_pixels=config.max_pixels, draft=draft))
    return Pictures(
        lambda index: decoded(numbers[index]),
        lambda index: found.stock.name(numbers[index]),
        [each.sha256 for each in mine],
        np.array([(each.height, each.width) for each in mine], dtype=np.int64).reshape(-1, 2),
        np.array([found.classes[number] for number in numbers], dtype=np.int64),
        config.licence,
        found.source,
    )


def _require_all(labels: Sequence[str], train: Pictures, validation: Pictures, tally: Tally) -> None:
    """Sees that each class has pictures to train on, and that some are kept apart."""
    told = tally.summary("pictures")
    numbers = np.bincount(train.labels, minlength=len(labels))
    apart = np.bincount(validation.labels, minlength=len(labels))
    for label, number, kept in zip(labels, numbers, apart, strict=True):
        if kept and not number:
            raise FileError(
                f"the class {label!r} must have pictures to train on, as it has some to validate on, but has none "
                f"({told}). Add some."
            )
    if not len(train):
        raise FileError(f"there must be pictures to train on, but there are none ({told}). Add some.")
    if not len(validation):
        raise FileError(f"there must be pictures to validate on, but there are none ({told}). Add some.")
    for part, counted in (("train", numbers), ("validate", apart)):
        without = [label for label, number in zip(labels, counted, strict=True) if not number]
        if without:
            shown = ", ".join(without[:8]) + (", ..." if len(without) > 8 else "")
            warn(f"{len(without)} of {len(labels)} classes have no picture to {part} on: {shown}")


def _one_size(*parts: Pictures) -> tuple[int, int]:
    """Returns the size of all pictures."""
    height, width = parts[0].sizes[0]
    for part in parts:
        for index in np.flatnonzero((part.sizes != (height, width)).any(1))[:1]:
            other = part.sizes[index]
            raise FileError(
                f"all pictures must be of one size where data.size is absent, but {parts[0].name(0)} is {height} x "
                f"{width} and {part.name(int(index))} is {other[0]} x {other[1]}. Set data.size."
            )
    return int(height), int(width)


def _counts(source: str, tally: Tally, parts: Mapping[str, int]) -> dict[str, Any]:
    return {
        "source": source,
        "read": tally.read,
        "used": tally.used,
        "quarantined": len(tally.quarantined),
        "left_out": tally.left_out,
        **{part: {"examples": number} for part, number in parts.items()},
    }
