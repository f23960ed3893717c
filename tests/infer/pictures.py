"""Folders of small models with random weights that answer about pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dougong.checkpoint.weights import save_model
from dougong.core.config import validate
from dougong.models.resnet import ResNetConfig
from dougong.models.retinanet import SMALL, RetinaNetConfig

NAMES = ["ant", "bee", "cow"]


def randomised(model: nn.Module) -> nn.Module:
    """Returns the model with every value drawn, running statistics included, so that each counts."""
    model.init_weights(0)  # type: ignore[operator]
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        low, high = (0.5, 1.5) if "variance" in name or "norm.weight" in name else (-0.3, 0.3)
        if tensor.ndim == 1:
            tensor.uniform_(low, high, generator=generator)
    return model.eval()


def classifier(folder: Path, id2label: list[str] | None = None, **files: Any) -> Path:
    """Writes the folder of a small ResNet; `files` become JSON files."""
    config = ResNetConfig(num_classes=3, image_shape=(3, 24, 24), depths=(1, 2), widths=(8, 12))
    model = randomised(config.build())
    nn.init.normal_(model.head.weight)  # type: ignore[union-attr, arg-type]
    save_model(model, folder, {f"{n}.json": json.dumps(v).encode() for n, v in files.items()}, labels=id2label)
    return folder


def detector(folder: Path, low: float = 0.0) -> Path:
    """Writes the folder of a small RetinaNet that takes everything for something."""
    values = {**SMALL["plain"], "trunk": {**SMALL["plain"]["trunk"], "norm": "batch", "norm_groups": None}}
    said = {"dougong": {"letterbox": {"height": 32, "width": 48}}}
    task = {"name": "object_detection", "score_threshold": low, "max_detections": 7}
    files = {"task.json": task, "preprocessor_config.json": said, "labels.json": NAMES}
    model = randomised(validate(RetinaNetConfig, values).build())
    save_model(model, folder, {name: json.dumps(content).encode() for name, content in files.items()})
    return folder
