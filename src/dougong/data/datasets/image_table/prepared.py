"""A table of pictures made ready: which rows are sound, and which classes they name.

Knows rows; how files are read is in `reading.py`, and what becomes of the pictures in `classified.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dougong.core.errors import UsageError
from dougong.core.files import parse_json
from dougong.data import reading
from dougong.data.classes import number_of, sorted_labels
from dougong.data.classified import ClassifiedData, Found, made_ready
from dougong.data.datasets.image_table import ImageTableConfig
from dougong.data.inspection import PictureFiles
from dougong.data.reading import Bad, Reading
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
    rows = [list(_rows(table, config, tally)) for table in tables]
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


def _rows(table: Path, config: ImageTableConfig, tally: Tally) -> Iterator[_Row]:
    """Yields the rows of a table in their order."""
    kind = reading.kind_of(table)
    if kind == "text":
        raise UsageError(f"{table} must be a .csv, .tsv, .jsonl or .parquet file by its name, but is not. Rename it.")
    own = Tally(allowed=None)
    yield from _of_lines(table, config, own) if kind == "jsonl" else _of_columns(table, config, own)
    for reason, count in own.left_out.items():
        tally.left_out[reason] = tally.left_out.get(reason, 0) + count


def _of_lines(table: Path, config: ImageTableConfig, own: Tally) -> Iterator[_Row]:
    for line in reading.lines(table, Reading(), own):
        path: str | Bad
        label = ""
        try:
            record = parse_json(line.text)
            if not isinstance(record, dict):
                raise Bad(f"a line must be one JSON object, but is of type {type(record).__name__}")
            number = record.get(config.label_field)
            if isinstance(number, int) and not isinstance(number, bool):
                record[config.label_field] = str(number)
            path, label = (_text(record, field) for field in (config.picture_field, config.label_field))
        except Bad as bad:
            path = bad
        except ValueError as error:
            path = Bad(f"a line must be one JSON object, but is broken: {error}")
        yield line.name, path, label
    yield from ((where, Bad(why), "") for where, why in own.quarantined)


def _text(record: dict[str, object], field: str) -> str:
    text = reading.text_of(record, field)
    if isinstance(text, Bad):
        raise text
    if not text:
        raise Bad(f"the field {field!r} must be given, but is empty")
    return text


def _of_columns(table: Path, config: ImageTableConfig, own: Tally) -> Iterator[_Row]:
    """Reads the table once for each of the two columns, as `reading.documents` gives one, and joins them by rows."""
    other = Tally(allowed=None)
    paths = {each.name: each.text for each in reading.documents(table, Reading(config.picture_field), own)}
    labels = {each.name: each.text for each in reading.documents(table, Reading(config.label_field), other)}
    bad = {**dict(other.quarantined), **dict(own.quarantined)}
    own.left_out.pop("empty", None)
    for where in sorted({*paths, *labels, *bad}, key=lambda where: int(where.rpartition(" ")[2])):
        if where in bad:
            yield where, Bad(bad[where]), ""
        elif where in paths and where in labels:
            yield where, paths[where], labels[where]
        else:
            empty = config.label_field if where in paths else config.picture_field
            yield where, Bad(f"the column {empty!r} must be given, but is empty"), ""
