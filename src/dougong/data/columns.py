"""Records with named columns: from tables, lines of JSON, JSON and Parquet, in bounded memory (JSON within its limit).

Knows formats and how each can be broken; does not know what the columns mean. Tables are `.csv`, where a quoted field
may hold commas and line ends, and `.tsv`, where a quote is a letter as any other: so the tables of texts mostly are.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dougong.core import files
from dougong.core.config import did_you_mean
from dougong.core.errors import FileError, MissingExtra, UsageError
from dougong.core.strict import parse_json
from dougong.data import raw
from dougong.data.raw import Bad
from dougong.data.source import Tally

Rows = Iterator[tuple[int, dict[str, Any] | Bad]]
_NO_TEXT, _TOO_LONG = "\udcff", "\udcfe"
"""Mark in the lines of tables what is no text, and a line that was not read; text has no such characters."""
_MARKED = "dougong.marked"
codecs.register_error(_MARKED, lambda error: (_NO_TEXT, error.end))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Table:
    """How to read tables.

    Attributes:
        columns: The names of the columns, for tables whose first line is a row already; None: it names them.
        encoding: The encoding, or None: UTF-8, or what a byte order mark says.
    """

    columns: Sequence[str] | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class Record:
    """What one row holds in the columns that are wanted.

    Attributes:
        where: Where it stands, to begin a sentence with: `reviews.tsv, line 12`.
        values: Its value in each of the columns; of tables always a text.
    """

    where: str
    values: dict[str, Any]


def records(paths: Iterable[Path], wanted: Sequence[str], table: Table, tally: Tally) -> Iterator[Record]:
    """Yields the records of files in their order; counts each as used, or as bad with where it is and why.

    One that turns out bad later is given back by `refuse`.

    Raises:
        FileError: A file, or a record beyond what the tally allows, is broken, or a table lacks a column.
        UsageError: A file does not exist, or holds no records by its name.
        MissingExtra: The format needs a library that is absent.
    """
    for path in paths:
        for where, values in located(path, wanted, table):
            if isinstance(values, Bad):
                tally.quarantine(where, str(values))
            else:
                tally.used += 1
                yield Record(where, values)


def refuse(record: Record, reason: str, tally: Tally) -> None:
    """Counts a record as bad that `records` gave out; the reason is the end of a sentence that begins with where."""
    tally.used -= 1
    tally.quarantine(record.where, reason)


def located(path: Path, wanted: Sequence[str], table: Table) -> Iterator[tuple[str, dict[str, Any] | Bad]]:
    """Yields each record of a file with where it stands, as in `Record`: the columns, or why it is bad."""
    unit = {"parquet": "row", "json": "record"}.get(table_kind(path), "line")
    return ((f"{path}, {unit} {number}", found) for number, found in rows(path, wanted, table))


def rows(path: Path, wanted: Sequence[str], table: Table) -> Rows:
    """Yields each record of a file with its number: the columns that are wanted, or why it is bad."""
    kind = table_kind(path)
    if kind == "text":
        raise UsageError(
            f"{path} must be a .csv, .tsv, .jsonl, .json or .parquet file by its name, but is not. Rename it."
        )
    if kind not in ("csv", "tsv") and table.columns is not None:
        raise UsageError(f"columns is for tables without a header, but {path} has names of its own. Remove columns.")
    if kind in ("csv", "tsv"):
        return _table(path, wanted, table, "," if kind == "csv" else "\t")
    if kind == "parquet":
        return _parquet(path, wanted)
    return (_jsonl if kind == "jsonl" else _json)(path, wanted, table.encoding)


def text_of(record: Mapping[str, Any], field: str) -> str | Bad:
    """Returns the text in a field of a record, or why there is none."""
    if field not in record:
        return Bad(f"a record must have the field {field!r}, but has only {listed_names(record)}")
    value = record[field]
    if not isinstance(value, str):
        return Bad(f"the field {field!r} must be text, but is {'null' if value is None else type(value).__name__}")
    return _bad_text(value, field) or value


def name_of(value: Any, field: str) -> str | Bad:
    """Returns the name that a text, a whole number or a truth value is, such as that of a class; or why it is none."""
    if isinstance(value, bool | int):
        return str(value).lower()
    text = text_of({field: value}, field)
    if isinstance(text, Bad):
        return text
    return text.strip() or Bad(f"the field {field!r} must be given, but is empty")


def chosen(record: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any] | Bad:
    """Returns the fields of a record that are wanted, or why they cannot be had: one is absent, or holds no Unicode."""
    for field in wanted:
        if field not in record:
            return Bad(str(text_of(record, field)))
        value = record[field]
        text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else value
        if isinstance(text, str) and (bad := _bad_text(text, field)):
            return bad
    return {field: record[field] for field in wanted}


def listed_names(names: Iterable[str]) -> str:
    """Returns `'a', 'b', ...`, for a sentence."""
    shown = [repr(name) for name in names]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "") if shown else "none"


def check_columns(where: str | Path, wanted: Sequence[str], names: Sequence[str]) -> None:
    """Refuses a table that lacks a column, or has it twice.

    Raises:
        FileError: It does.
    """
    for name in wanted:
        if name not in names:
            near = did_you_mean(name, list(names))
            advice = near if near.endswith("?") else " Name one of these."
            raise FileError(f"{where} must have the column {name!r}, but has {listed_names(names)}.{advice}")
        if names.count(name) > 1:
            raise FileError(f"{where} must have the column {name!r} once, but has it twice. Rename one.")


def table_kind(path: Path) -> str:
    """Returns `csv`, `tsv`, `jsonl`, `json` or `parquet` by the name (but for `.gz` and `.zst`), else `text`."""
    plain = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return "json" if plain.endswith(".json") else raw.kind_of(path)


def _bad_text(value: str, field: str) -> Bad | None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return Bad(f"the field {field!r} must be Unicode text, but character {error.start:,} is half of a pair")
    return None


def _jsonl(path: Path, wanted: Sequence[str], encoding: str | None) -> Rows:
    lines, found = raw.encoded_lines(path, encoding)
    for number, line in enumerate(lines, start=1):
        if line is None or line.strip():
            yield number, _line_values(line, found, wanted)


def _line_values(line: bytes | None, encoding: str, wanted: Sequence[str]) -> dict[str, Any] | Bad:
    if line is None:
        return Bad(f"a record must have at most {raw.LINE:,} bytes, but this is longer")
    try:
        record = json.loads(line.decode(encoding), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return Bad(raw.not_decoded(encoding, error, error.start))
    except RecursionError:
        return Bad("a record must be a JSON object, but this is nested too deep")
    except ValueError as error:
        return Bad(f"a line must be one JSON object, but is broken: {error}")
    if not isinstance(record, dict):
        return Bad(f"a line must be one JSON object, but is of type {type(record).__name__}")
    return chosen(record, wanted)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _json(path: Path, wanted: Sequence[str], encoding: str | None) -> Rows:
    parts, size = [], 0
    try:
        for part in raw.characters(path, raw.encoding_of(path, encoding)):
            parts.append(part)
            size += len(part)
            if size > files.JSON_BYTES:
                limit = f"{files.JSON_BYTES:,}"
                raise FileError(f"{path} must have at most {limit} characters, but is longer. Make it JSON lines.")
        found = parse_json("".join(parts))
    except Bad as bad:
        raise FileError(f"{path}: {bad}. Repair it.") from bad
    except ValueError as error:
        raise FileError(f"{path} must be JSON, but is broken: {error}. Repair it.") from error
    if not isinstance(found, list):
        kind = "an object" if isinstance(found, dict) else f"of type {type(found).__name__}"
        raise FileError(f"{path} must be a JSON array of objects, but is {kind}. Write one record after the other.")
    for number, record in enumerate(found, start=1):
        if isinstance(record, dict):
            yield number, chosen(record, wanted)
        else:
            yield number, Bad(f"a record must be a JSON object, but is of type {type(record).__name__}")


def _table(path: Path, wanted: Sequence[str], table: Table, delimiter: str) -> Rows:
    numbered = _cells(path, table.encoding, delimiter)
    if table.columns is None:
        first = next((found for _, found in numbered if isinstance(found, Bad) or found), None)
        if first is None:
            return
        if isinstance(first, Bad):
            raise FileError(f"{path} must begin with the names of its columns, but does not: {first}. Repair it.")
        names = first
    else:
        names = list(table.columns)
    check_columns(path, wanted, names)
    places = [names.index(name) for name in wanted]
    for number, found in numbered:
        if isinstance(found, Bad):
            yield number, found
        elif found:
            yield number, _row(found, names, places)


def _cells(path: Path, encoding: str | None, delimiter: str) -> Iterator[tuple[int, list[str] | Bad]]:
    """Yields the cells of each row with the number of its first line; what cannot be decoded is marked in the text."""
    lines, found = raw.encoded_lines(path, encoding)
    shown = (_TOO_LONG if line is None else line.decode(found, _MARKED) for line in lines)
    if delimiter == "\t":
        split = (line.removesuffix("\r") for line in shown)
        yield from ((number, line.split("\t") if line else []) for number, line in enumerate(split, start=1))
        return
    csv.field_size_limit(max(csv.field_size_limit(), raw.LINE))  # for the process: the module has no other way
    reader = csv.reader((line + "\n" for line in shown), delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, Bad(f"a row must be valid CSV, but is not: {error}")
        else:
            yield start, row


def _row(row: list[str], names: list[str], places: Sequence[int]) -> dict[str, Any] | Bad:
    bad = _fault_of(row, names, places)
    if bad is None:
        return {names[place]: row[place] for place in places}
    if any(_TOO_LONG in cell for cell in row):
        return Bad(f"a line must have at most {raw.LINE:,} bytes, but this is longer")
    return bad


def _fault_of(row: list[str], names: list[str], places: Sequence[int]) -> Bad | None:
    if len(row) != len(names):
        return Bad(f"a row must have {len(names)} fields, but has {len(row)}")
    if row == names:
        return Bad("a row must be a record, but this repeats the header")
    for place in places:
        if _bad_text(row[place], names[place]):
            return Bad(f"the column {names[place]!r} must be in the file's encoding, but is not; set encoding")
        if "\0" in row[place]:
            return Bad(f"the column {names[place]!r} must not hold NUL, but does; the file may be binary")
    return None


def _parquet(path: Path, wanted: Sequence[str]) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra(f"reading {path.name}", "parquet") from error
    opened = files.open_binary(path)
    try:
        with opened:
            file = parquet.ParquetFile(opened)
            check_columns(path, wanted, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=list(wanted)):
                columns = [batch.column(name) for name in wanted]
                for place in range(batch.num_rows):
                    number += 1
                    yield number, _values(wanted, [column[place] for column in columns])
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise FileError(f"{path} must be Parquet, but is broken: {reason}. Fetch it again.") from error


def _values(wanted: Sequence[str], cells: Sequence[Any]) -> dict[str, Any] | Bad:
    try:
        return {name: cell.as_py() for name, cell in zip(wanted, cells, strict=True)}
    except UnicodeDecodeError as error:
        return Bad(raw.not_decoded("utf-8", error, error.start))
