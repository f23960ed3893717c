"""Pictures with objects to find made ready, wherever they come from: random access, boxes checked and cut at the edges.

Knows decoded pictures and annotations; does not know their formats, models or batches.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dougong.core import files
from dougong.core.errors import FileError
from dougong.core.log import say
from dougong.data import image
from dougong.data.annotations import Annotation, Box, Corners, fitted
from dougong.data.augment.apply import Pipeline
from dougong.data.classes import number_of
from dougong.data.examples import AnnotatedImage, AnnotatedPicture
from dougong.data.image import Limits, Pixels
from dougong.data.images import AnnotatedConfig
from dougong.data.inspection import Decoded, PictureFiles, Seen, folder_for, inspect, write_quarantine
from dougong.data.reading import Bad
from dougong.data.source import Tally
from dougong.data.viewing import letterboxed


@dataclass(frozen=True)
class Objects:
    """What there is in one picture.

    Attributes:
        boxes: Left, top, right and lower edge of each object, in pixels.
        labels: The number of each one's class.
        ignored: Which count neither as found nor as missed.
    """

    boxes: Float[np.ndarray, "box 4"]
    labels: Int[np.ndarray, " box"]
    ignored: Bool[np.ndarray, " box"]


@dataclass(frozen=True)
class AnnotatedPictures:
    """Decoded pictures with the objects in them, with random access; a `Dataset`.

    Attributes:
        read: Returns the pixels of the picture of a number.
        hashes: A hash of the content of each.
        objects: What there is in each.
        licence: Of the pictures.
        source: Where they come from.
    """

    read: Callable[[int], Pixels]
    hashes: Sequence[str]
    objects: Sequence[Objects]
    licence: str
    source: str

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, index: int) -> AnnotatedPicture:
        there = self.objects[index]
        return AnnotatedPicture(self.read(index), there.boxes, there.labels, there.ignored, index)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of every picture's content and of every object."""
        whole = hashlib.sha256("\n".join(self.hashes).encode())
        for there in self.objects:
            whole.update(len(there.labels).to_bytes(4, "little") + there.boxes.astype("<f4").tobytes())
            whole.update(there.labels.astype("<i8").tobytes() + there.ignored.tobytes())
        return whole.hexdigest()


@dataclass(frozen=True)
class Letterboxed:
    """The same pictures as the model takes them, made to fit; a `Dataset`."""

    pictures: AnnotatedPictures
    config: AnnotatedConfig

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> AnnotatedImage:
        return _letterboxed(self.pictures[index], self.config)

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
        """A hash of the pictures, the objects, and how they are seen."""
        how = (self.config.channels, self.config.scaling(), self.config.size)
        return hashlib.sha256(f"{self.pictures.fingerprint} {how!r}".encode()).hexdigest()


class AnnotatedData:
    """Pictures with objects to find, ready to train on.

    Attributes:
        config: What described them.
        labels: The name of each class.
        train: The decoded training pictures; one source, without a weight. `augment` makes examples of them.
        validation: The pictures to validate on, as the model takes them.
        determines: Fields of the model that the data decides.
        fingerprint: A hash of every picture and object, and of what is made of them.
        licence: Of the pictures.
        source: Where they come from.
        counts: Pictures and boxes read, used, quarantined, left out, and the examples of both parts.

    Args:
        config: What described them.
        labels: The name of each class.
        train: The training pictures.
        validation: Those to validate on.
        counts: What was read and used.
    """

    def __init__(
        self,
        config: AnnotatedConfig,
        labels: Sequence[str],
        train: AnnotatedPictures,
        validation: AnnotatedPictures,
        counts: Mapping[str, Any],
    ):
        self.config, self.labels = config, list(labels)
        self.train: list[tuple[AnnotatedPictures, float | None]] = [(train, None)]
        self.validation = Letterboxed(validation, config)
        self.determines: dict[str, Any] = {"num_classes": len(labels), **config.seen_shape()}
        changes = [each.model_dump(mode="json") for each in config.augment]
        facts = [train.fingerprint, self.validation.fingerprint, repr(changes), *labels]
        self.fingerprint = hashlib.sha256("\n".join(facts).encode()).hexdigest()
        self.licence, self.source = train.licence, train.source
        sizes = {
            part: {"examples": len(each), "boxes": sum(len(there.labels) for there in each.objects)}
            for part, each in (("train", train), ("validation", validation))
        }
        self.counts = [{"source": self.source, **counts, **sizes}]
        height, width = config.size
        self._pipeline = Pipeline(config.augment, (height, width)) if config.augment else None

    def augment(self, picture: AnnotatedPicture, rng: np.random.Generator) -> AnnotatedImage:
        """Makes a training example of a picture, a function of it and of what the generator draws alone."""
        if self._pipeline is None:
            return _letterboxed(picture, self.config)
        return _normalised(self._pipeline.annotated(picture, rng), (1.0, 1.0), self.config)

    def save_assets(self, folder: str | Path) -> None:
        """Writes what a model needs beside its weights: the labels, and how pictures are made ready."""
        files.write_json(Path(folder) / "labels.json", self.labels)
        files.write_json(Path(folder) / "preprocessor_config.json", letterboxed(self.config))


