"""The one place where something pickled is opened: weights alone, in an isolated process, to be written as safetensors.

Run as a module by `run/importing.py`, inside the walls of `core/isolation.py`. Three things stand between a hostile
file and this machine: torch's unpickler for weights, which builds nothing but tensors and plain values; an audit hook,
which ends the process at the first import, call of the system or foreign file; and the walls. Knows torch's files; does
not know where they come from, and nobody trusts its answer further than a list of names.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dougong.core import files
from dougong.core.errors import DougongError, FileError, ResourceError, UntrustedError
from dougong.core.isolation import limit_memory

CAUGHT = 66
"""The exit code of a process that the audit hook ended."""
_SPARE = 1_500_000_000
"""Bytes of memory beyond what the tensors themselves need."""
_GROWTH = 8
"""How many times as large as their file all tensors may be: tied and expanded ones are written out."""
_SILENT = {
    "array.__new__", "builtins.id", "gc.get_objects", "gc.get_referents", "gc.get_referrers", "mmap.__new__",
    "object.__delattr__", "object.__getattr__", "object.__setattr__", "os.listdir", "sys._current_frames",
    "sys._getframe", "sys.excepthook", "sys.unraisablehook",
}  # fmt: skip
_STORED = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2,
}  # fmt: skip
_TOLD = 1000
"""How many things that are left out are named."""
_TAR = b"ustar"


def main(words: list[str]) -> None:
    """Converts what the one argument says (JSON: source, folder, stem, key, shard_bytes); prints an answer (JSON)."""
    request = json.loads(words[0])
    warnings.simplefilter("ignore")
    _warm_up()
    with files.open_binary(request["source"]) as source:
        size = os.fstat(source.fileno()).st_size
        limit_memory(size + 3 * min(_GROWTH * size, request["shard_bytes"]) + _SPARE)
        watch(source.fileno())
        try:
            answer = _convert(source, size, request)
        except DougongError as error:
            answer = {"refused": str(error), "name": error.name}
        except Exception as error:  # whatever torch raises over a file that is none of its own
            answer = {"refused": _reason(error), "name": FileError.name}
    print(json.dumps(answer), flush=True)
    os._exit(0)  # what an interpreter does at its end, the hook would not understand


def _warm_up() -> None:
    """Lets torch import what it imports late, as nothing can be imported once the hook listens."""
    tensors = {"a": torch.nn.Parameter(torch.ones(2)), "b": torch.ones(3, dtype=torch.bfloat16)[1:]}
    for zipped in (True, False):
        content = io.BytesIO()
        torch.save(tensors, content, _use_new_zipfile_serialization=zipped)
        _read_sample(content.getvalue())
    for encoding in ("cp437", "latin-1", "ascii"):  # of names in archives, and of bytes in pickles of old
        codecs.lookup(encoding)
    for broken in (b"", b"\x80\x02c__main__\nx\n.", b"PK\x03\x04"):
        with contextlib.suppress(Exception):
            _read_sample(broken)
    safetensors.torch.save({name: _plain(tensor) for name, tensor in tensors.items()})


def _read_sample(content: bytes) -> None:
    with os.fdopen(os.memfd_create("sample"), "w+b") as file:
        file.write(content)
        file.seek(0)
        _opened(file)


def watch(source: int) -> None:
    """Ends this process at the first event that reading tensors does not need; it cannot be undone.

    Args:
        source: The descriptor of the one file that may be opened again.
    """
    own = {source, f"/proc/self/fd/{source}"}

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event in _SILENT or (event == "open" and _is_reading(details, own)):
            return
        os.write(2, f"{event} {str(details[:1])[:200]}\n".encode(errors="replace"))
        os._exit(CAUGHT)

    sys.addaudithook(hook)


def _is_reading(details: tuple[Any, ...], own: set[Any]) -> bool:
    path, mode = details[:2]
    return type(path) in (str, int) and path in own and mode in ("r", "rb", None)


def _convert(source: IO[bytes], size: int, request: Mapping[str, Any]) -> dict[str, Any]:
    content = _opened(source)
    if not isinstance(content, Mapping):
        raise FileError(f"must hold tensors by name, but holds a {type(content).__name__}")
    key, weights, left_out = chosen(content, request["key"])
    tensors = {}
    for name, value in weights.items():
        if isinstance(value, Tensor):
            tensors[_sound_name(name)] = _sound(name, value)
        else:
            left_out.append([str(name), _kind(value)])
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > _GROWTH * size:
        raise FileError(f"must hold what its size allows, but its {size:,} bytes would become {total:,}")
    for number, shard in enumerate(_shards(tensors, request["shard_bytes"]), start=1):
        target = os.path.join(request["folder"], f"{request['stem']}-{number:05d}.safetensors")
        # Written out one file at a time. Each is a copy, since tensors may share memory, which the format cannot say.
        try:
            plain = {name: _plain(tensor) for name, tensor in shard}
            safetensors.torch.save_file(plain, target, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise ResourceError(f"cannot be written as safetensors: {error}") from error
    return {"key": key, "left_out": left_out[:_TOLD], "tensors": len(tensors)}


def _opened(source: IO[bytes]) -> Any:
    """Returns what a file of torch's holds, built of tensors and plain values alone."""
    head = source.read(512)
    source.seek(0)
    if head[257:262] == _TAR:
        raise FileError("must be as torch.save writes it, but is a tar archive, as its first versions wrote")
    try:
        if head[:4] != b"PK\x03\x04":
            # From memory: torch would try a file to be an archive, and unpack it.
            return torch.load(io.BytesIO(source.read()), map_location="cpu", weights_only=True)
        _check_zip(source)
        return torch.load(f"/proc/self/fd/{source.fileno()}", map_location="cpu", weights_only=True, mmap=True)
    except DougongError:
        raise
    except Exception as error:
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise UntrustedError(f"must hold tensors and plain values alone, but asks for {named[1][:100]}") from error
        raise


