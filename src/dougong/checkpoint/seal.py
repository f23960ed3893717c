"""The seal of a folder: `manifest.json`, by which any change of a file is seen, down to the tensor it is in (law 7).

It names every file with its size and sha256, of a safetensors file also the sha256 of its header and of each tensor's
bytes, and carries a sha256 of itself. Knows bytes and where a tensor's are; does not know what a folder is for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from dougong.core import files
from dougong.core.errors import DougongError, FileError
from dougong.core.strict import parse_json

MANIFEST = "manifest.json"
HEADER = "the header"
_CHUNK = 1 << 22
_LONGEST_HEADER = 100_000_000
Locate = Callable[[Path, str], Path]


class Terms(NamedTuple):
    """What a seal holds for.

    Attributes:
        exempt: Files that may change: they are not in the manifest.
        read: The endings of file names that are read from the folder itself; a file so named that is not in the
            manifest is a fault, any other is left alone. Absent: every file that is not in the manifest is a fault.
        locate: Finds a file of the folder by the name that the manifest gives.
    """

    exempt: Collection[str] = ()
    read: tuple[str, ...] | None = None
    locate: Locate = files.inside


WHOLE = Terms()


def seal(folder: Path, terms: Terms = WHOLE) -> None:
    """Writes the manifest of a folder; every file is read once."""
    listed = {name: _entry(folder / name) for name in _names(folder) if name not in terms.exempt}
    files.write_whole(folder / MANIFEST, _text(listed))


def is_sealed(folder: Path) -> bool:
    """Tells whether a folder has a manifest."""
    return (folder / MANIFEST).exists()


def verify(folder: Path, terms: Terms = WHOLE) -> None:
    """Checks every byte of a sealed folder; every file is read once, in bounded memory.

    Raises:
        FileError: A file is missing, one too many, of another size or content than the manifest says; named are the
            file, the tensor where there is one, and both sha256.
    """
    fault = fault_of_form(folder, terms) or fault_of_content(folder, terms)
    if fault is not None:
        raise FileError(fault, name="E-CORRUPT")


def verify_file(folder: Path, name: str, terms: Terms = WHOLE) -> None:
    """Checks one file of a sealed folder.

    Raises:
        FileError: The manifest is broken or does not list it, or the file is not what it says.
    """
    entry = _listed(folder, terms).get(name)
    if entry is None:
        raise FileError(f"{folder / MANIFEST} must list {name}, but does not. {_ADVICE}", name="E-CORRUPT")
    fault = _other_size(folder, name, entry, terms) or _other_content(folder, name, entry, terms)
    if fault is not None:
        raise FileError(fault, name="E-CORRUPT")


def fault_of_form(folder: Path, terms: Terms = WHOLE) -> str | None:
    """Returns what is wrong with the manifest, or with the names and sizes of the files, as a sentence; or None."""
    try:
        listed = _listed(folder, terms)
    except FileError as error:
        return str(error)
    present = set(_names(folder)) - set(terms.exempt)
    if missing := sorted(listed.keys() - present):
        return f"{folder / missing[0]} must be there, but is not{_more(missing)}. {_ADVICE}"
    extra = sorted(name for name in present - listed.keys() if _matters(name, terms))
    if extra:
        return f"{folder} must hold only what its manifest lists, but holds {extra[0]} too{_more(extra)}. {_ADVICE}"
    faults = (_other_size(folder, name, entry, terms) for name, entry in listed.items())
    return next((fault for fault in faults if fault is not None), None)


def fault_of_content(folder: Path, terms: Terms = WHOLE) -> str | None:
    """Returns the first file whose content is not what the manifest says, and where in it, as a sentence; or None."""
    faults = (_other_content(folder, name, entry, terms) for name, entry in _listed(folder, terms).items())
    return next((fault for fault in faults if fault is not None), None)


def tensor_hashes(folder: Path, terms: Terms = WHOLE) -> dict[str, dict[str, str]]:
    """Returns the sha256 of every tensor, by file and name, as the manifest has it.

    Raises:
        FileError: The manifest is missing or broken.
    """
    return {name: entry["tensors"] for name, entry in _listed(folder, terms).items() if "tensors" in entry}


_ADVICE = "It was changed after it was written: restore it from a copy."


def _text(listed: Mapping[str, Any]) -> str:
    whole = {"files": listed, "sha256": hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _listed(folder: Path, terms: Terms) -> dict[str, Any]:
    """Returns the manifest's list of files.

    Raises:
        FileError: The manifest is missing, malformed, or not to the byte what was sealed.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileError(f"{path} must be there, but is not. {_ADVICE}", name="E-CORRUPT")
    path = terms.locate(folder, MANIFEST)
    raw = files.read_bytes(path, files.JSON_BYTES)
    try:
        listed = parse_json(raw)["files"]
        sound = isinstance(listed, dict) and all(map(_is_entry, listed.values()))
        sealed = sound and raw == _text(listed).encode()
    except (ValueError, TypeError, KeyError):
        sealed = False
    if not sealed:
        found = hashlib.sha256(raw).hexdigest()
        raise FileError(
            f"{path} must carry its own sha256, but does not (its bytes have {found[:16]}). {_ADVICE}",
            name="E-CORRUPT",
        )
    return listed


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("bytes"), int):
        return False
    tensors = entry.get("tensors", {})
    hashes = [entry.get("sha256"), entry.get("header", ""), *(tensors.values() if isinstance(tensors, dict) else [0])]
    return all(isinstance(value, str) for value in hashes) and ("tensors" in entry) == ("header" in entry)


