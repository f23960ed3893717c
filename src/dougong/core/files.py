"""Reading and writing so that a file is whole or absent, and a system error is one sentence (laws 6 and 7).

The only place that opens files: a test reads every line of the source for others. What is read here is bytes, text,
JSON, plain arrays and safetensors, none of which can execute. Knows these forms, not what is in them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dougong.core.errors import FileError, ResourceError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextlib.contextmanager
def explained(path: str | Path, verb: str = "read") -> Iterator[None]:
    """Turns the system's errors about a path into dougong's.

    Raises:
        UsageError: The path does not exist.
        ResourceError: No permission, a full disk, a failing disk.
        FileError: It is not a file (or folder) of the kind wanted.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist. Check the path.", name="E-PATH") from error
    except PermissionError as error:
        raise ResourceError(f"{path} cannot be {verb}: permission denied.", name="E-PERMISSION") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FileError(f"{path} cannot be {verb}: {error.strerror}.") from error
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceError(
                f"{path} cannot be written: {error.strerror}; {free_bytes(path) / 1e6:.1f} MB free. "
                "Free some space, or choose another folder.",
                name="E-DISK",
            ) from error
        raise ResourceError(f"{path} cannot be {verb}: {error.strerror or error}.") from error


def free_bytes(path: str | Path) -> int:
    """Returns the bytes free on the disk of the nearest existing parent of `path`."""
    here = Path(path).absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    return shutil.disk_usage(here).free


def read_bytes(path: str | Path, limit: int | None = None) -> bytes:
    """Returns a file's content, or its first `limit` bytes; errors are those of `explained`."""
    with explained(path), open(path, "rb") as file:
        return file.read() if limit is None else file.read(limit)


def read_text(path: str | Path) -> str:
    """Returns a file's content as UTF-8; what is none becomes the replacement character."""
    return read_bytes(path).decode("utf-8", "replace")


def open_binary(path: str | Path, mode: str = "rb") -> IO[bytes]:
    """Opens a file to read (`rb`), write anew (`wb`), append (`ab`) or both (`a+b`); errors are those of `explained`.

    What is written so is not whole or absent: use it for logs, locks, and inside `new_folder`.
    """
    with explained(path, "read" if mode == "rb" else "written"):
        return open(path, mode)


def map_array(path: str | Path, dtype: str) -> np.ndarray:
    """Returns a file of numbers of one type as a read-only array; nothing is held in memory.

    Raises:
        FileError: Its size is no multiple of the type's.
    """
    import numpy as np

    with explained(path):
        size = os.path.getsize(path)
        if size % np.dtype(dtype).itemsize:
            raise FileError(f"{path} must hold whole numbers of type {dtype}, but has {size} bytes. It was cut off.")
        if not size:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r").view(np.ndarray)  # a plain array is sliced in half the time


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file by name, in memory.

    Raises:
        FileError: It is no such file, or is cut off.
    """
    with open_tensors(path) as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)


@contextlib.contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """Gives an open safetensors file: `keys()`, `get_slice(name)` for shape and type, `get_tensor(name)` (mapped).

    Raises:
        FileError: It is no such file, or is cut off.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with explained(path):
            file = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, ValueError) as error:
        raise FileError(f"{path} must be a whole safetensors file, but is corrupt: {error}. Fetch it again.") from error
    with file:
        yield file


def read_json(path: str | Path) -> Any:
    """Returns the parsed JSON of a file.

    Raises:
        UsageError: The file does not exist.
        FileError: It is not JSON; the message gives the line.
    """
    raw = read_bytes(path)
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} must be JSON, but is not: {error}.") from error


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Writes a file that is afterwards whole or, on any failure, as it was: temporary file, fsync, rename."""
    path = Path(path)
    raw = content.encode() if isinstance(content, str) else content
    with explained(path, "written"):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """Gives a temporary folder that becomes `target` by one rename if the block succeeds, and vanishes if not.

    An existing `target` is replaced: moved aside first, removed last.

    Raises:
        ResourceError: The disk is full, failing or not writable; whatever stood at `target` still stands.
    """
    target = Path(target)
    with explained(target, "written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.partial-"))
    try:
        yield temporary
        with explained(target, "written"):
            for file in sorted(temporary.rglob("*")):
                (sync_folder if file.is_dir() else _sync_file)(file)
            sync_folder(temporary)
            os.chmod(temporary, 0o755)
            if target.exists():
                aside = temporary.with_name(temporary.name + ".old")
                os.rename(target, aside)
                os.rename(temporary, target)
                shutil.rmtree(aside)
            else:
                os.rename(temporary, target)
            sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sha256(path: str | Path) -> str:
    """Returns the hexadecimal sha256 of a file, read once in bounded memory."""
    with explained(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(root: str | Path, name: str) -> Path:
    """Returns `root/name` for a name that a file dictates.

    Raises:
        FileError: The name is absolute, climbs out of the folder, or leads out of it by a link.
    """
    root = Path(root)
    plain = name and "\0" not in name and not os.path.isabs(name) and ".." not in Path(name).parts
    if not plain or not (root / name).resolve().is_relative_to(root.resolve()):
        raise FileError(f"a file inside {root} must be named, but {name!r} leads outside. Refused.", name="E-PATH")
    return root / name