def _check_zip(source: IO[bytes]) -> None:
    """Sees that an archive is as torch writes it, and that its bytes are what was written.

    Raises:
        FileError: It is not.
    """
    with zipfile.ZipFile(source) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        roots = {entry.filename.partition("/")[0] for entry in entries}
        names = [entry.filename.partition("/")[2] for entry in entries]
        pickles = [name for name in names if name.endswith("data.pkl")]
        if len(roots) != 1 or pickles != ["data.pkl"] or len(set(names)) != len(names):
            raise FileError("must be an archive of one torch.save, but is not")
        if "constants.pkl" in names or any(name.startswith("code/") for name in names):
            raise UntrustedError("must hold tensors, but is a TorchScript program")
        place = 0
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.header_offset < place:
                raise FileError(f"must hold its parts plainly, one after the other, but {entry.filename!r:.99} is not")
            place = entry.header_offset + entry.file_size
            if entry.CRC:  # torch.save can be told to write none
                _read_through(archive, entry)


def _read_through(archive: Any, entry: zipfile.ZipInfo) -> None:
    try:
        with archive.open(entry) as part:
            while part.read(1 << 20):
                pass
    except zipfile.BadZipFile as error:
        raise FileError(f"must be as it was written, but its part {entry.filename!r:.99} was changed") from error


def chosen(content: Mapping[Any, Any], key: str | None) -> tuple[str, Mapping[Any, Any], list[list[str]]]:
    """Returns the key of the mapping that holds the weights (nothing: the whole), that mapping, and what else is there.

    Raises:
        FileError: None does, or several do and no key says which.
    """
    if key:
        place: Any = content
        words = [key] if key in content else key.split(".")
        for word in words:
            place = place.get(word) if isinstance(place, Mapping) else None
        if not isinstance(place, Mapping):
            raise FileError(f"must hold a mapping under the key {key}, but holds {_listed(content)}")
        return key, place, [[str(name), _kind(value)] for name, value in content.items() if name != words[0]]
    if content and _is_weights(content):
        return "", content, []
    found = list(_candidates(content))
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "none"
        raise FileError(
            f"must hold one mapping of names to tensors, but holds {_listed(content)}; such mappings: {names}. "
            "Say which with --key"
        )
    first = found[0][0].split(".")[0]
    return *found[0], [[str(name), _kind(value)] for name, value in content.items() if name != first]


def _candidates(content: Mapping[Any, Any], start: str = "", depth: int = 2) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping):
            if _is_weights(value):
                yield start + name, value
            elif depth > 1:
                yield from _candidates(value, f"{start}{name}.", depth - 1)


def _is_weights(mapping: Mapping[Any, Any]) -> bool:
    """Tells whether a mapping is of names to tensors: plain values may stand among them, further mappings may not."""
    some = any(isinstance(value, Tensor) for value in mapping.values())
    return some and not any(isinstance(value, Mapping) and value for value in mapping.values())


def _sound_name(name: Any) -> str:
    if not isinstance(name, str) or name == "__metadata__" or len(name) > 1000 or not name.isprintable():
        raise FileError(f"must name its tensors by words, but names one {ascii(name)[:100]}")
    return name


def _sound(name: str, tensor: Tensor) -> Tensor:
    """Returns a tensor that a plain file can hold, still where it was mapped.

    Raises:
        FileError: It is sparse, quantized, of no device, or of a type that safetensors has not.
    """
    tensor = tensor.detach()
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.dtype not in _STORED:
        raise FileError(
            f"must hold plain tensors, but {name} is {tensor.layout}, {tensor.dtype}, on {tensor.device}. "
            "Save it as an ordinary tensor"
        )
    return tensor


def _plain(tensor: Tensor) -> Tensor:
    return tensor.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def _shards(tensors: Mapping[str, Tensor], limit: int) -> Iterator[list[tuple[str, Tensor]]]:
    shard: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in tensors.items():
        own = tensor.numel() * tensor.element_size()
        if shard and size + own > limit:
            yield shard
            shard, size = [], 0
        shard.append((name, tensor))
        size += own
    if shard:
        yield shard


def _kind(value: Any) -> str:
    """Says in a word or two what a value is."""
    if isinstance(value, Mapping | list | tuple | set):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__ if not isinstance(value, Tensor) else f"tensor {list(value.shape)}"


def _listed(content: Mapping[Any, Any]) -> str:
    names = [ascii(str(name)[:60])[1:-1] for name in list(content)[:8]]
    return (", ".join(names) or "nothing") + (", ..." if len(content) > 8 else "")


def _reason(error: Exception) -> str:
    """Returns the last line of what torch says that speaks of the file."""
    lines = [line.strip() for line in re.split(r"\n|WeightsUnpickler error:", str(error)) if line.strip()]
    told = [line for line in lines if "weights_only" not in line and "documentation" not in line]
    return f"must be a file of torch.save, but is not: {(told or [type(error).__name__])[-1][:200].rstrip('.')}"


if __name__ == "__main__":
    main(sys.argv[1:])
