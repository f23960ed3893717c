"""Pictures to classify that a table lists: a row, or a line of JSON, for each.

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


class ImageTableConfig(SplitConfig):
    """Pictures listed in a `.csv`, `.tsv`, `.jsonl`, `.json` (each also `.gz` or `.zst`) or `.parquet` file."""

    name: Literal["image_table"] = "image_table"
    """Which dataset."""
    path: Path
    """The table, relative to the working folder; paths in it start from its own folder."""
    validation_path: Path | None = None
    """Another such table to validate on; absent: some pictures are kept apart (see `validation`)."""
    picture_field: str = "path"
    """The column, or field, that holds the path of the picture."""
    label_field: str = "label"
    """The column, or field, that holds the name of its class; in JSON a number will do."""
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    """The classes in the order of their numbers; absent: those of the table to train on, sorted."""

    def faults(self) -> Iterator[Fault]:
        """Yields the faults of two ways to validate, and of fields that are one."""
        yield from super().faults()
        if self.validation is not None and self.validation_path is not None:
            yield Fault("validation", "has no effect where validation_path is given. Remove one of the two.")
        if self.picture_field == self.label_field:
            yield Fault("label_field", f"must be another field than the path's, but both are {self.label_field!r}.")

    def foreseen(self) -> dict[str, Any]:
        """Returns what of the model the data decides and is known before it is read."""
        return {**({} if self.classes is None else {"num_classes": len(self.classes)}), **self.seen_shape()}

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads the table and looks at every picture; a context is not needed.

        Args:
            cache: The folder of what is made once; absent: $DOUGONG_CACHE, or `~/.cache/dougong`.
            seq_len: Unused.

        Raises:
            UsageError: The table does not exist, or is no table by its name.
            FileError: A row or a picture is bad, or a class has no picture.
        """
        return importlib.import_module(f"{__name__}.prepared").prepared(self, cache)


PART = ImageTableConfig
