"""RetinaNets under torchvision's names: `backbone.body`, `backbone.fpn`, `head`; its files say names and shapes.

Their norms in the trunk are frozen ones. (torchvision sets their eps to 0 for its own first COCO weights alone, of
which a file says nothing; ours is 1e-5.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dougong.checkpoint.convert import Layout, Piece, Shapes, norm_names
from dougong.checkpoint.convert.timm_resnet import foreign as trunk_name
from dougong.checkpoint.convert.timm_resnet import trunk_values

PREFIX = ""
IGNORED = r".*num_batches_tracked"
TIED: dict[str, str] = {}

_BODY, _FPN = "backbone.body.", "backbone.fpn."
_HEADS = {
    "classes": ("head.classification_head", "cls_logits"),
    "boxes": ("head.regression_head", "bbox_reg"),
}
_PYRAMID = {"lateral": "inner_blocks", "output": "layer_blocks"}
_RATIOS = 3
_SHAPE = (3, 800, 1344)
"""What torchvision tests at: a shorter side of 800 pixels, a longer one of at most 1,333, padded to whole strides."""


def recognise(shapes: Shapes) -> dict[str, Any] | None:
    """Returns the values of our config for a file of torchvision's, or None if it is none of a RetinaNet."""
    classes, boxes = (shapes.get(f"{head}.{answer}.weight") for head, answer in _HEADS.values())
    lateral = shapes.get(f"{_FPN}inner_blocks.0.0.weight")
    if classes is None or boxes is None or lateral is None or f"{_BODY}conv1.weight" not in shapes:
        return None
    trunk = trunk_values(shapes, _BODY)
    extra = shapes.get(f"{_FPN}extra_blocks.p6.weight")
    anchors = boxes[0] // 4
    layers = sum(re.fullmatch(r"head\.classification_head\.conv\.\d+\.0\.weight", name) is not None for name in shapes)
    normed = "head.classification_head.conv.0.1.weight" in shapes
    return {
        "name": "retinanet",
        "image_shape": _SHAPE,
        "num_classes": classes[0] // anchors,
        "trunk": {key: value for key, value in trunk.items() if key != "image_shape"},
        "extra_levels": 0 if extra is None else 2,
        **({} if extra is None or extra[1] != lateral[0] else {"extra_from": "p5"}),
        "pyramid_dim": lateral[0],
        "head_layers": layers,
        "head_norm": "group" if normed else "none",
        "anchor_scales": [2 ** (number * _RATIOS / anchors) for number in range(anchors // _RATIOS)],
    }


def layout(values: Mapping[str, Any], names: Iterable[str]) -> Layout:
    """Returns where each tensor lies; the shapes of the anchors are in none of their files."""
    return {name: (Piece(_foreign(name, values["trunk"]["block"])),) for name in names if name != "shapes"}


def _foreign(name: str, block: str) -> str:
    if name.startswith("trunk."):
        return _BODY + trunk_name(name, block)
    name = norm_names(name)
    part, _, rest = name.partition(".")
    if part == "pyramid":
        kind, number, rest = rest.split(".", 2)
        if kind == "extra":
            return f"{_FPN}extra_blocks.p{6 + int(number)}.{rest.removeprefix('convolution.')}"
        return f"{_FPN}{_PYRAMID[kind]}.{number}.{rest.replace('convolution.', '0.').replace('norm.', '1.')}"
    head, answer = _HEADS[part]
    if rest.startswith("answer."):
        return f"{head}.{answer}.{rest.removeprefix('answer.')}"
    _, number, rest = rest.split(".", 2)
    return f"{head}.conv.{number}.{rest.replace('convolution.', '0.').replace('norm.', '1.')}"
