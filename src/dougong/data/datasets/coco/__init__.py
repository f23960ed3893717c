"""Pictures with objects to find, in the form of COCO: one file of JSON for all of a part.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

from dougong.data.images import AnnotatedConfig


class CocoConfig(AnnotatedConfig):
    """Folders of pictures with an `instances_*.json` each (Lin et al. 2014); outlines are not read, boxes are."""

    name: Literal["coco"] = "coco"
    """Which dataset."""
    images_path: Path
    """The folder of the pictures to train on, relative to the working folder."""
    annotations_path: Path
    """The file of their annotations; its categories are the classes, in the order of their ids."""
    validation_images_path: Path | None = None
    """The folder of the pictures to validate on; absent: `images_path`."""
    validation_annotations_path: Path
    """The file of their annotations."""

    def foreseen(self) -> dict[str, Any]:
        """Returns what of the model the data decides and is known before it is read."""
        return self.seen_shape()

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads the annotations and looks at every picture; a context is not needed.

        Args:
            cache: The folder of what is made once; absent: $DOUGONG_CACHE, or `~/.cache/dougong`.
            seq_len: Unused.

        Raises:
            UsageError: A file does not exist.
            FileError: An annotation, a box or a picture is bad.
        """
        return importlib.import_module(f"{__name__}.prepared").prepared(self, cache)


PART = CocoConfig
