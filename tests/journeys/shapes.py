"""Drawn shapes as data: folders of one shape a picture, and a folder in VOC's form with several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"circle": (220, 60, 50), "square": (60, 90, 220)}
CLASSIFIER: dict[str, Any] = {
    "title": "Circles and squares",
    "model": {"name": "resnet", "stem": "cifar", "depths": [1, 1], "widths": [8, 16]},
    "task": {"name": "image_classification"},
    "data": {
        "name": "image_folder",
        "path": "shapes",
        "size": 24,
        "validation": {"fraction": 0.3},
        "augment": ["flip", {"pad_crop": 2}],
    },
    "train": {
        "steps": 24,
        "batch_size": 16,
        "precision": "fp32",
        "device": "cpu",
        "compile": False,
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
        "evaluate": {"every": 12},
        "checkpoint": {"every": 12},
    },
}
DETECTOR: dict[str, Any] = {
    "title": "A finder of circles and squares",
    "model": {
        "name": "retinanet",
        "trunk": {"name": "resnet", "depths": [1, 1, 1], "widths": [8, 16, 24]},
        "extra_levels": 0,
        "pyramid_dim": 24,
        "pyramid_norm": "batch",
        "head_layers": 1,
        "head_norm": "group",
        "norm_groups": 4,
        "anchor_size": 2.0,
    },
    "task": {"name": "object_detection", "box_beta": 0.1},
    "data": {"name": "voc", "path": "voc", "size": [64, 64], "augment": ["flip"]},
    "train": {
        "steps": 120,
        "batch_size": 8,
        "precision": "fp32",
        "device": "cpu",
        "compile": False,
        "optimizer": {"name": "adamw", "lr": 0.005},
        "schedule": {"name": "cosine", "warmup_steps": 10},
        "clip_norm": 5.0,
        "evaluate": {"every": 60},
        "checkpoint": {"every": 60},
    },
}


def _draw(pen: ImageDraw.ImageDraw, label: str, box: tuple[int, int, int, int]) -> None:
    (pen.ellipse if label == "circle" else pen.rectangle)(box, fill=COLOURS[label])


def _ground(size: int, rng: np.random.Generator) -> Image.Image:
    """Returns grey noise."""
    shades = rng.integers(150, 200, (size, size, 1))
    return Image.fromarray(np.repeat(shades, 3, axis=2).astype(np.uint8))


def image_folder(root: Path, count: int = 30) -> Path:
    """Writes so many pictures of 32 by 32 for each of two classes."""
    rng = np.random.default_rng(0)
    for label in COLOURS:
        (root / label).mkdir(parents=True)
        for number in range(count):
            picture, side = _ground(32, rng), int(rng.integers(10, 18))
            left, top = (int(edge) for edge in rng.integers(2, 30 - side, 2))
            _draw(ImageDraw.Draw(picture), label, (left, top, left + side, top + side))
            picture.save(root / label / f"{number:02}.png")
    return root


def voc_folder(root: Path, count: int = 40, apart: int = 8) -> Path:
    """Writes so many pictures of 64 by 64 with a circle and a square in each; the last ones are to validate on."""
    rng = np.random.default_rng(1)
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        picture, objects = _ground(64, rng), []
        for place, label in enumerate(sorted(COLOURS, key=lambda _: rng.random())):
            side, top = int(rng.integers(14, 24)), int(rng.integers(2, 38))
            left = 32 * place + int(rng.integers(2, 30 - side))
            _draw(ImageDraw.Draw(picture), label, (left, top, left + side, top + side))
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (left, top, left + side, top + side), strict=True)
            words = "".join(f"<{word}>{edge + 1}</{word}>" for word, edge in corners)
            objects.append(f"<object><name>{label}</name><difficult>0</difficult><bndbox>{words}</bndbox></object>")
        picture.save(root / "JPEGImages" / f"{number:02}.png")
        size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
        text = f"<annotation><filename>{number:02}.png</filename>{size}{''.join(objects)}</annotation>"
        (root / "Annotations" / f"{number:02}.xml").write_text(text)
    names = [f"{number:02}" for number in range(count)]
    (root / "ImageSets/Main/train.txt").write_text("\n".join(names[:-apart]) + "\n")
    (root / "ImageSets/Main/val.txt").write_text("\n".join(names[-apart:]) + "\n")
    return root
