"""Pictures to classify in the idx form of MNIST: one file of pictures, one of labels.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from dougong.core.config import Fault
from dougong.data.images import SplitConfig


class IdxConfig(SplitConfig):
    """Shades of grey of one size, as MNIST and Fashion-MNIST come: `.gz` or not."""

    name: Literal["idx"] = "idx"
    """Which dataset."""
    images_path: Path
    """The pictures: `train-images-idx3-ubyte.gz`."""
    labels_path: Path
    """Their labels: `train-labels-idx1-ubyte.gz`."""
    validation_images_path: Path | None = None
    """The pictures to validate on; absent: some are kept apart (see `validation`)."""
    validation_labels_path: Path | None = None
    """Their labels."""
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    """The names of the classes, from number 0 on; absent: their numbers."""
    channels: Literal[1, 3] = 1
    """Numbers of a pixel: 1, or the same shade three times."""

    def faults(self) -> Iterator[Fault]:
        """Yields the faults of two ways to validate, or half a way."""
        yield from super().faults()
        if (self.validation_images_path is None) != (self.validation_labels_path is None):
            absent = "images" if self.validation_images_path is None else "labels"
            yield Fault(f"validation_{absent}_path", "must be given, as the other file to validate on is. Add it.")
        if self.validation is not None and self.validation_images_path is not None:
            yield Fault("validation", "has no effect where files to validate on are given. Remove one of the two.")
        if self.draft:
            yield Fault("draft", "has no effect, as these pictures are no JPEG. Remove it.")

    def foreseen(self) -> dict[str, Any]:
        """Returns what of the model the data decides and is known before it is read."""
        return {**({} if self.classes is None else {"num_classes": len(self.classes)}), **self.seen_shape()}

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads the files; neither a cache nor a context is needed.

        Raises:
            UsageError: A file does not exist.
            FileError: A file is broken, or two do not fit each other.
        """
        return importlib.import_module(f"{__name__}.prepared").prepared(self)


PART = IdxConfig