def _names(folder: Path) -> list[str]:
    """Returns what is in a folder by relative path, sorted: files, whatever else is no folder, and empty folders."""
    with files.explained(folder):
        found = [p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink() or not any(p.iterdir())]
    return sorted(name for path in found if (name := path.relative_to(folder).as_posix()) != MANIFEST)


def _matters(name: str, terms: Terms) -> bool:
    return terms.read is None or ("/" not in name and name.endswith(terms.read))


def _more(names: Collection[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _other_size(folder: Path, name: str, entry: Mapping[str, Any], terms: Terms) -> str | None:
    path = terms.locate(folder, name)
    if not path.is_file():
        return f"{path} must be a regular file, but is not. {_ADVICE}"
    size = path.stat().st_size
    if size == entry["bytes"]:
        return None
    return f"{path} must have {entry['bytes']} bytes, but has {size}. {_ADVICE}"


def _other_content(folder: Path, name: str, entry: Mapping[str, Any], terms: Terms) -> str | None:
    """Reads a file once; only where it is not what it was, again, to find the tensor."""
    path = terms.locate(folder, name)
    found = files.sha256(path)
    if found == entry["sha256"]:
        return None
    expected, where = entry["sha256"], ""
    changed = _changed_parts(path, entry)
    if changed:
        part, expected, found = changed[0]
        where = f" in {part if part == HEADER else f'the tensor {part}'}{_more([name for name, *_ in changed])}"
    return f"{path} must have sha256 {expected[:16]}{where}, but has {found[:16]}. {_ADVICE}"


def _changed_parts(path: Path, entry: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Returns the parts of a safetensors file that are not what they were: name, expected and found sha256."""
    if "tensors" not in entry:
        return []
    now = _entry(path)
    expected = {HEADER: entry["header"], **entry["tensors"]}
    found = {HEADER: now.get("header", now["sha256"]), **now.get("tensors", {})}
    if found[HEADER] != expected[HEADER]:  # then the tensors' places are not to be believed
        return [(HEADER, expected[HEADER], found[HEADER])]
    return [(name, expected[name], found[name]) for name in expected if found.get(name) != expected[name]]


def _entry(path: Path) -> dict[str, Any]:
    """Returns what the manifest says of a file, from one reading of it."""
    size, whole = path.stat().st_size, hashlib.sha256()
    with files.open_binary(path) as file:
        try:
            parts = dict(_hashed_parts(file, size, whole)) if path.suffix == ".safetensors" else {}
        except _NoSafetensors:
            parts, whole = {}, hashlib.sha256()
            file.seek(0)
        for chunk in _chunks(file, size - file.tell()):
            whole.update(chunk)
    entry: dict[str, Any] = {"bytes": size, "sha256": whole.hexdigest()}
    if parts:
        entry |= {"header": parts.pop(HEADER), "tensors": dict(sorted(parts.items()))}
    return entry


class _NoSafetensors(DougongError):
    """A file that is named as one is no safetensors file."""


def _hashed_parts(file: IO[bytes], size: int, whole: Any) -> Iterator[tuple[str, str]]:
    """Yields header and tensors of a safetensors file with their sha256, in the order of the file; adds to `whole`."""
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise _NoSafetensors("the header is longer than the file")
    header = file.read(length)
    places = _places(header, size - 8 - length)
    whole.update(head + header)
    yield HEADER, hashlib.sha256(head + header).hexdigest()
    for name, count in places:
        own = hashlib.sha256()
        for chunk in _chunks(file, count):
            own.update(chunk)
            whole.update(chunk)
        yield name, own.hexdigest()


def _places(header: bytes, size: int) -> list[tuple[str, int]]:
    """Returns the tensors in the order of the file with their bytes, which must fill it without gaps."""
    try:
        values = {name: value for name, value in json.loads(header).items() if name != "__metadata__"}
        spans = sorted((*value["data_offsets"], name) for name, value in values.items())
        ends = [0, *(end for _, end, _ in spans)]
        starts = [*(begin for begin, _, _ in spans), size]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _NoSafetensors("the header is not that of a safetensors file") from error
    if ends != starts or any(end < begin for begin, end, _ in spans) or HEADER in values:
        raise _NoSafetensors("the tensors do not fill the file")
    return [(name, end - begin) for begin, end, name in spans]


def _chunks(file: IO[bytes], count: int) -> Iterator[memoryview]:
    """Yields the next bytes of a file in pieces; each is gone with the next one."""
    view = memoryview(bytearray(min(count, _CHUNK)))
    while count > 0:
        read = file.readinto(view[: min(count, _CHUNK)])  # type: ignore[attr-defined]
        if not read:
            return
        yield view[:read]
        count -= read