def _letterboxed(picture: AnnotatedPicture, config: AnnotatedConfig) -> AnnotatedImage:
    pixels, (down, right) = image.letterbox(picture.pixels, config.size[0], config.size[1])
    boxes = picture.boxes * np.array([right, down, right, down], dtype=np.float32)
    size = picture.pixels.shape[:2]
    found = AnnotatedPicture(pixels, boxes, picture.labels, picture.ignored, picture.number)
    return _normalised(found, (down, right), config, size)


def _normalised(
    picture: AnnotatedPicture,
    scale: tuple[float, float],
    config: AnnotatedConfig,
    size: tuple[int, ...] | None = None,
) -> AnnotatedImage:
    height, width = picture.pixels.shape[:2] if size is None else size
    pixels = image.normalise(picture.pixels, *config.scaling())
    return AnnotatedImage(
        pixels, picture.boxes, picture.labels, picture.ignored, picture.number, scale, (int(height), int(width))
    )


@dataclass
class FoundObjects:
    """Pictures with annotations that were found, before any was looked at.

    Attributes:
        labels: The name of each class.
        paths: The file of each picture.
        annotations: What is said of each.
        begins: The number of the first one that is there to validate on.
        source: Where they come from.
    """

    labels: Sequence[str]
    source: str
    begins: int = 0
    paths: list[Path] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)

    def add(self, path: Path, annotation: Annotation) -> None:
        """Adds a picture."""
        self.paths.append(path)
        self.annotations.append(annotation)


def made_ready(config: AnnotatedConfig, found: FoundObjects, cache: Path | None, tally: Tally) -> AnnotatedData:
    """Looks at all pictures, fits the boxes into them, and returns them ready to train on.

    A box that reaches over its picture's edge is cut there; one that is none, or of no known class, is a bad sample.

    Args:
        config: How they are decoded and seen.
        found: The pictures.
        cache: Where what is found of each is kept; None: in the folder that is for such.
        tally: What was counted already; boxes are counted apart, and as many may be bad.

    Raises:
        FileError: More samples are bad than allowed, or none is left.
    """
    limits, stock = Limits(max_pixels=config.max_pixels), PictureFiles(found.paths)
    folder = folder_for(cache or files.cache_folder(), found.source, limits)
    seen = inspect(stock, limits, folder, tally, _agrees(found.annotations))
    reader, boxes = _Boxes(found.labels, Tally(config.max_bad_samples)), list[Objects]()
    for annotation, each in zip(found.annotations, seen, strict=True):
        boxes.append(reader.objects(() if each.bad else annotation.boxes, each))
    write_quarantine(folder, found.source, tally, reader.tally)
    if reader.clipped:
        say(f"{found.source}: {reader.clipped:,} boxes reach over the edge of their picture, and are cut there")
    decoded = Decoded(stock, seen, config.channels, limits)

    def part(numbers: Sequence[int]) -> AnnotatedPictures:
        hashes, objects = [seen[number].sha256 for number in numbers], [boxes[number] for number in numbers]
        return AnnotatedPictures(lambda index: decoded(numbers[index]), hashes, objects, config.licence, found.source)

    sound = [number for number, each in enumerate(seen) if not each.bad]
    train, validation = (
        part([number for number in sound if (number >= found.begins) == apart]) for apart in (False, True)
    )
    for name, pictures in (("train", train), ("validate", validation)):
        if not len(pictures):
            told = tally.summary("pictures")
            raise FileError(f"{found.source} must have pictures to {name} on, but has none ({told}). Add some.")
    return AnnotatedData(config, found.labels, train, validation, {**_counted(tally), "boxes": reader.counts()})


def _agrees(annotations: Sequence[Annotation]) -> Callable[[int, Seen], str]:
    """Returns what tells why a picture is not of the size that its annotation states; nothing, if it is."""

    def complaint(number: int, seen: Seen) -> str:
        stated = annotations[number].size
        if stated is None or stated == (seen.height, seen.width):
            return ""
        return (
            f"a picture must be as large as its annotation says, {stated[0]} x {stated[1]} (height, width), or its "
            f"boxes mean other places, but is {seen.height} x {seen.width}"
        )

    return complaint


class _Boxes:
    """Fits boxes into their pictures, and counts."""

    def __init__(self, labels: Sequence[str], tally: Tally):
        self.numbers = {label: number for number, label in enumerate(labels)}
        self.tally, self.clipped = tally, 0

    def objects(self, boxes: Sequence[Box], seen: Seen) -> Objects:
        """Returns the sound ones of a picture."""
        kept: list[tuple[Corners, int, bool]] = []
        for box in boxes:
            try:
                corners = fitted(box.corners, seen.height, seen.width)
                kept.append((corners, number_of(box.label, self.numbers), box.ignored))
                self.clipped += corners != box.corners
                self.tally.used += 1
            except Bad as bad:
                self.tally.quarantine(box.name, str(bad))
        return Objects(
            np.array([corners for corners, _, _ in kept], dtype=np.float32).reshape(-1, 4),
            np.array([number for _, number, _ in kept], dtype=np.int64),
            np.array([ignored for _, _, ignored in kept], dtype=bool),
        )

    def counts(self) -> dict[str, Any]:
        """Returns how many there were, were used, and of these were cut."""
        counted = _counted(self.tally)
        return {**{name: counted[name] for name in ("read", "used", "quarantined")}, "clipped": self.clipped}


def _counted(tally: Tally) -> dict[str, Any]:
    counts = {"read": tally.read, "used": tally.used, "quarantined": len(tally.quarantined)}
    return {**counts, "left_out": tally.left_out}
