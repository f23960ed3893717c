"""A folder of photographs, and how long a training step waits until some of them are decoded and augmented.

The photographs are cut from those of a folder, where one is named (`DOUGONG_PHOTOGRAPHS`), else they are made up of
smooth colours. Knows Pillow and the run's own parts; knows no ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dougong.core import log
from dougong.recipe import load
from dougong.run.parts import Parts, prepare
from dougong.train.loop import Job, fit

COUNT, WIDTH, HEIGHT, BATCH, WARMUP = 200, 500, 375, 32, 2


def make_photographs(folder: Path) -> str:
    """Writes photographs in two classes, and returns what they are made of."""
    named = os.environ.get("DOUGONG_PHOTOGRAPHS")
    files = sorted(path for path in Path(named).rglob("*") if path.suffix.lower() == ".jpg") if named else []
    source = np.random.default_rng(0)
    for number in range(COUNT):
        made = _cut(files[number % len(files)], source) if files else _smooth(source)
        place = folder / f"class-{number % 2}"
        place.mkdir(exist_ok=True)
        made.save(place / f"{number}.jpg", quality=90)
    return f"cut from {len(files)} photographs" if files else "made up"


def _cut(path: Path, source: np.random.Generator) -> Image.Image:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    share = source.uniform(0.7, 1.0)
    width, height = int(picture.width * share), int(picture.height * share)
    left, top = (int(source.integers(0, most + 1)) for most in (picture.width - width, picture.height - height))
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, (left, top, left + width, top + height))


def _smooth(source: np.random.Generator) -> Image.Image:
    small = Image.fromarray(source.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
    grain = source.normal(0.0, 6.0, pixels.shape)
    return Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))


def parts_of(folder: Path, workers: int, steps: int) -> Parts:
    """Returns the parts of a recipe that trains a ResNet-18 on the photographs."""
    colour = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    recipe = {
        "model": {"name": "resnet", "variant": "resnet18"},
        "task": {"name": "image_classification"},
        "data": {
            "name": "image_folder",
            "path": str(folder),
            "size": 224,
            "validation": {"fraction": 0.1},
            "augment": ["crop", "flip", {"colour": colour}],
        },
        "train": {
            "steps": steps,
            "batch_size": BATCH,
            "workers": workers,
            "compile": False,
            "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
        },
    }
    return prepare(load(json.dumps(recipe)))


def waited(steps: int) -> dict[str, Any]:
    """Returns the share of the steps' time that they wait for batches, and what the pipeline makes by itself.

    The share is over all steps, in place of a median; beside it stand those of the single steps that waited least and
    most.
    """
    with tempfile.TemporaryDirectory() as temporary, log.listening(lambda _: None):
        folder = Path(temporary) / "photographs"
        folder.mkdir()
        figures: dict[str, Any] = {"photographs": make_photographs(folder), "batch": BATCH}
        figures["pictures/s by the pipeline alone"] = _alone(parts_of(folder, 0, steps))
        for workers in (0, 1, 2):
            shares, seconds = _trained(parts_of(folder, workers, steps + WARMUP))
            figures[f"a step with {workers} workers, s"] = statistics.median(seconds)
            spread = {"median": sum(shares) / sum(seconds), "low": 0.0, "high": 0.0}
            each = [share / second for share, second in zip(shares, seconds, strict=True)]
            figures[f"share waited with {workers} workers"] = spread | {"low": min(each), "high": max(each)}
    return figures


def _alone(parts: Parts, batches: int = 4) -> float:
    """Returns how many pictures per second one thread decodes, augments and collates."""
    source = parts.batches()
    source[0]
    begin = time.perf_counter()
    for number in range(1, 1 + batches):
        source[number]
    return batches * BATCH / (time.perf_counter() - begin)


def _trained(parts: Parts) -> tuple[list[float], list[float]]:
    """Returns the seconds that each step waited, and that it took in all; the first ones warm up."""
    model = parts.model.build()
    model.init_weights(0)
    reports: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        job = Job(parts.recipe.train, model, parts.task, parts.batches(), Path(folder), observers=[reports.append])
        fit(job)
    reports = reports[WARMUP:]
    return [report.data_seconds for report in reports], [report.seconds for report in reports]
