"""Stacks that fit: what is declared is what running gives, padding is never seen, and each option counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from dougong.core.config import try_validate, validate
from dougong.core.errors import UsageError
from dougong.core.seed import sample_keys
from dougong.models import stack
from dougong.models.stack import SMALL, VARIANTS, StackConfig, begin, declared, example
from dougong.models.stack.network import Chain, Maker, Stack
from dougong.models.stack.stage import KINDS
from dougong.nn.lengths import Window
from dougong.train.blocks import prepared_blocks
from tests.conformance.test_models import alternatives, computation
from tests.models.stacks import RIGHT, SPEECH, stacks, text

TOLERANCE = 1e-10
NOISE = sample_keys(torch.arange(3), 0, "dropout", 1)


def built(values: dict[str, Any]) -> Stack:
    """Returns a model in double precision that does not train, its biases not zero."""
    model = validate(StackConfig, values).build()
    model.init_weights(0)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.data.normal_(0, 0.1, generator=draw)
    return model.double().eval()


def inputs_for(config: StackConfig, rows: int, seed: int = 0) -> Tensor:
    """Returns random inputs as long as may be."""
    shape, draw = example(config, rows)["inputs"].shape, torch.Generator().manual_seed(seed)
    if config.input.word == "tokens":
        return torch.randint(0, config.vocab_size or 1, shape, generator=draw)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def shape_of(signal: Any, rows: int, time: int | None) -> tuple[int | None, ...]:
    """Returns the shape that a signal declares for an input of so many places."""
    length = None if time is None else signal.length(time)
    return (rows, *(length if axis == "time" and length is not None else signal.size(axis) for axis in signal.axes))


# What is declared


@pytest.mark.parametrize("title", RIGHT)
@torch.no_grad()
def test_every_stage_gives_the_shape_that_it_declares(title: str) -> None:
    model = built(RIGHT[title])
    config, inputs = model.config, inputs_for(model.config, 2)
    time = None if config.input.word == "image" else inputs.shape[1]
    seen = []
    for chain in model.modules():
        if isinstance(chain, Chain):  # also those inside others
            chain.register_forward_hook(
                lambda one, _, out: seen.append((tuple(out.shape), shape_of(one.given, 2, time)))
            )
    assert tuple(model(inputs).shape) == shape_of(_last(config), 2, time)
    assert [found for found, _ in seen] == [wanted for _, wanted in seen]
    outer = [item for item in declared(config) if "." not in item.path][:-1]
    check, start = begin(config)
    for number, item in enumerate(outer, start=1):
        prefix = Maker(check).chain("stages", config.stages[:number], start).double().eval()
        assert tuple(prefix(inputs).shape) == shape_of(item.signal, 2, time), item.path


def _last(config: StackConfig) -> Any:
    """Returns what the head declares."""
    return next(item.signal for item in declared(config) if item.path == f"stages[{len(config.stages) - 1}]")


def test_there_are_more_than_twenty_right_compositions() -> None:
    assert len(RIGHT) >= 20
    used = {item.word for values in RIGHT.values() for item in declared(validate(StackConfig, values))}
    assert used == set(KINDS)


def test_what_is_declared_names_each_stage_by_its_path() -> None:
    config = validate(StackConfig, RIGHT["strided residual"])
    assert [(item.path, item.word) for item in declared(config)] == [
        ("stages[0]", "conv"),
        ("stages[1]", "residual"),
        ("stages[1].residual.stages[0]", "conv"),
        ("stages[1].residual.shortcut[0]", "conv"),
        ("stages[2]", "ctc"),
    ]
    assert declared(config)[1].signal.sized() == "batch time=15 channel=4"


# Padding, lengths, causality


@torch.no_grad()
def padding_gap(model: Stack, inputs: Tensor, lengths: list[int]) -> float:
    """Returns by how much padded rows differ from what they give alone; infinity if in length."""
    together, worst = model(inputs, lengths=torch.tensor(lengths)), 0.0
    for row, length in enumerate(lengths):
        alone = model(inputs[row : row + 1, :length])[0]
        if together.ndim == 3:
            left = model.stages.given.length(length)
            if alone.shape[0] != max(left, 1):
                return float("inf")
            alone, padded, rest = alone[:left], together[row, :left], together[row, left:]
            if rest.any():
                return float("inf")
        else:
            padded = together[row]
        worst = max([worst, *(alone - padded).abs().flatten().tolist()])
    return worst


@torch.no_grad()
def foresight(model: Stack, inputs: Tensor, place: int) -> float:
    """Returns by how much the features before a place of the input depend on what stands from there on."""
    changed = inputs.clone()
    changed[:, place:] = inputs_for(model.config, len(inputs), seed=9)[:, place:]
    before = -(-place // model.stages.given.stride)
    gap = (model.features(changed) - model.features(inputs))[:, :before].abs()
    return gap.max().item() if gap.numel() else 0.0


SEQUENCES = [title for title, values in RIGHT.items() if "image" not in values.get("input", {})]
LENGTHS = [20, 1, 2, 7, 13]


@pytest.mark.parametrize("title", SEQUENCES)
def test_a_padded_row_gives_what_it_gives_alone(title: str) -> None:
    model = built(RIGHT[title])
    assert padding_gap(model, inputs_for(model.config, 5), LENGTHS) < TOLERANCE


@pytest.mark.parametrize("title", SEQUENCES)
def test_a_stack_that_is_declared_causal_does_not_see_the_future(title: str) -> None:
    model = built(RIGHT[title])
    if model.stages.given.form == "sequence" and model.stages.given.causal:
        assert max(foresight(model, inputs_for(model.config, 2), place) for place in (1, 6, 13)) < TOLERANCE


@settings(max_examples=60, deadline=None, derandomize=True)
@given(stacks())
def test_random_stacks_keep_what_they_declare(values: dict[str, Any]) -> None:
    model = built(values)
    inputs = inputs_for(model.config, 4)
    time = inputs.shape[1]
    assert tuple(model(inputs).shape) == shape_of(_last(model.config), 4, time)
    assert padding_gap(model, inputs, [time, 11, 4, 1]) < TOLERANCE
    if model.stages.given.form == "sequence" and model.stages.given.causal:
        assert max(foresight(model, inputs, place) for place in (1, 8, 15)) < TOLERANCE


def test_a_stack_that_sees_the_future_is_noticed() -> None:
    model = built(text({"conv": 12}, {"tag": 2}))
    assert not model.stages.given.causal
    assert foresight(model, inputs_for(model.config, 2), 6) > 1e-3


def test_a_wrong_length_map_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(RIGHT["strided"])
    inputs = inputs_for(model.config, 5)
    assert padding_gap(model, inputs, LENGTHS) < TOLERANCE
    right = Window.length
    monkeypatch.setattr(Window, "length", lambda self, length: right(self, length) + 1)
    assert padding_gap(model, inputs, LENGTHS) > 1e-3


@pytest.mark.parametrize("title", ["kim's text cnn", "bidirectional lstm", "hybrid", "speech", "banded"])
def test_a_dropped_mask_is_noticed(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(RIGHT[title])
    monkeypatch.setattr(
        "dougong.models.stack.network.mask_of", lambda lengths, time: torch.ones(len(lengths), time, dtype=torch.bool)
    )
    assert padding_gap(model, inputs_for(model.config, 5), LENGTHS) > 1e-3


# Documents


@pytest.mark.parametrize("title", ["language model", "tagger"])
def test_packed_documents_equal_separate_ones(title: str) -> None:
    model = built(RIGHT[title])
    tokens, segments = inputs_for(model.config, 2), torch.tensor([[4] * 5 + [7] * 1 + [4] * 14, [0] * 11 + [1] * 9])
    together = model(tokens, segments=segments)
    for row, counts in enumerate([[5, 1, 14], [11, 9]]):
        for document, answer in zip(tokens[row].split(counts), together[row].split(counts), strict=True):
            assert (model(document[None])[0] - answer).abs().max() < TOLERANCE
    assert (model(tokens) - together).abs().max() > 1e-4, "the comparison must notice what crosses documents"


def test_documents_of_a_row_draw_noise_of_their_own() -> None:
    model = built({**RIGHT["language model"], "stages": [{"embed": 12}, {"dropout": 0.5}, "next_token"]})
    tokens, segments = torch.zeros(3, 10, dtype=torch.int64), torch.arange(10).expand(3, 10) // 5
    features = model.features(tokens, segments, NOISE)
    assert torch.equal(features, model.features(tokens, segments, NOISE))
    assert torch.equal(features[1:2], model.features(tokens[1:2], segments[1:2], NOISE[1:2]))
    assert not torch.equal(features[:, :5], features[:, 5:])


@torch.no_grad()
def test_decoding_rows_of_unequal_lengths_equals_reading_each_at_once() -> None:
    model = built(RIGHT["language model"])
    tokens, cache = inputs_for(model.config, 3), model.new_cache(3)
    lengths = torch.tensor([6, 2, 5])
    model.features(tokens[:, :6], cache=cache)
    cache.truncate(lengths)
    for step in range(4):
        places = lengths + step
        found = model.features(tokens.gather(1, places[:, None]), cache=cache)[:, 0]
        for row, place in enumerate(places.tolist()):
            assert (model.features(tokens[row : row + 1, : place + 1])[0, -1] - found[row]).abs().max() < TOLERANCE
    assert not hasattr(built(RIGHT["tagger"]), "new_cache")


# Options


def stages_of(stages: list[Any], path: tuple[Any, ...] = ("stages",)) -> Iterator[tuple[tuple[Any, ...], str, dict]]:
    """Yields the path, word and body of every stage of dumped values."""
    for number, item in enumerate(stages):
        ((word, body),) = ((key, value) for key, value in item.items() if key != "as")
        here = (*path, number, word)
        yield here, word, body
        for key in ("stages", "shortcut"):
            yield from stages_of(body.get(key, []), (*here, key))
        for place, branch in enumerate(body.get("branches", [])):
            yield from stages_of(branch, (*here, "branches", place))


def changed(values: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Returns a copy of values with another value at a path."""
    if not path:
        return new
    copy = dict(values) if isinstance(values, dict) else list(values)
    old = copy.get(path[0]) if isinstance(copy, dict) else copy[path[0]]
    copy[path[0]] = changed(old, path[1:], new)
    return copy


