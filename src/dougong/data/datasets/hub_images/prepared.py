"""Pictures of a data set of the hub made ready: which column holds them, and which names its classes.

Knows the library `datasets`, of which it wants bytes alone: pictures are decoded here as everywhere. Nothing of a data
set is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.core.config import did_you_mean
from dougong.core.errors import UsageError
from dougong.data.classes import number_of, sorted_labels
from dougong.data.classified import ClassifiedData, Found, made_ready
from dougong.data.datasets.hub_images import HubImagesConfig
from dougong.data.image import Limits, read_raw
from dougong.data.inspection import PictureFiles
from dougong.data.reading import Bad
from dougong.data.source import Tally
from dougong.data.sources.hub import Hub, HubConfig, translated


def prepared(config: HubImagesConfig, cache: Path | None) -> ClassifiedData:
    """Fetches the data set, looks at each picture, and returns them ready to train on."""
    folder = cache or files.cache_folder()
    splits = [split for split in (config.split, config.validation_split) if split is not None]
    hub = _source(config)
    parts = [_Records(_loaded(config, hub, split, folder), config, split, hub.fingerprint) for split in splits]
    labels, tally = parts[0].names(), Tally(config.max_bad_samples)
    rows = [(part, row, number) for part in parts for row, number in part.numbers(labels, tally)]
    begins = sum(part is parts[0] for part, _, _ in rows) if len(parts) > 1 else None
    stock = _Rows([(part, row) for part, row, _ in rows])
    found = Found(stock, [number for _, _, number in rows], labels, begins, config.dataset)
    stated = config.model_copy(update={"licence": config.licence or hub.licence})
    return made_ready(stated, found, folder, tally)


def _source(config: HubImagesConfig) -> Hub:
    return HubConfig(
        dataset=config.dataset,
        config=config.config,
        split=config.split,
        field=config.picture_field,
        revision=config.revision,
    ).build()


def _loaded(config: HubImagesConfig, hub: Hub, split: str, cache: Path) -> Any:
    """Returns a split, its pictures left as bytes or as the paths of files."""
    import datasets

    with translated(hub.config):
        found = datasets.load_dataset(
            config.dataset, config.config, split=split, revision=hub.commit, cache_dir=str(cache / "hub")
        )
        for field in (config.picture_field, config.label_field):
            if field not in found.features:
                near = did_you_mean(field, list(found.features))
                raise UsageError(f"{config.dataset} must have the column {field!r}, but has none of this name.{near}")
        if not isinstance(found.features[config.picture_field], datasets.Image):
            kind = type(found.features[config.picture_field]).__name__
            raise UsageError(f"the column {config.picture_field!r} must hold pictures, but holds {kind}. Name another.")
        return found.cast_column(config.picture_field, datasets.Image(decode=False))


class _Records:
    """The records of a split.

    Args:
        dataset: The split, its pictures left as bytes or paths.
        config: Which column is which.
        split: Its name.
        fingerprint: A hash of the data set's content.
    """

    def __init__(self, dataset: Any, config: HubImagesConfig, split: str, fingerprint: str):
        import pyarrow.compute

        self.name, self.fingerprint = f"{config.dataset}, {split}", fingerprint
        self.picture_field = config.picture_field
        self.pictures = dataset.select_columns([config.picture_field])
        self.feature, self.labels = dataset.features[config.label_field], dataset[config.label_field][:]
        column = dataset.data.column(config.picture_field)
        inside = pyarrow.compute.is_valid(pyarrow.compute.struct_field(column, "bytes")).to_pylist()
        paths = pyarrow.compute.struct_field(column, "path").to_pylist()
        self.paths = [None if held or path is None else Path(path) for held, path in zip(inside, paths, strict=True)]

    def names(self) -> list[str]:
        """Returns the names of the classes, in the order of their numbers."""
        names = getattr(self.feature, "names", None)
        return list(names) if names else sorted_labels(str(label) for label in self.labels if label is not None)

    def numbers(self, names: Sequence[str], tally: Tally) -> Iterator[tuple[int, int]]:
        """Yields each record that has a class, and the number of that; counts the others as bad."""
        own, known = getattr(self.feature, "names", None), {name: number for number, name in enumerate(names)}
        for row, label in enumerate(self.labels):
            try:
                if label is None or (own and not 0 <= label < len(own)):
                    raise Bad("a picture must have a class, but this has none")
                yield row, number_of(own[label] if own else str(label), known)
            except Bad as bad:
                tally.quarantine(f"{self.name}, record {row + 1}", str(bad))


@dataclass(frozen=True)
class _Rows:
    """Rows of records; a `Stock`."""

    rows: Sequence[tuple[_Records, int]]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, number: int) -> str:
        """Returns the split and the record."""
        records, row = self.rows[number]
        return f"{records.name}, record {row + 1}"

    def stamp(self, number: int) -> str:
        """Returns the fingerprint of the data set, or the size and time of a file."""
        records, row = self.rows[number]
        path = records.paths[row]
        return records.fingerprint if path is None else PictureFiles([path]).stamp(0)

    def raw(self, number: int, limits: Limits) -> bytes:
        """Returns the content of the picture's file."""
        records, row = self.rows[number]
        path = records.paths[row]
        if path is not None:
            return read_raw(path, limits)
        record = records.pictures[row][records.picture_field]
        if record is None or record["bytes"] is None:
            raise Bad("a record must have a picture, but this has none")
        return record["bytes"]
