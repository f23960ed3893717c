"""Stacks that fit: a shelf of them by name, and random ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Values = dict[str, Any]
TEXT: Values = {"vocab_size": 23, "max_seq_len": 20}
SPEECH: Values = {"input": {"features": 6}, "max_seq_len": 29}


def image(height: int, width: int, *stages: Any, channels: int = 3) -> Values:
    """Returns a stack over images."""
    return {"input": {"image": {"channels": channels, "height": height, "width": width}}, "stages": list(stages)}


def text(*stages: Any) -> Values:
    """Returns a stack over tokens, 12 channels wide at first."""
    return {**TEXT, "stages": [{"embed": 12}, *stages]}


def speech(*stages: Any) -> Values:
    """Returns a stack over vectors."""
    return {**SPEECH, "stages": list(stages)}


KIM = [
    [{"conv": {"dim": 10, "kernel": kernel, "padding": "none"}}, "activate", {"pool": "max"}] for kernel in (3, 4, 5)
]
BLOCK = {"transformer": {"num_heads": 3, "causal": True}}
RIGHT: dict[str, Values] = {
    "kim's text cnn": text({"parallel": KIM}, {"dropout": 0.5}, {"classify": 2}),
    "bidirectional lstm": text(
        {"lstm": {"dim": 7, "bidirectional": True, "num_layers": 2}}, {"pool": "max"}, {"classify": 2}
    ),
    "bag of words": text("pool", {"classify": 2}),
    "transformer": text(
        "position", {"repeat": {"times": 2, "stages": [{"transformer": 3}]}}, "norm", "pool", {"classify": 2}
    ),
    "hybrid": text(
        {"conv": 16},
        "activate",
        {"gru": 16},
        {"transformer": {"num_heads": 4, "rotary": True}},
        "pool",
        {"classify": 2},
    ),
    "language model": text({"residual": [{"conv": {"causal": True}}]}, {"gru": 12}, BLOCK, "norm", "next_token"),
    "feed-forward tagger": text({"feedforward": {"gated": True}}, {"tag": 5}),
    "tagger": text({"rnn": 9}, {"conv": {"kernel": 4}}, {"tag": 5}),
    "dilated": text(
        *({"residual": [{"conv": {"dilation": 2**n, "causal": True}}, "activate"]} for n in range(3)),
        "last",
        {"regress": 3},
    ),
    "banded": text({"attention": {"num_heads": 2, "band": 3}}, {"tag": 2}),
    "experts": text({"residual": [{"norm": "rms"}, {"mixture": 4}]}, {"tag": 2}),
    "speech": speech({"subsample": {"factor": 4, "dim": 8}}, {"transformer": 2}, {"ctc": 5}),
    "strided": speech(
        {"conv": {"dim": 8, "stride": 3}}, {"conv": {"stride": 2, "padding": "none", "kernel": 2}}, {"ctc": 5}
    ),
    "pooled windows": speech(
        {"pool": {"kind": "max", "size": 3}}, {"pool": {"size": 2, "padding": "centred"}}, {"lstm": 5}, {"ctc": 5}
    ),
    "eightfold": speech({"subsample": 8}, "last", {"regress": 2}),
    "shrinking repeat": speech({"repeat": {"times": 3, "stages": [{"conv": {"stride": 2}}, "activate"]}}, {"ctc": 3}),
    "strided residual": speech(
        {"conv": 8},
        {
            "residual": {
                "stages": [{"conv": {"dim": 4, "stride": 2}}],
                "shortcut": [{"conv": {"dim": 4, "stride": 2, "kernel": 1}}],
            }
        },
        {"ctc": 3},
    ),
    "branches with strides": speech(
        {"parallel": [[{"conv": {"dim": 4, "stride": 4}}], [{"subsample": {"dim": 3}}]]}, {"ctc": 3}
    ),
    "separable": image(
        9,
        12,
        {"conv": 8},
        {"conv": {"depthwise": True, "stride": 2}},
        {"conv": {"dim": 4, "kernel": 1}},
        "pool",
        {"classify": 2},
    ),
    "vision transformer": image(
        12,
        8,
        {"patch": {"size": 4, "dim": 16}},
        {"position": "learned"},
        {"transformer": 4},
        "norm",
        "pool",
        {"classify": 2},
    ),
    "convolutional stem": image(
        12,
        8,
        {"conv": {"dim": 8, "stride": 2}},
        "activate",
        {"conv": 12},
        "flatten",
        "position",
        {"transformer": 2},
        "pool",
        {"classify": 2},
    ),
    "lenet": image(
        12,
        12,
        {"conv": {"dim": 4, "kernel": 5, "padding": "none"}},
        "activate",
        {"pool": {"kind": "max", "size": 2}},
        {"flatten": "channel"},
        {"project": 9},
        "activate",
        {"classify": 4},
        channels=1,
    ),
    "text in an image": image(4, 20, {"conv": {"dim": 6, "stride": 2}}, "flatten", {"lstm": 5}, {"ctc": 6}),
    "bottleneck": image(
        10,
        10,
        {"conv": {"dim": 8, "kernel": 7, "stride": 2}},
        {"norm": "batch"},
        {"pool": {"kind": "max", "size": 3, "stride": 2, "padding": "centred"}},
        {
            "residual": {
                "stages": [{"conv": {"dim": 4, "kernel": 1}}, {"conv": {"dim": 16, "stride": 2}}],
                "shortcut": [{"conv": {"dim": 16, "kernel": 1, "stride": 2}}],
            }
        },
        "pool",
        {"classify": 3},
    ),
    "uneven windows": image(
        9,
        7,
        {"conv": {"kernel": 2}},
        {"pool": {"size": 2, "stride": 1, "padding": "centred"}},
        {"pool": "max"},
        {"regress": 2},
    ),
}


@st.composite
def keeping(draw: st.DrawFn, depth: int = 1) -> Any:
    """Draws a stage over a sequence of 12 channels that keeps its shape."""
    causal = draw(st.booleans())
    heads = {"num_heads": draw(st.sampled_from([2, 3])), "causal": causal, "rotary": draw(st.booleans())}
    band = draw(st.sampled_from([{}, {"band": 2}]))
    plain = [
        {"conv": {"kernel": draw(st.integers(2, 5)), "dilation": draw(st.integers(1, 2)), "causal": causal}},
        {"conv": {"depthwise": True, "causal": causal}},
        {"gru": 12},
        {"lstm": {"dim": 6, "bidirectional": True}},
        {"attention": {**heads, **band}},
        {"transformer": {**heads, **band, "norm_first": draw(st.booleans())}},
        {"feedforward": {"gated": draw(st.booleans())}},
        {"mixture": 3},
        {"norm": draw(st.sampled_from(["layer", "rms", "batch", {"kind": "group", "num_groups": 4}]))},
        {"activate": draw(st.sampled_from(["relu", "gelu", "silu"]))},
        "position",
    ]
    if depth == 0:
        return draw(st.sampled_from(plain))
    inside = draw(st.lists(keeping(depth=0), min_size=1, max_size=2))
    other = draw(st.lists(keeping(depth=0), max_size=2))
    nested = [
        {"residual": inside},
        {"residual": {"stages": inside, "shortcut": other}},
        {"repeat": {"times": 2, "stages": inside}},
        {"parallel": {"join": "add", "branches": [inside, other]}},
    ]
    return draw(st.sampled_from([*plain, *nested]))


@st.composite
def shortening(draw: st.DrawFn) -> Any:
    """Draws a stage over a sequence that shortens it, and keeps its 12 channels."""
    stride = draw(st.integers(2, 3))
    causal = draw(st.booleans())
    return draw(
        st.sampled_from(
            [
                {"conv": {"stride": stride, "causal": causal, "kernel": draw(st.integers(1, 4))}},
                {"conv": {"kernel": 3, "padding": "none"}},
                {"pool": {"kind": draw(st.sampled_from(["mean", "max"])), "size": stride}},
                {"pool": {"size": 3, "stride": 2, "padding": "centred"}},
                {"subsample": 2},
                {"parallel": {"join": "add", "branches": [[{"conv": {"stride": 2}}], [{"subsample": 2}]]}},
            ]
        )
    )


@st.composite
def stacks(draw: st.DrawFn) -> Values:
    """Draws a stack over sequences that fits by its making: kept, shortened and kept again, then a head."""
    begin = draw(st.sampled_from([[{"embed": 12}], [{"project": 12}]]))
    stages = [*begin, *draw(st.lists(keeping(), max_size=2)), *draw(st.lists(shortening(), max_size=2))]
    stages += draw(st.lists(keeping(), max_size=2))
    whole = not any(
        "stride" in str(stage) or "sub" in str(stage) or "none" in str(stage) or "size" in str(stage)
        for stage in stages
    )
    ends: list[list[Any]] = [
        ["pool", {"classify": 2}],
        [{"pool": "max"}, {"regress": 2}],
        ["last", {"regress": 2}],
        [{"ctc": 3}],
    ]
    stages += draw(st.sampled_from([*ends, [{"tag": 4}]] if whole else ends))
    return {**(TEXT if begin == [{"embed": 12}] else SPEECH), "stages": stages}