def idle_options(stacks: list[dict[str, Any]]) -> set[str]:
    """Returns the options of stages that change nothing in any of the stacks."""
    idle = {f"{word}.{name}" for word, kind in KINDS.items() for name in kind.model_fields}
    for given_values in stacks:
        values = validate(StackConfig, given_values).model_dump()
        before = computation(stack, validate(StackConfig, values))
        for path, word, body in stages_of(values["stages"]):
            for name, field in KINDS[word].model_fields.items():
                kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
                for other in alternatives(kind, body.get(name)) if f"{word}.{name}" in idle else ():
                    config, _ = try_validate(StackConfig, changed(values, (*path, name), other))
                    if config is None or other == body.get(name) or f"{word}.{name}" not in idle:
                        continue
                    after = computation(stack, config)
                    same = len(before) == len(after) and all(map(torch.equal, before, after))
                    idle -= set() if same else {f"{word}.{name}"}
    return idle


BATCH = text(
    {"norm": {"kind": "batch"}},
    {"rnn": {"dim": 4, "bidirectional": True}},
    {"pool": {"size": 2}},
    "last",
    {"classify": 3},
)
MORE = [BATCH, text({"gru": 8}, "pool", {"classify": 3}), text({"lstm": 8}, "pool", {"classify": 2})]


