"""VGGs under torchvision's names: `features.0.weight` to `classifier.6.bias`, numbered through all layers.

Its files say nothing but names and shapes; norms and maxima are told by the numbers that are missing between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dougong.checkpoint.convert import Layout, Piece, Shapes, norm_names

PREFIX = ""
IGNORED = r".*num_batches_tracked"
TIED: dict[str, str] = {}

_CLASSIFIER = {"hidden.0": "classifier.0", "hidden.1": "classifier.3", "head": "classifier.6"}


def recognise(shapes: Shapes) -> dict[str, Any] | None:
    """Returns the values of our config for a file of torchvision's, or None if it is none of a VGG."""
    if not {"features.0.weight", "classifier.0.weight", "classifier.6.weight"} <= shapes.keys():
        return None
    places = (shapes["classifier.0.weight"][1] // trunk_values(shapes)["widths"][-1]) ** 0.5
    return {
        **trunk_values(shapes),
        "pooled": round(places),
        "hidden_dim": shapes["classifier.0.weight"][0],
        "num_classes": shapes["classifier.6.weight"][0],
    }


def trunk_values(shapes: Shapes, prefix: str = "features.") -> dict[str, Any]:
    """Returns the values of the convolutions, whose tensors' names begin with a prefix."""
    layers = {
        int(found[1]): shape
        for name, shape in shapes.items()
        if (found := re.fullmatch(re.escape(prefix) + r"(\d+)\.weight", name)) and len(shape) == 4
    }
    normed = f"{prefix}1.running_mean" in shapes
    depths, widths, expected = list[int](), list[int](), 0
    for number in sorted(layers):
        if number != expected or not depths:  # a maximum stands between
            depths.append(0)
            widths.append(layers[number][0])
        depths[-1] += 1
        expected = number + (3 if normed else 2)
    channels = layers[0][1] if 0 in layers else 3
    norm = "batch" if normed else "none"
    return {"name": "vgg", "image_shape": (channels, 224, 224), "depths": depths, "widths": widths, "norm": norm}


def layout(values: Mapping[str, Any], names: Iterable[str]) -> Layout:
    """Returns where each tensor lies."""
    return {name: (Piece(_foreign(name, values)),) for name in names}


def _foreign(name: str, values: Mapping[str, Any]) -> str:
    for ours, theirs in _CLASSIFIER.items():
        if name.startswith(ours + "."):
            return name.replace(ours, theirs, 1)
    return foreign(name, values["depths"], values["norm"] == "batch")


def foreign(name: str, depths: Sequence[int], normed: bool) -> str:
    """Returns torchvision's name of a tensor of our trunk."""
    found = re.fullmatch(r"trunk\.stages\.(\d+)\.layers\.(\d+)\.(convolution|norm)\.(\w+)", norm_names(name))
    assert found is not None, name
    stage, layer, kind, rest = int(found[1]), int(found[2]), found[3], found[4]
    numbers = dict(
        zip(((s, n) for s, depth in enumerate(depths) for n in range(depth)), _numbers(depths, normed), strict=True)
    )
    return f"features.{numbers[stage, layer] + (kind == 'norm')}.{rest}"


def _numbers(depths: Sequence[int], normed: bool) -> Iterator[int]:
    """Yields the number of each convolution: it, its norm and its ReLU have one each, and so has each maximum."""
    number = 0
    for depth in depths:
        for _ in range(depth):
            yield number
            number += 3 if normed else 2
        number += 1
