"""Pictures to classify, a folder for each class: the form of ImageNet and of most small sets.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from dougong.core.config import Fault
from dougong.data.images import SplitConfig


class ImageFolderConfig(SplitConfig):
    """Pictures in folders; the name of each folder is the class of all that lie in or below it."""

    name: Literal["image_folder"] = "image_folder"
    """Which dataset."""
    path: Path
    """The folder that holds a folder for each class, relative to the working folder."""
    validation_path: Path | None = None
    """Another such folder to validate on; absent: some pictures are kept apart (see `validation`)."""

    def faults(self) -> Iterator[Fault]:
        """Yields the fault of two ways to validate."""
        yield from super().faults()
        if self.validation is not None and self.validation_path is not None:
            yield Fault("validation", "has no effect where validation_path is given. Remove one of the two.")

    def foreseen(self) -> dict[str, Any]:
        """Returns what of the model the data decides and is known before it is read."""
        return self.seen_shape()

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Finds the classes and looks at every picture; a context is not needed.

        Args:
            cache: The folder of what is made once; absent: $DOUGONG_CACHE, or `~/.cache/dougong`.
            seq_len: Unused.

        Raises:
            UsageError: A folder does not exist.
            FileError: A picture is broken, or a class has none.
        """
        return importlib.import_module(f"{__name__}.prepared").prepared(self, cache)


PART = ImageFolderConfig
