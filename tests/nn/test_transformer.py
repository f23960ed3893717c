"""The Transformer block is its formula in every form, and a padded row gives what it gives alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dougong.core.seed import sample_keys
from dougong.nn.attention import mask_for
from dougong.nn.mask import blanked
from dougong.nn.position import frequencies, rotary
from dougong.nn.transformer import Attention, Block, BlockShape
from tests.nn.padding import filled, gap_to_alone
from tests.nn.test_init import Operations

PLAIN = BlockShape(dim=8, num_heads=2)
SHAPES = {
    "plain": PLAIN,
    "both ways": replace(PLAIN, causal=False),
    "norm last": replace(PLAIN, causal=False, norm_first=False),
    "grouped": replace(PLAIN, num_heads=4, num_kv_heads=2),
    "llama": replace(PLAIN, norm="rmsnorm", gated=True, activation="silu", bias=False, hidden_dim=24),
    "qwen": replace(PLAIN, norm="rmsnorm", qk_norm=True, head_dim=6),
}
NOISE = sample_keys(torch.arange(3), 0, "dropout", 1)
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def turning(time: int, width: int) -> tuple[Tensor, Tensor]:
    return rotary(torch.arange(time), frequencies(width, 10000.0, None, torch.device("cpu")), torch.float64)


def of_torch(block: Block, shape: BlockShape) -> nn.TransformerEncoderLayer:
    """Returns torch's own layer with the block's weights."""
    layer = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=shape.norm_first).double()
    pairs = {
        layer.self_attn.in_proj_weight: block.attention.qkv.weight,
        layer.self_attn.in_proj_bias: block.attention.qkv.bias,
        layer.self_attn.out_proj.weight: block.attention.output.weight,
        layer.self_attn.out_proj.bias: block.attention.output.bias,
    }
    for theirs, ours in (
        (layer.linear1, block.feedforward.up),
        (layer.linear2, block.feedforward.down),
        (layer.norm1, block.attention_norm),
        (layer.norm2, block.feedforward_norm),
    ):
        pairs |= {theirs.weight: ours.weight, theirs.bias: ours.bias}
    with torch.no_grad():
        for theirs, ours in pairs.items():
            theirs.copy_(ours)
    return layer


@pytest.mark.parametrize("kind", ["plain", "both ways", "norm last"])
def test_block_is_that_of_torch_in_value_and_gradient(kind: str) -> None:
    shape, hidden = SHAPES[kind], torch.randn(3, 7, 8, dtype=torch.float64, requires_grad=True)
    block = filled(Block(shape))
    layer = of_torch(block, shape)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64) if shape.causal else None
    results = block(hidden), layer(hidden, mask, is_causal=shape.causal)
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)
    torch.testing.assert_close(*(torch.autograd.grad(r.sin().sum(), hidden)[0] for r in results), rtol=0, atol=1e-10)


def test_where_the_norm_stands_and_what_is_seen_make_a_difference() -> None:
    hidden = torch.randn(3, 7, 8, dtype=torch.float64)
    block = filled(Block(PLAIN))
    results = []
    for kind in ("plain", "both ways", "norm last"):
        other = Block(SHAPES[kind]).double()
        other.load_state_dict(block.state_dict())
        results.append(other(hidden))
    assert (results[0] - results[1]).abs().max() > 1e-3
    assert (results[1] - results[2]).abs().max() > 1e-3


@shapes
@pytest.mark.parametrize("band", [None, 3])
@pytest.mark.parametrize("rotated", [False, True])
def test_padded_row_gives_what_it_gives_alone(shape: BlockShape, band: int | None, rotated: bool) -> None:
    block = filled(Block(shape))
    assert gap_to_alone(through(block, shape, band, rotated), 8) < 1e-10


def through(block: Block, shape: BlockShape, band: int | None, rotated: bool):
    def run(hidden: Tensor, mask: Tensor | None) -> Tensor:
        rotation = turning(hidden.shape[1], shape.width_of_head) if rotated else None
        return block(blanked(hidden, mask), rotation, mask_for(mask, hidden, shape.causal, band))

    return run


def test_padding_that_is_attended_to_is_noticed() -> None:
    shape = SHAPES["both ways"]
    block = filled(Block(shape))
    assert gap_to_alone(lambda hidden, mask: block(blanked(hidden, mask)), 8) > 1e-3


@shapes
def test_only_a_causal_block_is_blind_to_what_comes_later(shape: BlockShape) -> None:
    block, hidden = filled(Block(shape)), torch.randn(1, 6, 8, dtype=torch.float64)
    later = hidden.clone()
    later[:, 4:] += torch.randn(8, dtype=torch.float64)
    difference = (block(hidden) - block(later))[:, :4].abs().max().item()
    assert difference < 1e-12 if shape.causal else difference > 1e-3


@shapes
def test_dropout_is_a_function_of_its_keys_and_is_recomputed(shape: BlockShape) -> None:
    shape = replace(shape, dropout=0.2, attention_dropout=0.2)
    block, hidden = filled(Block(shape)), torch.randn(3, 6, 8, dtype=torch.float64, requires_grad=True)
    whole = block(hidden, noise=NOISE)
    alone = torch.cat([block(hidden[i : i + 1], noise=NOISE[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-12)
    assert (whole - block(hidden)).abs().max() > 1e-3
    again = checkpoint(block, hidden, None, None, None, NOISE, use_reentrant=False, preserve_rng_state=False)
    slopes = [torch.autograd.grad(r.sin().sum(), hidden)[0] for r in (whole, again)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-12)


@shapes
def test_gradients_reach_every_parameter(shape: BlockShape) -> None:
    block = filled(Block(shape))
    block(torch.randn(2, 5, 8, dtype=torch.float64)).sin().sum().backward()
    assert all(p.grad.abs().max() > 0 for name, p in block.named_parameters() if name != "attention.qkv.bias")


@shapes
def test_block_is_made_empty_and_meta_gives_shapes(shape: BlockShape) -> None:
    with Operations() as done, torch.device("meta"):
        block = Block(shape)
    assert done.names <= {"empty", "detach"}
    assert block(torch.empty(2, 3, 8, device="meta")).shape == (2, 3, 8)


def test_attention_reaches_as_far_as_its_mask() -> None:
    attention, hidden = filled(Attention(SHAPES["both ways"])), torch.randn(1, 6, 8, dtype=torch.float64)
    near = attention(hidden, None, mask_for(None, hidden, False, 2))
    far = hidden.clone()
    far[:, 3:] += 1.0
    moved = (attention(far, None, mask_for(None, hidden, False, 2)) - near)[0].abs().amax(dim=1)
    assert moved[:2].max() < 1e-12
    assert moved[2:].min() > 1e-3
