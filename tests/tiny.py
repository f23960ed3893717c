"""A recipe that trains in a second, and the text it trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dougong.recipe.overrides import merged

TEXT = "".join(f"line {number}: the cat sat on mat {number * number % 97}.\n" for number in range(1500))


def tiny_recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """Writes a text into the folder and returns the values of a recipe over it, with the given changes."""
    text = folder / "tiny.txt"
    if not text.exists():
        text.write_text(TEXT, encoding="utf-8")
    values = {
        "title": "A tiny model",
        "model": {"name": "gpt", "max_seq_len": 16, "num_layers": 1, "num_heads": 2, "dim": 16},
        "task": {"name": "language_modeling"},
        "data": {
            "name": "text",
            "sources": [{"name": "files", "paths": [str(text)], "licence": "CC0-1.0"}],
            "tokenizer": {"name": "bytes"},
            "validation": {"by": "position", "fraction": 0.05},
        },
        "train": {
            "steps": 8,
            "batch_size": 4,
            "precision": "fp32",
            "device": "cpu",
            "compile": False,
            "optimizer": {"name": "adamw", "lr": 0.01},
            "evaluate": {"every": 4, "batches": 2},
            "checkpoint": {"every": 4},
            "log": {"every": 2},
            "samples": {"every": 4, "prompts": ["line "], "max_new_tokens": 8},
        },
    }
    return merged(values, changes)


def write_recipe(folder: Path, **changes: Any) -> Path:
    """Writes the recipe as a file."""
    from dougong.recipe.recipe import to_yaml

    path = folder / "tiny.yaml"
    path.write_text(to_yaml(tiny_recipe(folder, **changes)), encoding="utf-8")
    return path
