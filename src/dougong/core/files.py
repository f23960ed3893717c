"""Reading and writing so that a file is whole or absent, and a system error is one sentence (laws 6 and 7).

The only place that opens files: a test reads every line of the source for others. What is read here is bytes, text,
JSON, plain arrays and safetensors, none of which can execute; it is read from regular files alone, never from a pipe or
a device, and in bounded memory. Knows these forms, not what is in them.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import importlib.resources
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from dougong.core.errors import FileError, ResourceError, UntrustedError, UsageError
from dougong.core.strict import parse_json as parse_json  # read_json for a text

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

JSON_BYTES = 100_000_000
"""Bytes of the largest JSON file that is read."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".distcp", ".metadata")
"""Endings of the names of files that are, or may hold, pickles."""
_CODE_KEYS = {"auto_map", "trust_remote_code", "custom_pipelines", "_target_", "__class__", "__reduce__"}
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
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise FileError(f"{str(path)[:200]} cannot be {verb}: {error.strerror}. Check the path.") from error
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
    """Returns a file's content, or its first `limit` bytes; errors are those of `open_binary`.

    No more is asked for than the file has: to read asks for all of the memory that it is told to fill.
    """
    with open_binary(path) as file, explained(path):
        return file.read() if limit is None else file.read(min(limit, os.fstat(file.fileno()).st_size + 1))


def read_text(path: str | Path) -> str:
    """Returns a file's content as UTF-8; what is none becomes the replacement character."""
    return read_bytes(path).decode("utf-8", "replace")


def cache_folder() -> Path:
    """Returns the folder of what is made once: $DOUGONG_CACHE, or `~/.cache/dougong`."""
    return Path(os.environ.get("DOUGONG_CACHE") or Path.home() / ".cache" / "dougong")


def read_own(name: str) -> str:
    """Returns a text that comes with the package, such as `recipes/gpt-stdlib.yaml`."""
    return importlib.resources.files("dougong").joinpath(*name.split("/")).read_text(encoding="utf-8")


def own_names(folder: str) -> list[str]:
    """Returns the names of the files in a folder of the package, sorted."""
    return sorted(entry.name for entry in importlib.resources.files("dougong").joinpath(folder).iterdir())


def open_binary(path: str | Path, mode: str = "rb") -> IO[bytes]:
    """Opens a file to read (`rb`), write anew (`wb`), append (`ab`) or both (`a+b`); errors are those of `explained`.

    What is written so is not whole or absent: use it for logs, locks, and inside `new_folder`.

    Raises:
        FileError: It is a pipe, a socket or a folder; to read, a device; to write, a link. It is not opened then, nor
            waited for.
    """
    with explained(path, "read" if mode == "rb" else "written"):
        if mode == "rb":
            return os.fdopen(_regular(path), mode)
        if os.path.lexists(path):
            _check_writable(path)
        return open(path, mode)


def _regular(path: str | Path) -> int:
    """Returns the descriptor of a regular file, opened to read."""
    others = (stat.S_ISFIFO, stat.S_ISSOCK, stat.S_ISCHR, stat.S_ISBLK)
    _refuse_special(path, os.stat(path), others)  # before opening: merely to open a device or a pipe may do something
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)  # again: another may have been put in its place since
        _refuse_special(path, found, others)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_writable(path: str | Path) -> None:
    """Refuses a pipe, which would be waited for, and a link, which leads to a file that is somebody else's."""
    found = os.stat(path) if os.path.exists(path) else None
    if os.path.islink(path) and not (found and stat.S_ISCHR(found.st_mode)):
        raise FileError(f"{path} must be a file to write, but is a link. Remove the link.", name="E-PATH")
    if found and stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        raise FileError(f"{path} must be a file of its own, but has another name too. Copy it.", name="E-PATH")
    if found:
        _refuse_special(path, found, (stat.S_ISFIFO, stat.S_ISSOCK))


def _refuse_special(path: str | Path, found: os.stat_result, kinds: tuple[Any, ...]) -> None:
    if any(is_kind(found.st_mode) for is_kind in kinds):
        raise FileError(f"{path} must be a regular file, but is a pipe, a socket or a device. Refused.")