def test_every_option_of_every_stage_changes_the_computation() -> None:
    # What changes the axes, or stands inside, cannot be changed alone; see the next test.
    others = {"residual.stages", "residual.shortcut", "parallel.branches", "repeat.stages", "flatten.into"}
    assert idle_options([*SMALL.values(), *MORE]) <= others


@pytest.mark.parametrize(
    ("word", "stage", "other"),
    [
        ("residual.stages", {"residual": [{"conv": 12}]}, {"residual": ["activate"]}),
        ("residual.shortcut", {"residual": ["norm"]}, {"residual": {"stages": ["norm"], "shortcut": ["activate"]}}),
        (
            "repeat.stages",
            {"repeat": {"times": 2, "stages": ["norm"]}},
            {"repeat": {"times": 2, "stages": ["activate"]}},
        ),
        ("parallel.branches", {"parallel": [["norm"], []]}, {"parallel": [["norm"], ["activate"]]}),
    ],
)
def test_what_stands_inside_a_stage_counts(word: str, stage: dict[str, Any], other: dict[str, Any]) -> None:
    one, two = (built(text(inner, {"tag": 2})) for inner in (stage, other))
    assert not torch.equal(one(inputs_for(one.config, 2)), two(inputs_for(two.config, 2)))


def test_an_option_that_changes_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dougong.models.stack.leaves.dropout", lambda hidden, *_: hidden)
    assert "dropout.probability" in idle_options([SMALL["text"]])


# Normalisation over the batch


def test_batch_normalisation_couples_rows_in_training_alone_and_counts_no_padding() -> None:
    model = built(text({"norm": "batch"}, "pool", {"classify": 3}))
    inputs, lengths = inputs_for(model.config, 3), torch.tensor([20, 5, 9])
    alone = torch.cat([model(inputs[row : row + 1], lengths=lengths[row : row + 1]) for row in range(3)])
    assert (model(inputs, lengths=lengths) - alone).abs().max() < TOLERANCE
    model.train()
    coupled = model(inputs, lengths=lengths)
    assert (coupled - alone).abs().max() > 1e-4
    longer = torch.nn.functional.pad(inputs[:, :20], (0, 0))
    longer[1, 5:], longer[2, 9:] = 3, 7
    assert (model(longer, lengths=lengths) - coupled).abs().max() < TOLERANCE


# Building, initial values, blocks


