"""Pictures to classify from a data set of the Hugging Face hub, or from a folder laid out like one.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from dougong.core.config import Fault
from dougong.data.images import SplitConfig


class HubImagesConfig(SplitConfig):
    """A data set of the hub with a column of pictures and one of classes; or a local folder of such files."""

    name: Literal["hub_images"] = "hub_images"
    """Which dataset."""
    dataset: str
    """Name on the hub (`owner/name`), or a local folder."""
    config: str | None = None
    """Which of the data set's configurations; absent: its only one."""
    split: str = "train"
    """Which of its splits to train on."""
    validation_split: str | None = None
    """Which of its splits to validate on; absent: some pictures are kept apart (see `validation`)."""
    revision: str | None = None
    """Commit, tag or branch on the hub; absent: the newest. A commit makes the run repeatable."""
    picture_field: str = "image"
    """The column that holds the picture."""
    label_field: str = "label"
    """The column that holds its class."""
    licence: str = ""
    """Licence of the pictures, for the model card; absent: what the data set's card states."""

    def faults(self) -> Iterator[Fault]:
        """Yields the faults of two ways to validate, and of splits that are one."""
        yield from super().faults()
        if self.validation is not None and self.validation_split is not None:
            yield Fault("validation", "has no effect where validation_split is given. Remove one of the two.")
        if self.validation_split == self.split:
            yield Fault("validation_split", f"must be another split than {self.split!r}, but is the same.")

    def foreseen(self) -> dict[str, Any]:
        """Returns what of the model the data decides and is known before it is read."""
        return self.seen_shape()

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Fetches the data set and looks at every picture; a context is not needed.

        Args:
            cache: The folder of what is made once; absent: $DOUGONG_CACHE, or `~/.cache/dougong`.
            seq_len: Unused.

        Raises:
            MissingExtra: The library `datasets` is absent.
            UsageError: There is no such data set, configuration, split or column.
            ResourceError: The network is not there.
            FileError: A picture is bad, or a class has none.
        """
        return importlib.import_module(f"{__name__}.prepared").prepared(self, cache)


PART = HubImagesConfig
