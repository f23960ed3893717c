"""The digits made ready: read from the installed package and split.

Knows scikit-learn's bundled file; does not know models, tasks or batches.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dougong.core import files
from dougong.core.errors import MissingExtra
from dougong.data.augment.apply import Pipeline
from dougong.data.datasets.digits import DigitsConfig
from dougong.data.examples import LabelledImage, Picture

_BRIGHTEST = 16.0
_SIZE = (8, 8)


class DigitsData:
    """The digits, ready to train on; brightness from 0 to 1.

    Attributes:
        config: What described it.
        labels: The name of each class.
        train: The training pictures; one source, without a weight.
        validation: The pictures that are kept apart.
        augment: Makes a training example of a picture; there only if the recipe asks for random changes.
        determines: Fields of the model that the data decides.
        fingerprint: A hash of every picture and label.
        licence: Of the pictures.
        source: Where they come from.
        counts: How many there are of each part.

    Raises:
        MissingExtra: Scikit-learn is not installed.
    """

    def __init__(self, config: DigitsConfig):
        pixels, labels = _read()
        self.config, self.labels = config, [str(digit) for digit in range(10)]
        apart = np.array([config.validation.keeps(picture.tobytes()) for picture in pixels])
        train, self.validation = (Pictures(pixels[part], labels[part]) for part in (~apart, apart))
        self.train: list[tuple[Pictures | Shades, float | None]] = [(train, None)]
        if config.augment:
            shades = Shades(train)
            self.train = [(shades, None)]
            self.augment = Changed(shades, Pipeline(config.augment, _SIZE))
        self.determines: dict[str, Any] = {"num_classes": 10, "image_shape": (1, 8, 8)}
        facts = [train.fingerprint, self.validation.fingerprint]
        facts += [repr(each.model_dump(mode="json")) for each in config.augment]
        self.fingerprint = hashlib.sha256(" ".join(facts).encode()).hexdigest()
        self.licence, self.source = train.licence, train.source
        sizes = {"train": len(train), "validation": len(self.validation)}
        self.counts = [{"source": "digits", **{part: {"examples": size} for part, size in sizes.items()}}]

    def save_assets(self, folder: str | Path) -> None:
        """Writes what a model needs beside its weights: the labels, and how pictures are made ready."""
        files.write_json(Path(folder) / "labels.json", self.labels)
        height, width = _SIZE
        said = {
            "image_processor_type": "BitImageProcessor",
            "do_resize": True,
            "size": {"height": height, "width": width},
            "do_center_crop": False,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": False,
        }
        files.write_json(Path(folder) / "preprocessor_config.json", said)


@dataclass(frozen=True)
class Pictures:
    """Pictures with random access; a `Dataset`.

    Attributes:
        pixels: Brightness, from 0 to 1.
        labels: The number of each one's class.
        licence: Of the pictures.
        source: Where they come from.
    """

    pixels: Float[np.ndarray, "example channel height width"]
    labels: Int[np.ndarray, " example"]
    licence: str = "CC BY 4.0"
    source: str = "scikit-learn's digits (UCI, Optical Recognition of Handwritten Digits)"

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> LabelledImage:
        return LabelledImage(self.pixels[index], int(self.labels[index]))

    @property
    def fingerprint(self) -> str:
        """A hash of every picture and label."""
        return hashlib.sha256(self.pixels.tobytes() + self.labels.tobytes()).hexdigest()


@dataclass(frozen=True)
class Shades:
    """The same pictures as shades from 0 to 255, as augmentation takes them; a `Dataset`."""

    pictures: Pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Picture:
        example = self.pictures[index]
        return Picture(np.rint(255 * example.pixels.transpose(1, 2, 0)).astype(np.uint8), example.label)

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
        """A hash of every picture and label."""
        return self.pictures.fingerprint


@dataclass(frozen=True)
class Changed:
    """What makes a training example of a picture by random changes.

    Attributes:
        pictures: Those that one may be mixed with.
        pipeline: The changes.
    """

    pictures: Shades
    pipeline: Pipeline

    def __call__(self, picture: Picture, rng: np.random.Generator) -> LabelledImage:
        """Returns the example, a function of the picture and of what the generator draws alone."""
        pixels, other, share = self.pipeline.classified(picture, self.pictures.__getitem__, len(self.pictures), rng)
        return LabelledImage(pixels.transpose(2, 0, 1) / np.float32(255), picture.label, other, share)


def _read() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("the dataset digits", "sklearn") from error
    found: Any = load_digits()
    pixels = (found.images[:, None] / _BRIGHTEST).astype(np.float32)
    return pixels, found.target.astype(np.int64)
