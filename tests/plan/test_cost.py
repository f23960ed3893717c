"""The folded cost is that of the whole model, and its activations are those of the papers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dougong.core.config import Config, find_part, validate
from dougong.core.contracts import Batch, Loss
from dougong.plan.cost import Cost, cost_of, split_dims, state_bytes
from dougong.plan.count import Count, build_on_meta, count, known_model, optimizer_bytes, task_of
from dougong.recipe import load
from dougong.train.config import AdamWConfig, TrainConfig

GPT = find_part("models", "gpt")
SHAPE = {"name": "gpt", "vocab_size": 200, "max_seq_len": 32, "num_layers": 6, "num_heads": 4, "dim": 64}
LLAMA = {"position": "rotary", "norm": "rmsnorm", "activation": "silu", "gated_mlp": True, "bias": False}


def config_of(**model: Any) -> Any:
    return validate(GPT.PART, {**SHAPE, **model})


def cost(config: Any, dtype: torch.dtype = torch.float32) -> Cost:
    task = validate(find_part("tasks", "language_modeling").PART, {}).build(config)
    return cost_of(config, task, AdamWConfig(), dtype)


@pytest.mark.parametrize("name", [name for name in GPT.VARIANTS if name.startswith("gpt3")])
def test_parameters_are_those_of_the_whole_model(name: str) -> None:
    config = validate(GPT.PART, GPT.VARIANTS[name])
    found = cost(config.replace(max_seq_len=64, band=16))
    whole = build_on_meta(config.replace(max_seq_len=64, band=16))
    assert found.parameters == sum(p.numel() for p in whole.parameters())
    assert len(found.kinds) == 2
    assert len(found.order) == config.num_layers


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ({}, 1),
        ({**LLAMA, "num_kv_heads": 2, "tie_embeddings": False}, 1),
        ({"attention_pattern": ["dense", "dense", "banded"], "band": 4}, 2),
        ({"dropout": 0.1}, 1),
    ],
    ids=str,
)
def test_folded_is_whole(model: dict[str, Any], kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folded = cost(config_of(**model))
    monkeypatch.setattr("dougong.plan.cost._signature", id)  # no two blocks are alike: all are traced
    whole = cost(config_of(**model))
    assert (len(folded.kinds), len(whole.kinds)) == (kinds, 6)
    for name in ("forward_flops", "backward_flops", "parameters", "optimizer_bytes"):
        assert folded.total(name) == whole.total(name), name
    for name in ("saved_bytes", "moved_bytes"):  # masks, and what mixes a layer's noise, stand outside the blocks
        assert folded.total(name) == pytest.approx(whole.total(name), rel=0.02), name


PICTURES = {"task": {"name": "image_classification"}, "data": {"name": "digits"}, "train": {"steps": 1}}
SAME_WIDTHS = {"depths": [2, 2, 2], "widths": [8, 8, 8], "image_shape": [3, 32, 32], "num_classes": 4}


def pictures(source: Any) -> tuple[Cost, Count]:
    """What a recipe of pictures costs, by its parts, and counted as a whole."""
    recipe = load(source)
    model = known_model(recipe)
    return cost_of(model, task_of(recipe, model), AdamWConfig()), count(recipe)


@pytest.mark.parametrize(
    "source",
    ["digits-resnet", "bccd-retinanet", {**PICTURES, "model": {"name": "resnet", **SAME_WIDTHS}}],
    ids=["digits-resnet", "bccd-retinanet", "the same blocks over pictures of several sizes"],
)
def test_blocks_that_are_no_list_of_the_models_own_are_counted_once(source: Any) -> None:
    folded, whole = pictures(source)
    assert folded.parameters == whole.parameters
    assert folded.total("forward_flops") == whole.forward_flops
    assert folded.total("backward_flops") == pytest.approx(whole.backward_flops, abs=2)  # an odd number is halved
    assert len(folded.kinds) > 1


def test_blocks_over_pictures_of_several_sizes_taken_for_alike_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control."""
    monkeypatch.setattr("dougong.plan.cost._Trace.given", lambda *_: ())
    folded, whole = pictures({**PICTURES, "model": {"name": "resnet", **SAME_WIDTHS}})
    assert folded.total("forward_flops") > 1.2 * whole.forward_flops


def test_folding_blocks_that_differ_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were all blocks taken for alike, the mask that banded ones keep would be lost."""
    banded = config_of(attention_pattern=["dense", "banded"], band=4)
    right = cost(banded).total("saved_bytes")
    monkeypatch.setattr("dougong.plan.cost._told", lambda model, count: [None] * count)
    assert len(cost(banded).kinds) == 1
    assert cost(banded).total("saved_bytes") != right


def test_operations_are_those_of_the_formula() -> None:
    layers, dim, time, vocab = 6, 64, 32, 200
    found = cost(config_of())
    forward = layers * (24 * time * dim * dim + 4 * time * time * dim)
    assert found.flops() == 3 * forward + 6 * time * dim * vocab
    assert found.flops(recompute=True) - found.flops() == forward


def test_operations_of_many_chunks_are_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks add their products in place; an operation that torch's own table does not know."""
    monkeypatch.setattr("dougong.nn.losses._rows_per_chunk", lambda vocab: 5)
    chunked = cost(config_of())
    monkeypatch.undo()
    assert chunked.flops() == cost(config_of()).flops()


