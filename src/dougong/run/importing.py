"""The verb `import`: weights that somebody else pickled, turned into safetensors without letting the pickle run.

Knows files and folders, and decides by what the isolated process (`checkpoint/unpickle.py`) leaves behind, which it
trusts no further than any file from elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dougong.checkpoint import seal
from dougong.checkpoint.convert import dialect_of
from dougong.checkpoint.unpickle import CAUGHT
from dougong.checkpoint.weights import SEALED, SHARD_BYTES, load_model, recognise, save_model
from dougong.core import files, isolation, log
from dougong.core.errors import FileError, ResourceError, UntrustedError, UsageError
from dougong.data.images import AnnotatedConfig, ClassifiedConfig
from dougong.data.viewing import Viewing, letterboxed

_WEIGHTS, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_VOCABULARY = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json",
    "source.spm", "target.spm", "target_vocab.json",
)  # fmt: skip
_LARGEST = 500_000_000
"""Bytes of the largest file of a vocabulary."""
_SECONDS = 3600.0
_SHARE = 0.875  # of the shorter side, that torchvision's weights were tested on: 224 of 256 pixels
_ADVICE = "Ask for safetensors, or for a file of torch.save(model.state_dict())."
_ZIP, _PICKLE, _MAGIC = b"PK\x03\x04", b"\x80", b"l\xfc\x9cF\xf9 j\xa8P\x19"  # the last: of torch.save before 1.6


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        folder: Where it is now.
        tensors: How many tensors.
        bytes: Of all tensors.
        types: How many tensors there are of each type, by its name in safetensors (`F32`, `BF16`, ...).
        key: The key of the mapping that held the weights; empty: the file's whole content.
        left_out: What is no tensor, or no weight, with its kind: step counters, hyper-parameters, optimizer state.
        files: The names of all files that were written.
        opens: Whether dougong can build the model and found all its tensors; None: there is no config.json, or it
            names an architecture that is not built here.
    """

    folder: Path
    tensors: int
    bytes: int
    types: Mapping[str, int]
    key: str
    left_out: Sequence[tuple[str, str]]
    files: Sequence[str]
    opens: bool | None

    def summary(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return {**asdict(self), "folder": str(self.folder)}


def import_weights(source: str | Path, to: str | Path, key: str | None = None) -> Imported:
    """Turns pickled weights into a folder of safetensors, which is afterwards whole or absent.

    The pickle is opened by torch's unpickler for weights alone, in a process without network, other files or much
    memory. There is no other way in: what needs more than tensors and plain values is refused.

    Args:
        source: A file of `torch.save` (.pt, .pth, .bin, .ckpt), or a Hugging Face folder with `pytorch_model.bin`.
        to: The new folder.
        key: The key of the mapping that holds the weights, such as `state_dict`; None: the only one there is.

    Raises:
        UsageError: There is no such source, or `to` exists.
        UntrustedError: The file or the folder asks for code.
        FileError: A file is corrupt, or holds no weights.
        IsolationError: The machine offers no isolation.
    """
    source, to = Path(source).expanduser(), Path(to).expanduser()
    if to.exists() or to.is_symlink():
        raise UsageError(f"{to} must be a new folder, but exists. Choose another with --to FOLDER.", name="E-EXISTS")
    if not source.exists():
        raise UsageError(f"{source} does not exist. Check the path.", name="E-PATH")
    beside = dict(_settings(source)) if source.is_dir() else {}
    pickled = _pickled(source) if source.is_dir() else [source]
    _check(pickled, to)
    with files.new_folder(to) as folder:
        found = [_converted(path, folder, number, key) for number, path in enumerate(pickled, start=1)]
        for path in _vocabulary(source) if source.is_dir() else ():
            files.write_whole(folder / path.name, _content(path))
        for name, content in beside.items():
            files.write_whole(folder / name, content)
        types, total = _named(folder, [path for paths, _ in found for path in paths])
        if "config.json" not in beside:
            _recognised(folder)
        seal.seal(folder, SEALED)
        opens = _opens(folder)
        names = sorted(path.name for path in folder.iterdir())
    told = [answer for _, answer in found]
    left_out = [pair for answer in told for pair in answer["left_out"]]
    return Imported(to, sum(types.values()), total, types, told[0]["key"], left_out, names, opens)


def _pickled(folder: Path) -> list[Path]:
    """Returns the pickled files of a Hugging Face folder, in order."""
    single, index = files.member(folder, _WEIGHTS), files.member(folder, _INDEX)
    if single.exists():
        return [single]
    if not index.exists():
        raise UsageError(
            f"{folder} must hold {_WEIGHTS} or {_INDEX}, but does not. Name the file with the weights itself.",
            name="E-PATH",
        )
    return files.members(folder, _INDEX)


def _settings(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the name and content of each file of settings; none asks for code."""
    for name in _SETTINGS:
        path = files.member(folder, name)
        if path.exists():
            files.read_settings(path)
            yield name, files.read_bytes(path)


def _vocabulary(folder: Path) -> Iterator[Path]:
    return (path for name in _VOCABULARY if (path := files.member(folder, name)).exists())


def _content(path: Path) -> bytes:
    content = files.read_bytes(path, _LARGEST + 1)
    if len(content) > _LARGEST:
        raise FileError(f"{path} must have at most {_LARGEST:,} bytes, but has more. Refused.")
    return content


def _check(pickled: Sequence[Path], to: Path) -> None:
    """Sees before any work that the files are there, and that the disk can hold what they become."""
    total = 0
    for path in pickled:
        with files.open_binary(path) as file:
            total += os.fstat(file.fileno()).st_size
            head = file.read(64)
            if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < total:
                raise UsageError(f"{path} must be pickled, but is a safetensors file already. Use it as it is.")
            if not head.startswith(_ZIP) and not (head.startswith(_PICKLE) and _MAGIC in head):
                raise FileError(f"{path} must be a file of torch.save, but does not begin like one. {_ADVICE}")
    free = files.free_bytes(to)
    if free < total:
        raise ResourceError(
            f"{to} needs {total / 1e6:.1f} MB, but {free / 1e6:.1f} MB are free. Free some space, or choose another "
            "folder.",
            name="E-DISK",
        )


def _converted(source: Path, folder: Path, number: int, key: str | None) -> tuple[list[Path], dict[str, Any]]:
    """Lets one pickled file be converted in isolation; returns the new files, each looked at, and the answer."""
    own = folder / f"import-{number:05d}"
    own.mkdir(mode=0o700)
    request = {"source": str(source.resolve()), "folder": str(own.resolve()), "stem": "part", "key": key}
    command, readable, environment = isolation.python(
        "dougong.checkpoint.unpickle", json.dumps({**request, "shard_bytes": SHARD_BYTES})
    )
    outcome = isolation.isolated(
        command,
        readable=[*readable, source],
        writable=[own],
        limits=isolation.Limits(
            seconds=_SECONDS, cpu_seconds=int(_SECONDS), file_bytes=1 << 40, processes=256, output_bytes=1 << 22
        ),
        environment=environment,
    )
    answer = _answer(source, outcome)
    written = sorted(own.iterdir())
    for path in written:
        if path.is_symlink() or not path.is_file() or path.suffix != ".safetensors":
            raise UntrustedError(f"{source} must become safetensors alone, but left {path.name!r:.99}. Refused.")
        path.chmod(0o644)
    if not written:
        raise FileError(f"{source} must hold tensors, but holds none.")
    return written, answer


def _answer(source: Path, outcome: isolation.Outcome) -> dict[str, Any]:
    """Returns what the isolated process said, if it ended well.

    Raises:
        UntrustedError: It was ended, or refused the file for what it asks for.
        FileError: It refused the file.
    """
    last = _harmless((outcome.err.decode(errors="replace").strip().splitlines() or [""])[-1], 100)
    if outcome.exit_code == CAUGHT:
        raise UntrustedError(f"{source} must hold tensors alone, but reading it led to {last}. Refused. {_ADVICE}")
    if outcome.exit_code != 0:
        how = f"over its limit of {outcome.broken}" if outcome.broken else f"with code {outcome.exit_code}: {last}"
        raise UntrustedError(f"{source} must be a file of torch.save, but the process that read it ended {how}.")
    try:
        answer = files.parse_json(outcome.out)
        if "refused" in answer:
            kind = {kind.name: kind for kind in (UntrustedError, FileError, ResourceError)}[answer["name"]]
            raise kind(f"{source} {_harmless(answer['refused'], 1000)}. {_ADVICE}")
        left_out = [(_harmless(name, 200), _harmless(kind, 100)) for name, kind in answer["left_out"]]
        return {"key": _harmless(answer["key"], 200), "left_out": left_out}
    except (ValueError, KeyError, TypeError) as error:
        raise UntrustedError(f"{source} must be a file of torch.save, but what was read makes no sense.") from error


def _harmless(text: Any, most: int) -> str:
    """Returns a text from elsewhere as a terminal may show it."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:most])


def _named(folder: Path, parts: Sequence[Path]) -> tuple[dict[str, int], int]:
    """Gives the new files the names of Hugging Face's layout; returns tensors by type, and bytes."""
    types: dict[str, int] = {}
    weight_map: dict[str, str] = {}
    total = 0
    for number, part in enumerate(parts, start=1):
        whole = len(parts) == 1
        name = "model.safetensors" if whole else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        with files.open_tensors(part) as opened:
            for tensor in opened.keys():  # noqa: SIM118 (not a mapping)
                if tensor in weight_map:
                    raise FileError(f"{folder} must hold each tensor once, but {tensor} is in two files.")
                kind = opened.get_slice(tensor).get_dtype()
                types[kind] = types.get(kind, 0) + 1
                weight_map[tensor] = name
                total += opened.get_tensor(tensor).nbytes
        os.rename(part, folder / name)
    for place in {part.parent for part in parts}:
        shutil.rmtree(place)
    if len(parts) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        files.write_json(folder / "model.safetensors.index.json", index)
    return types, total


def _recognised(folder: Path) -> None:
    """Turns bare weights of an architecture that is told by its tensors' names (torchvision's) into a model folder."""
    try:
        model: Any = recognise(folder)
    except FileError as error:  # ResNeXt and its kin bear the names of ResNet
        log.warn(
            f"the weights are kept as they are: they look like a model that is built here, but are another: {error}"
        )
        return
    if model is None:
        return
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    height, width = model.config.image_shape[1:]
    if model.config.answers_as == "object_detection":
        said = letterboxed(AnnotatedConfig(size=[height, width]))
    else:
        said = Viewing(ClassifiedConfig(size=height, resize=round(height / _SHARE)), (height, width)).preprocessor()
    whole = folder / "recognised"
    save_model(model, whole, {"preprocessor_config.json": json.dumps(said, indent=2).encode()})
    for path in list(whole.iterdir()):
        path.rename(folder / path.name)
    whole.rmdir()


def _opens(folder: Path) -> bool | None:
    """Sees that the model can be opened, where its architecture is built here.

    Raises:
        FileError: It cannot.
    """
    if not (folder / "config.json").exists():
        return None
    config = files.read_json(folder / "config.json")
    try:
        dialect_of(config if isinstance(config, dict) else {})
    except FileError:
        return None
    load_model(folder, device="meta")
    return True
