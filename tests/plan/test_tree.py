"""A model's tree adds up to the model, and repeats are one line of it."""

from __future__ import annotations

from torch import nn

from dougong.core.config import find_part
from dougong.plan.count import build_on_meta
from dougong.plan.tree import Block, tree


def layers(*widths: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width, width, bias=False) for width in widths)


def summed(block: Block) -> int:
    """The parameters of a block, from its leaves."""
    return sum(map(summed, block.blocks)) * block.times if block.blocks else block.parameters


def test_repeats_are_folded_and_add_up() -> None:
    network = nn.Module()
    network.layers = layers(3, 3, 3, 5, 3, 3)
    found = tree(network, {"layers.0": 7, "layers.1": 7, "layers.2": 7, "layers.3": 1, "layers.4": 7, "layers.5": 8})
    (inner,) = found.blocks
    assert [(b.name, b.times, b.parameters, b.forward_flops) for b in inner.blocks] == [
        ("0 to 2", 3, 27, 21),
        ("3", 1, 25, 1),
        ("4", 1, 9, 7),  # like its neighbour but for its operations
        ("5", 1, 9, 8),
    ]
    assert (found.parameters, found.forward_flops) == (70, 37)


def test_neighbours_with_names_are_not_folded() -> None:
    network = nn.Module()
    network.query, network.key = layers(3, 3)
    assert [block.name for block in tree(network, {}).blocks] == ["query", "key"]


def test_what_is_shared_counts_where_it_comes_first() -> None:
    network = nn.Module()
    network.embed, network.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
    network.head.weight = network.embed.weight
    found = tree(network, {})
    assert [(block.name, block.parameters) for block in found.blocks] == [("embed", 21), ("head", 0)]
    assert found.parameters == 21


def test_a_whole_model_adds_up_and_is_short() -> None:
    config = find_part("models", "gpt").PART(vocab_size=100, max_seq_len=8, num_layers=12, num_heads=2, dim=8)
    network = build_on_meta(config)
    found = tree(network, {})
    assert found.parameters == sum(p.numel() for p in network.parameters())
    blocks = next(block for block in found.blocks if block.name == "blocks")
    assert [block.name for block in blocks.blocks] == ["0 to 11"]
    assert summed(blocks) == blocks.parameters
    assert found.as_dict()["blocks"][0]["kind"] == found.blocks[0].kind