def test_kept_activations_are_those_of_korthikanti() -> None:
    """Korthikanti et al. 2022, equation 1: s b h (34 + 5 a s / h) bytes per layer in 16 bits.

    Ours has no dropout (their 2 s b h of masks), the fused attention keeps no scores (their 5 a s / h) but a row's sum
    in fp32 (4 a / h), and each norm two numbers per token in fp32 or 16 bits (at most 16 / h).
    """
    heads, time, dim = 8, 128, 512
    block = cost(config_of(num_heads=heads, max_seq_len=time, dim=dim), torch.bfloat16).kinds[0]
    unit = time * dim
    assert 32 * unit + 4 * heads * time <= block.saved_bytes <= 32 * unit + 4 * heads * time + 16 * time
    assert block.boundary_bytes == 2 * unit
    # Equation 2: of these, tensor parallelism leaves 10 whole; without dropout's masks and inputs of norms counted, 8.
    assert block.saved_bytes - block.split_saved_bytes == pytest.approx(8 * unit, rel=0.01)
    assert block.reduced_forward_bytes == block.reduced_backward_bytes == 2 * 2 * unit
    assert block.ring_bytes == 2 * 2 * unit


def test_attention_by_formula_keeps_the_scores() -> None:
    """The control: where the model holds all probabilities, they are counted."""
    fused, formula = cost(config_of()), cost(config_of(attention_dropout=0.1))
    scores = 4 * SHAPE["num_heads"] * SHAPE["max_seq_len"] ** 2
    assert formula.kinds[0].saved_bytes - fused.kinds[0].saved_bytes >= 2 * scores


def test_what_is_split_follows_the_models_table() -> None:
    network = build_on_meta(config_of())
    dims = split_dims(network)
    assert dims["token_embedding.weight"] == dims["blocks.0.attention.qkv.weight"] == 0
    assert dims["blocks.5.attention.output.weight"] == dims["blocks.5.feedforward.down.weight"] == 1
    assert not any("norm" in name or name.endswith("down.bias") for name in dims)
    found = cost(config_of())
    sizes = dict(network.named_parameters())
    inside = sum(sizes[name].numel() for name in dims if name.startswith("blocks.0."))
    assert found.kinds[0].split_parameters == inside
    assert found.kinds[0].split_share == 1.0
    assert found.tied_parameters == sizes["token_embedding.weight"].numel()


def test_a_model_without_a_table_cannot_be_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GPT.GPT, "SPLIT", {})
    assert cost(config_of()).tensor_degrees == ()
    assert cost(config_of()).total("split_saved_bytes") == 0


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adafactor", "muon"])
def test_optimizer_state_is_that_of_the_optimizer(name: str) -> None:
    optimizer = validate(TrainConfig, {"optimizer": {"name": name}}).optimizer
    network = build_on_meta(config_of())
    counters = 4 * len(list(network.parameters()))
    real = optimizer_bytes(network, optimizer)
    assert 0 <= real - state_bytes(network.named_parameters(), optimizer) <= counters


class PlainConfig(Config):
    """A network without blocks."""

    normed: bool = False
    """Whether it normalises over the batch."""

    def build(self) -> torch.nn.Module:
        norm = torch.nn.BatchNorm2d(8) if self.normed else torch.nn.Identity()
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), norm, torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))


class Summing:
    """An objective of nothing."""

    collate = metrics = decode = staticmethod(lambda *_: None)

    def example_batch(self, batch_size: int, device: Any = "meta") -> Batch:
        images = torch.zeros(batch_size, 3, 16, 16, device=device)
        return Batch({"images": images}, torch.arange(batch_size, device=device))

    def loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        found = model(batch["images"]).sum()
        return Loss(found, torch.ones((), device=found.device), {})


def test_a_model_without_blocks_is_one_part() -> None:
    found = cost_of(PlainConfig(), Summing(), AdamWConfig())
    assert found.order == ()
    assert found.kinds == ()
    assert found.before.parameters == 0
    first, second = 2 * 14 * 14 * 8 * 27, 2 * 12 * 12 * 4 * 72
    assert found.after.forward_flops == first + second
    assert found.after.backward_flops == first + 2 * second  # the images need no gradient
    assert found.parameters == 8 * 28 + 4 * 73
    assert found.after.saved_bytes == 4 * (3 * 256 + 8 * 196)


def test_a_batchs_statistics_are_taken_over_two_and_told_of_one() -> None:
    plain, normed = (cost_of(PlainConfig(normed=normed), Summing(), AdamWConfig()).after for normed in (False, True))
    assert (normed.forward_flops, normed.backward_flops) == (plain.forward_flops, plain.backward_flops)
    assert normed.parameters == plain.parameters + 16
    kept = normed.saved_bytes - plain.saved_bytes - 4 * 8 * 196  # the norm's input; its statistics are of the batch
    assert 0 <= kept < 100
