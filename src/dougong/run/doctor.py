"""The verb `doctor`: what this machine has, measured on the spot, and what each absent extra would add.

Knows the machine and the installed packages; no model.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any, NamedTuple

import torch

from dougong.core.device import choose_device, matmul_peak, memory_bandwidth
from dougong.core.errors import DougongError


class Extra(NamedTuple):
    """An extra: what it adds, and the packages it brings."""

    adds: str
    packages: tuple[str, ...]


EXTRAS = {
    "parquet": Extra("text from .parquet files", ("pyarrow",)),
    "zstd": Extra("text from files compressed with zstd (.zst)", ("zstandard",)),
    "hub": Extra("text from data sets of the Hugging Face hub", ("datasets",)),
    "hf": Extra("transformers, to open what a run leaves behind there", ("transformers",)),
    "translation": Extra("BLEU and chrF of translations", ("sacrebleu",)),
    "lora": Extra("adapters of low rank (LoRA)", ("peft",)),
    "detection": Extra("the figures of detectors", ("faster-coco-eval",)),
    "sklearn": Extra("the dataset digits", ("scikit-learn",)),
    "wandb": Extra("curves in Weights & Biases", ("wandb",)),
    "mlflow": Extra("curves in MLflow", ("mlflow-skinny",)),
}
_CORE = ("dougong", "torch", "numpy", "pydantic", "grain", "tokenizers", "safetensors", "typer")


def doctor() -> dict[str, Any]:
    """Returns versions, devices with their measured speed, and the extras with the line that installs each."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _CORE}},
        "machine": {
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "devices": {name: _measured(name) for name in _devices()},
        "extras": {name: _extra(name, extra) for name, extra in EXTRAS.items()},
    }


def _devices() -> list[str]:
    present = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [*present, "mps"] if torch.backends.mps.is_available() else present


def _measured(name: str) -> dict[str, Any]:
    """Returns peaks in FLOP/s and bandwidth in bytes/s; a small bf16 product tells whether a large one is wise."""
    device = choose_device(name)
    found: dict[str, Any] = {"fp32_flops_per_second": matmul_peak(device, torch.float32)}
    try:
        probe = matmul_peak(device, torch.bfloat16, 256, 0.02)
        slow = device.type == "cpu" and probe < found["fp32_flops_per_second"] / 4
        found["bf16_flops_per_second"] = probe if slow else matmul_peak(device, torch.bfloat16)
    except (RuntimeError, DougongError):
        found["bf16_flops_per_second"] = None
    found["bytes_per_second"] = memory_bandwidth(device)
    if device.type == "cuda":
        found["name"] = torch.cuda.get_device_name(device)
        found["memory_bytes"] = torch.cuda.get_device_properties(device).total_memory
    return found


def _extra(name: str, extra: Extra) -> dict[str, Any]:
    absent = [package for package in extra.packages if _version(package) is None]
    line = f"pip install 'dougong[{name}]'" if absent else None
    return {"adds": extra.adds, "installed": not absent, "install": line}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
