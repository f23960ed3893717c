"""Named stacks, and small ones to compute with in tests. Plain values, as a recipe has them."""

from __future__ import annotations

from typing import Any

Values = dict[str, Any]


def _convolved(dim: int, kernel: int, stride: int = 1, active: bool = True) -> list[Any]:
    """Returns a convolution without bias, batch normalisation, and a ReLU."""
    stages: list[Any] = [{"conv": {"dim": dim, "kernel": kernel, "stride": stride, "bias": False}}, {"norm": "batch"}]
    return [*stages, "activate"] if active else stages


def _bottleneck(dim: int, stride: int = 1, first: bool = False) -> list[Any]:
    """Returns a bottleneck (He et al. 2016, figure 5), its stride in the convolution of 3 by 3: version 1.5."""
    inside = [*_convolved(dim, 1), *_convolved(dim, 3, stride), *_convolved(4 * dim, 1, active=False)]
    shortcut = {"shortcut": _convolved(4 * dim, 1, stride, active=False)} if first else {}
    return [{"residual": {"stages": inside, **shortcut}}, "activate"]


def _group(dim: int, times: int, stride: int) -> list[Any]:
    rest = {"repeat": {"times": times - 1, "stages": _bottleneck(dim)}}
    return [*_bottleneck(dim, stride, first=True), rest]


VARIANTS: dict[str, Values] = {
    "resnet50": {
        "input": {"image": {"channels": 3, "height": 224, "width": 224}},
        "num_classes": 1000,
        "stages": [
            *_convolved(64, 7, 2),
            {"pool": {"kind": "max", "size": 3, "stride": 2, "padding": "centred"}},
            *_group(64, 3, 1),
            *_group(128, 4, 2),
            *_group(256, 6, 2),
            *_group(512, 3, 2),
            {"pool": "mean"},
            "classify",
        ],
    },
}

_TEXT: Values = {"vocab_size": 61, "max_seq_len": 24}
SMALL: dict[str, Values] = {}