def test_resnet50_is_written_exactly_and_runs_on_meta() -> None:
    with torch.device("meta"):
        model = validate(StackConfig, VARIANTS["resnet50"]).build()
        answer = model(torch.empty(2, 3, 224, 224))
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert answer.shape == (2, 1000)
    assert len(model.blocks) == 2 + 3 + 5 + 2


def test_initial_values_are_those_of_the_table() -> None:
    model = validate(
        StackConfig,
        text(
            {"conv": 128},
            {"repeat": {"times": 8, "stages": [{"transformer": 4}]}},
            {"lstm": 64},
            "last",
            {"classify": 50},
        ),
    ).build()
    model.init_weights(0)
    values = dict(model.named_parameters())
    block = "stages.2_repeat.0.0_transformer"
    for name, std in {
        "stages.0_embed.weight": 1.0,
        "stages.1_conv.weight": (2 / (12 * 3)) ** 0.5,
        f"{block}.attention.qkv.weight": 128**-0.5,
        f"{block}.attention.output.weight": 128**-0.5 / 4,
        f"{block}.feedforward.down.weight": 512**-0.5 / 4,
        "stages.3_lstm.weight_hh_l0": 64**-0.5 / 3**0.5,
        "answer.weight": 0.1 * 64**-0.5,
    }.items():
        assert values[name].std().item() == pytest.approx(std, rel=0.1), name


def test_an_embedding_to_which_the_head_is_tied_begins_small() -> None:
    tied, own = (built(text({"next_token": tie})) for tie in (True, False))
    assert tied.head_weight is tied.get_parameter("stages.0_embed.weight")
    assert tied.head_weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert own.get_parameter("stages.0_embed.weight").std().item() == pytest.approx(1.0, rel=0.2)
    assert own.head_weight.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_recomputed_blocks_give_the_same_gradients_and_statistics(norm: str) -> None:
    inside = [{"norm": norm}, {"conv": 12}, {"dropout": 0.1}, "activate"]
    values = text({"repeat": {"times": 3, "stages": [{"residual": inside}]}}, "pool", {"classify": 3})
    found = []
    for recompute in (False, True):
        model = built(values).train()
        assert len(model.blocks) == 3
        with prepared_blocks(model, compiled=False, recompute=recompute):
            model(inputs_for(model.config, 3), noise=NOISE).square().sum().backward()
        found.append([*(parameter.grad for parameter in model.parameters()), *model.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


_COMPILED = """
import copy, json, sys, torch, torch._dynamo
from dougong.core.config import validate
from dougong.models.stack import StackConfig, example

block = json.loads(sys.argv[1])
values = {"vocab_size": 61, "max_seq_len": 24, "num_classes": 3,
          "stages": [{"embed": 16}, {"repeat": {"times": 4, "stages": block}}, "pool", "classify"]}
eager = validate(StackConfig, values).build()
eager.init_weights(0)
compiled = copy.deepcopy(eager)
for one in compiled.blocks:
    one.compile(fullgraph=True, backend="aot_eager")
inputs = example(eager.config, 2) | {"noise": torch.arange(2, dtype=torch.int32)}
for model in (eager, compiled):
    model.answers = model(**inputs)
    model.answers.square().sum().backward()
torch.testing.assert_close(eager.answers, compiled.answers, rtol=0, atol=1e-5)
for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
print("graphs", torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


TRANSFORMER = {"transformer": {"num_heads": 4, "dropout": 0.1}}


@pytest.mark.parametrize(
    "block",
    [[TRANSFORMER], [TRANSFORMER, {"residual": ["norm", {"conv": {"kernel": 3}}]}]],
    ids=["transformer", "hybrid"],
)
def test_a_compiled_block_equals_eager_and_serves_all_times(block: list[Any]) -> None:
    # In a process of its own: the checks of shapes that tests install do not survive compilation.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILED, json.dumps(block)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=230,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "graphs 1\n" in done.stdout


def test_impossible_calls_are_refused_in_a_sentence() -> None:
    model = built(RIGHT["tagger"])
    with pytest.raises(UsageError, match=r"at most model.max_seq_len = 20 places, but has 21"):
        model(torch.zeros(1, 21, dtype=torch.int64))
    with pytest.raises(UsageError, match="segments must come without lengths"):
        model(inputs_for(model.config, 1), torch.tensor([3]), segments=torch.zeros(1, 20, dtype=torch.int64))
    with pytest.raises(UsageError, match="an image must be 3 x 12 x 8, as model.input says, but is 3 x 8 x 8"):
        built(RIGHT["vision transformer"])(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UsageError, match=r"model.vocab_size must be known"):
        validate(StackConfig, {"stages": [{"embed": 8}, "pool", {"classify": 2}]}).build()
    with pytest.raises(UsageError, match=r"model.num_classes must be known"):
        validate(StackConfig, {**SPEECH, "stages": ["pool", "classify"]}).build()
