"""The verb `evaluate`: a trained model's figures on all validation data, beside what compressors make of a text.

Knows runs and metrics. Bits per byte of a compressor and of a model compare directly: both code the same text.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dougong.checkpoint.weights import load_model
from dougong.core import log
from dougong.core.contracts import Detailed
from dougong.core.device import choose_device, choose_precision
from dougong.core.errors import FileError
from dougong.core.files import read_json
from dougong.core.heap import keep_freed_memory
from dougong.recipe import load
from dougong.recipe.sources import Source
from dougong.run.folder import find_run, model_of_run
from dougong.run.memory import loading
from dougong.run.parts import Parts, prepare
from dougong.train.evaluate import measured

_DICTIONARY = 64 << 20  # that of xz -9


def evaluate(
    source: Source, *, run: str | Path | None = None, overrides: Sequence[str] = (), **options: Any
) -> dict[str, float]:
    """Returns the figures of a run's final weights on all its validation data.

    Args:
        source: A run folder; or a recipe, whose newest run is taken.
        run: The run folder, where the source is a recipe.
        overrides: Changes of the run's recipe, such as `train.device=cpu`.
        options: The same as values.

    Raises:
        UsageError: There is no such run, or it has no model yet.
        FileError: The data is not what the run began with.
    """
    return evaluate_in_full(source, run=run, overrides=overrides, **options)[0]


def evaluate_in_full(
    source: Source, *, run: str | Path | None = None, overrides: Sequence[str] = (), **options: Any
) -> tuple[dict[str, float], dict[str, Any]]:
    """Returns the figures, and what the task tells beyond them (of each class, say); else as `evaluate`."""
    folder = find_run(source, run)
    trained = model_of_run(folder)
    parts = prepare(load(folder, overrides, options))
    began = read_json(folder / "plan.json").get("data", {}).get("fingerprint")
    if began != parts.data.fingerprint:
        if not (overrides or options):
            raise FileError(
                f"the data must be what {folder} began with, but {parts.data.source} has changed.", name="E-DATA"
            )
        log.warn("this is not the data that the run kept apart for validation: it may have been trained on")
    with loading(trained):
        model = load_model(trained, choose_device(parts.recipe.train.device))
    return full_evaluation(parts, model)


def full_evaluation(parts: Parts, model: nn.Module) -> tuple[dict[str, float], dict[str, Any]]:
    """Returns the figures over all validation examples, and what the task tells beyond them.

    Of a text, the figures have the bits per byte that gzip and xz need for it as well.
    """
    keep_freed_memory()
    train = parts.recipe.train
    dtype = choose_precision(train.precision, choose_device(train.device)).dtype
    metrics = measured(model, parts.task, parts.validation()(), dtype)
    assert metrics is not None, "nobody gives up this evaluation"
    details = metrics.details() if isinstance(metrics, Detailed) else {}
    bits = {f"{name}_bits_per_byte": value for name, value in compressed_bits_per_byte(parts.data).items()}
    return {**metrics.compute(), **bits}, details


def compressed_bits_per_byte(data: Any) -> dict[str, float]:
    """Returns the bits per byte that `gzip -9` and `xz -9` need for the validation text; nothing if it has no text."""
    pieces = getattr(data, "raw_validation_bytes", None)
    size = sum(len(piece) for piece in pieces()) if pieces is not None else 0
    if pieces is None or not size:
        return {}
    # A dictionary larger than the text changes nothing but the memory that xz asks for (674 MB at its full size).
    dictionary = {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": max(4096, min(size, _DICTIONARY))}
    coders: dict[str, Any] = {
        "gzip": zlib.compressobj(9, zlib.DEFLATED, 31),
        "xz": lzma.LZMACompressor(filters=[dictionary]),
    }
    totals = dict.fromkeys(coders, 0)
    for piece in pieces():
        for name, coder in coders.items():
            totals[name] += len(coder.compress(piece))
    return {name: 8 * (totals[name] + len(coder.flush())) / size for name, coder in coders.items()}
