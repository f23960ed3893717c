"""A table of pictures made ready: which rows are sound, and which classes they name.

Knows rows; how files are read is in `columns.py`, and what becomes of the pictures in `classified.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dougong.data.classes import number_of, sorted_labels
from dougong.data.classified import ClassifiedData, Found, made_ready
from dougong.data.columns import Table, located, name_of
from dougong.data.datasets.image_table import ImageTableConfig
from dougong.data.inspection import PictureFiles
from dougong.data.raw import Bad
from dougong.data.source import Tally

_Row = tuple[str, str | Bad, str]  # where it stands, the path of its picture or why it is bad, its label


@dataclass
class _Rows:
    """The pictures of sound rows, and their classes."""

    paths: list[Path]
    labels: list[int]


def prepared(config: ImageTableConfig, cache: Path | None) -> ClassifiedData:
    """Reads the tables, looks at each picture, and returns them ready to train on."""
    tally = Tally(config.max_bad_samples)
    tables = [path.expanduser() for path in (config.path, config.validation_path) if path is not None]
    rows = [list(_rows(table, config)) for table in tables]
    labels = config.classes or sorted_labels(label for _, path, label in rows[0] if not isinstance(path, Bad))
    found = [_sound(table, part, labels, tally) for table, part in zip(tables, rows, strict=True)]
    return made_ready(
        config,
        Found(
            PictureFiles([path for part in found for path in part.paths]),
            [label for part in found for label in part.labels],
            labels,
            len(found[0].paths) if len(found) > 1 else None,
            ", ".join(map(str, tables)),
        ),
        cache,
        tally,
    )


def _sound(table: Path, rows: Sequence[_Row], labels: Sequence[str], tally: Tally) -> _Rows:
    """Returns the rows that are sound, and counts the others."""
    numbers, found = {label: number for number, label in enumerate(labels)}, _Rows([], [])
    for where, path, label in rows:
        try:
            if isinstance(path, Bad):
                raise path
            found.labels.append(number_of(label, numbers))
            found.paths.append(table.parent / path)
        except Bad as bad:
            tally.quarantine(where, str(bad))
    return found


def _rows(table: Path, config: ImageTableConfig) -> Iterator[_Row]:
    """Yields the rows of a table in their order."""
    fields = config.picture_field, config.label_field
    for where, values in located(table, fields, Table()):
        if isinstance(values, Bad):
            yield where, values, ""
            continue
        path, label = (name_of(values[field], field) for field in fields)
        yield where, label if isinstance(label, Bad) else path, str(label)
