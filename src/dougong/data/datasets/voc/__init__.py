"""Pictures with objects to find, in the form of Pascal VOC: a file of XML for each picture, and lists of pictures.

Here is the config, which needs no arrays, so that a recipe is checked at once; what is made of it is in `prepared.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from dougong.core.config import Fault
from dougong.data.images import AnnotatedConfig

_List = Annotated[str, Field(pattern=r"^[^/\\\x00]+$", max_length=200)]


class VocConfig(AnnotatedConfig):
    """A folder with `Annotations`, `JPEGImages` and `ImageSets/Main`, as VOC has them (Everingham et al. 2010)."""

    name: Literal["voc"] = "voc"
    """Which dataset."""
    path: Path
    """The folder, relative to the working folder."""
    train_list: _List = "train"
    """The list of pictures to train on: a file of `ImageSets/Main`, without `.txt`."""
    validation_list: _List = "val"
    """The list of pictures to validate on."""
    classes: Annotated[list[str], Field(min_length=1)] | None = None
    """The classes in the order of their numbers; absent: those of the training annotations, sorted."""

    def faults(self) -> Iterator[Fault]:
        """Yields the fault of one list for both parts."""
        yield from super().faults()
        if self.train_list == self.validation_list:
            yield Fault("validation_list", f"must be another list than train_list, but both are {self.train_list!r}.")

    def foreseen(self) -> dict[str, Any]:
        """Returns what of the model the data decides and is known before it is read."""
        return {**({} if self.classes is None else {"num_classes": len(self.classes)}), **self.seen_shape()}

    def prepare(self, cache: Path | None = None, seq_len: int | None = None) -> Any:
        """Reads the annotations and looks at every picture; a context is not needed.

        Args:
            cache: The folder of what is made once; absent: $DOUGONG_CACHE, or `~/.cache/dougong`.
            seq_len: Unused.

        Raises:
            UsageError: The folder or a list does not exist.
            FileError: An annotation, a box or a picture is bad.
        """
        return importlib.import_module(f"{__name__}.prepared").prepared(self, cache)


PART = VocConfig