def map_array(path: str | Path, dtype: str) -> np.ndarray:
    """Returns a file of numbers of one type as a read-only array; nothing is held in memory.

    Args:
        path: The file.
        dtype: The type with its byte order, such as `<u2`.

    Raises:
        FileError: Its size is no multiple of the type's.
    """
    import numpy as np

    with open_binary(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size % np.dtype(dtype).itemsize:
            raise FileError(f"{path} must hold whole numbers of type {dtype}, but has {size} bytes. It was cut off.")
        if not size:
            return np.empty(0, dtype)
        # mode="r" and a file, not a path, so that it is this file; a plain array is sliced in half the time
        return np.memmap(file, dtype, mode="r").view(np.ndarray)


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
        FileError: It is no such file, or is cut off, or names a tensor twice.
    """
    from safetensors import SafetensorError, safe_open

    _check_header(path)
    try:
        with explained(path):
            file = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, ValueError, OverflowError) as error:
        raise _corrupt(path, str(error)) from error
    with file:
        try:
            yield file
        except SafetensorError as error:
            raise _corrupt(path, str(error)) from error


def _check_header(path: str | Path) -> None:
    """Sees what the library does not: that the header is no larger than the file, and names each tensor once."""
    with open_binary(path) as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(JSON_BYTES, size - 8):
            raise _corrupt(path, f"its header would have {length:,} bytes of the file's {size:,}")
        raw = file.read(length)
    try:
        header = parse_json(raw)
    except ValueError as error:
        raise _corrupt(path, f"its header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise _corrupt(path, "its header is no JSON object")


def _corrupt(path: str | Path, reason: str) -> FileError:
    return FileError(f"{path} must be a whole safetensors file, but is corrupt: {reason.rstrip('.')}. Fetch it again.")


def read_json(path: str | Path) -> Any:
    """Returns the parsed JSON of a file.

    Raises:
        UsageError: The file does not exist.
        FileError: It is not JSON (the message gives the line), or too large.
    """
    raw = read_bytes(path, JSON_BYTES + 1)
    if len(raw) > JSON_BYTES:
        raise FileError(f"{path} must have at most {JSON_BYTES:,} bytes, but has more. Refused.")
    try:
        return parse_json(raw)
    except ValueError as error:
        raise FileError(f"{path} must be JSON, but is not: {error}.") from error


def read_settings(path: str | Path) -> dict[str, Any]:
    """Returns the JSON object of a file that stands beside weights; none of its keys asks for code.

    Raises:
        UntrustedError: One does, at any depth; the message names it.
        FileError: It is no JSON object.
    """
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise FileError(f"{path} must be a JSON object, but is a {type(settings).__name__}. Replace it.")
    refuse_code(settings, str(path))
    return settings


def refuse_code(settings: Any, where: str) -> None:
    """Refuses settings that ask for code to be run, at any depth.

    Raises:
        UntrustedError: Naming the key.
    """
    open_items = [settings]
    while open_items:
        item = open_items.pop()
        if isinstance(item, dict):
            for key in sorted(_CODE_KEYS & item.keys()):
                raise UntrustedError(
                    f"{where} must be data, but its key {key!r} asks for code of its own. Take a model that one of "
                    "the built-in architectures computes, or remove the key if this is one."
                )
            open_items.extend(item.values())
        elif isinstance(item, list):
            open_items.extend(item)


def refuse_pickles(folder: str | Path) -> None:
    """Refuses a folder of ours that holds what is pickled, by its name; nothing of it is opened.

    Raises:
        UntrustedError: Naming the file.
    """
    with explained(folder):
        pickled = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(PICKLES))
    if pickled:
        raise UntrustedError(
            f"{folder} must hold safetensors and JSON alone, but holds {pickled[0]}, a pickle, which can run anything "
            "when opened. It is not opened: remove it, if the rest is known."
        )


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
def new_folder(target: str | Path, before: Callable[[str], object] = lambda stage: None) -> Iterator[Path]:
    """Gives a temporary folder that becomes `target` by one rename if the block succeeds, and vanishes if not.

    An existing `target` is replaced: moved aside first, removed last.

    Args:
        target: The folder to be.
        before: Called with `fsync` once the block has succeeded, and with `commit` before the rename.

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
            before("fsync")
            for file in sorted(temporary.rglob("*")):
                (sync_folder if file.is_dir() else sync_file)(file)
            sync_folder(temporary)
            os.chmod(temporary, 0o755)
            before("commit")
            _take_place(temporary, target)
            sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _take_place(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.rename(temporary, target)
        return
    aside = temporary.with_name(temporary.name + ".old")
    os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(target: str | Path) -> None:
    """Removes what `new_folder` for this target left behind when its process was killed; no other may be at it."""
    target = Path(target)
    for path in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        shutil.rmtree(path, ignore_errors=True)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Makes the content of a file durable, whoever wrote it."""
    with open_binary(path) as file:
        os.fsync(file.fileno())


def sha256(path: str | Path) -> str:
    """Returns the hexadecimal sha256 of a file, read once in bounded memory."""
    with open_binary(path) as file, explained(path):
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


def inside(root: str | Path, name: str) -> Path:
    """Returns `root/name` for a name that a file dictates; it need not exist.

    Raises:
        FileError: The name is absolute, climbs out of the folder, leads out of it by a link, or can be no name.
    """
    root = Path(root)
    plain = name and "\0" not in name and not os.path.isabs(name) and ".." not in Path(name).parts
    if not plain or not _leads_inside(root, root / name):
        shown = repr(name) if len(name) <= 100 else f"{name[:100]!r}..."
        raise FileError(f"a file inside {root} must be named, but {shown} leads outside. Refused.", name="E-PATH")
    return root / name


def _leads_inside(root: Path, path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError):  # too long, links in a circle, no Unicode
        return False
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def members(folder: str | Path, index: str) -> list[Path]:
    """Returns the files that a folder's index (`model.safetensors.index.json`) maps tensors to, by name.

    Raises:
        FileError: It is no such index; or a file of it leads outside, or is no regular file, or differs from another
            only in capital letters, so that elsewhere the two would be one.
    """
    path = member(folder, index)
    content = read_json(path)
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise FileError(f"{path} must map names of tensors to files, but does not. Fetch it again.")
    names = sorted(set(shards.values()))
    if len({name.casefold() for name in names}) < len(names):
        raise FileError(f"{path} must name files that differ in more than capital letters, but does not. Refused.")
    return [member(folder, name) for name in names]


def member(folder: str | Path, name: str) -> Path:
    """Returns the path of a file of a model folder, which need not exist; it is not opened.

    In the hub's own cache such a file is a link into the folder of its repository; elsewhere no link leads outside.

    Raises:
        FileError: The name or a link leads outside, or it is no regular file.
    """
    folder = Path(folder)
    cached = folder.parent.name == "snapshots"
    path = inside(folder.parent.parent, f"snapshots/{folder.name}/{name}") if cached else inside(folder, name)
    if path.exists() and not path.is_file():
        raise FileError(f"{path} must be a regular file, but is not. Refused.")
    return path
