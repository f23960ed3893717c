"""The tensors in the weight files of a folder: headers at once, values when asked for. Knows files, and no model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dougong.core import files
from dougong.core.errors import FileError, UntrustedError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Stored:
    """One tensor in a file: its shape and type from the header, its values when asked for."""

    def __init__(self, file: Any, name: str):
        header = file.get_slice(name)
        self.shape = tuple(header.get_shape())
        self.dtype = _DTYPES.get(header.get_dtype())  # None: a type that holds quantized weights
        self.read = functools.partial(file.get_tensor, name)  # mapped, not copied


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[dict[str, Stored]]:
    """Gives the headers of all tensors of a folder, its files mapped meanwhile.

    Raises:
        UntrustedError: The weights are pickled.
        FileError: There are none, or a file is corrupt.
    """
    stored: dict[str, Stored] = {}
    with contextlib.ExitStack() as stack:
        for path in _weight_files(folder):
            file = stack.enter_context(files.open_tensors(path))
            stored |= {name: Stored(file, name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        yield stored


def _weight_files(folder: Path) -> list[Path]:
    single, index = files.member(folder, "model.safetensors"), files.member(folder, "model.safetensors.index.json")
    if single.exists():
        return [single]
    if index.exists():
        return files.members(folder, index.name)
    pickled = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickled:
        theirs = [name for name in pickled if name.startswith("pytorch_model")]
        pickled, source = (theirs, folder) if theirs else (pickled, folder / pickled[0])
        raise UntrustedError(
            f"{folder} must hold safetensors, but holds {pickled[0]}, a pickle, which can run anything when opened. "
            f"Ask for safetensors, or import it: dougong import {source} --to NEW"
        )
    raise FileError(f"{folder} must hold model.safetensors, but does not. Check the path.")
