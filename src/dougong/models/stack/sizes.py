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
# Without batch normalisation, by whose nature a row in training depends on the others.
SMALL: dict[str, Values] = {
    "text": {
        **_TEXT,
        "num_classes": 3,
        "stages": [
            {"embed": {"dim": 16, "std": 0.5}},
            {"position": "learned"},
            {"conv": {"kernel": 5, "dilation": 2, "groups": 2, "padding": "none"}, "as": "wide"},
            {"residual": [{"conv": {"depthwise": True, "bias": False}}, {"norm": {"kind": "group", "num_groups": 4}}]},
            {"repeat": {"times": 2, "stages": [{"transformer": {"num_heads": 4, "hidden_dim": 24, "dropout": 0.1}}]}},
            {
                "parallel": [
                    [{"conv": {"dim": 8, "kernel": 2}}, {"activate": "gelu"}, {"pool": "max"}],
                    [{"pool": {"kind": "max", "size": 2}}, {"pool": {"size": 3, "stride": 2}}, "pool"],
                ]
            },
            {"dropout": 0.2},
            {"feedforward": {"hidden_dim": 20, "bias": False}},
            "classify",
        ],
    },
    "language": {
        **_TEXT,
        "stages": [
            {"embed": 16},
            {"residual": ["norm", {"conv": {"kernel": 4, "causal": True}}, {"activate": "silu"}]},
            {"residual": [{"norm": "rms"}, {"gru": {"dim": 16, "num_layers": 2}}]},
            {"transformer": {"num_heads": 4, "causal": True, "band": 5, "gated": True, "norm": "rms", "bias": False}},
            {"residual": {"stages": ["norm", {"mixture": {"num_experts": 3, "hidden_dim": 24}}], "shortcut": []}},
            {"norm": {"kind": "layer", "eps": 1e-3}},
            "next_token",
        ],
    },
    "language-untied": {
        **_TEXT,
        "stages": [
            {"embed": 12},
            "position",
            {"attention": {"num_heads": 2, "head_dim": 4, "causal": True, "rotary": True, "attention_dropout": 0.1}},
            {"mixture": {"num_experts": 4, "chosen": 3, "gated": True, "hidden_dim": 16}},
            {"next_token": False},
        ],
    },
    "speech": {
        "input": {"features": 6},
        "max_seq_len": 24,
        "stages": [
            {"subsample": {"factor": 4, "dim": 16}},
            {"lstm": {"dim": 8, "bidirectional": True}},
            {"attention": {"num_heads": 4, "num_kv_heads": 2, "qk_norm": True, "rotary": True, "rope_theta": 100.0}},
            {
                "transformer": {
                    "num_heads": 2,
                    "norm_first": False,
                    "norm_eps": 1e-4,
                    "rotary": True,
                    "rope_theta": 50.0,
                }
            },
            {"ctc": 4},
        ],
    },
    "tags": {
        **_TEXT,
        "stages": [
            {"embed": 16},
            {"rnn": {"dim": 12, "bias": False}},
            {"feedforward": {"gated": True, "activation": "silu"}},
            {"tag": {"num_classes": 5, "bias": False}},
        ],
    },
    "recurrent": {
        **_TEXT,
        "stages": [{"embed": 8}, {"lstm": 8}, "last", {"project": {"dim": 6, "bias": False}}, {"regress": 2}],
    },
    "patches": {
        "input": {"image": {"channels": 3, "height": 12, "width": 16}},
        "stages": [
            {"conv": {"dim": 8, "stride": 2}},
            {"norm": "layer"},
            {"parallel": {"join": "add", "branches": [[{"conv": {"kernel": 1}}], []]}},
            {"patch": {"size": 2, "dim": 16, "bias": False}},
            {"position": "learned"},
            {"transformer": 2},
            "last",
            {"regress": {"dim": 3, "bias": False}},
        ],
    },
    "residuals": {
        "input": {"image": {"channels": 1, "height": 9, "width": 9}},
        "stages": [
            {"conv": 6},
            {"pool": {"kind": "max", "size": 3, "stride": 2, "padding": "centred"}},
            {
                "residual": {
                    "stages": [{"conv": {"dim": 8, "stride": 2}}],
                    "shortcut": [{"conv": {"dim": 8, "kernel": 1, "stride": 2}}],
                }
            },
            {"norm": {"kind": "group", "num_groups": 2}},
            "activate",
            {"parallel": [[{"pool": "max"}], ["flatten", {"project": 5}, "pool"], [{"flatten": "channel"}]]},
            {"classify": 4},
        ],
    },
}
