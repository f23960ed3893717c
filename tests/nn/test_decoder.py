"""The decoder's block is torch's own in value and gradient, and its cache gives what all at once gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dougong.core.seed import sample_keys
from dougong.nn.cache import KVCache
from dougong.nn.decoder import DecoderBlock, DecoderCache
from dougong.nn.mask import mask_of
from dougong.nn.transformer import BlockShape
from tests.nn.padding import filled
from tests.nn.test_init import Operations

PLAIN = BlockShape(dim=8, num_heads=2, hidden_dim=20, activation="relu")
SHAPES = {"norm first": PLAIN, "norm last": replace(PLAIN, norm_first=False)}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
NOISE = sample_keys(torch.arange(3), 0, "dropout", 1)
MASK = mask_of(torch.tensor([5, 2, 4]), 5)


def given(time: int = 6, source: int = 5) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    hidden, memory = (torch.randn(3, n, 8, generator=draws, dtype=torch.float64) for n in (time, source))
    return hidden.requires_grad_(), memory.requires_grad_()


def of_torch(block: DecoderBlock, shape: BlockShape) -> nn.TransformerDecoderLayer:
    """Returns torch's own layer with the block's weights."""
    layer = nn.TransformerDecoderLayer(8, 2, 20, 0.0, "relu", batch_first=True, norm_first=shape.norm_first).double()
    cross = layer.multihead_attn
    pairs = {
        layer.self_attn.in_proj_weight: block.attention.qkv.weight,
        layer.self_attn.in_proj_bias: block.attention.qkv.bias,
        cross.in_proj_weight: torch.cat((block.cross.query.weight, block.cross.memory.weight)),
        cross.in_proj_bias: torch.cat((block.cross.query.bias, block.cross.memory.bias)),
    }
    for theirs, ours in (
        (layer.self_attn.out_proj, block.attention.output),
        (cross.out_proj, block.cross.output),
        (layer.linear1, block.feedforward.up),
        (layer.linear2, block.feedforward.down),
        (layer.norm1, block.attention_norm),
        (layer.norm2, block.cross_norm),
        (layer.norm3, block.feedforward_norm),
    ):
        pairs |= {theirs.weight: ours.weight, theirs.bias: ours.bias}
    with torch.no_grad():
        for theirs, ours in pairs.items():
            theirs.copy_(ours)
    return layer


@shapes
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_block_is_that_of_torch_in_value_and_gradient(shape: BlockShape, mask: Tensor | None) -> None:
    (hidden, memory), block = given(), filled(DecoderBlock(shape))
    causal = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    padding = None if mask is None else torch.zeros(3, 5, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    theirs = of_torch(block, shape)(hidden, memory, causal, memory_key_padding_mask=padding, tgt_is_causal=True)
    results = block(hidden, memory, mask), theirs
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)
    for one in (hidden, memory):
        slopes = [torch.autograd.grad(r.sin().sum(), one, retain_graph=True)[0] for r in results]
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)
    if mask is not None:
        assert (block(hidden, memory) - theirs).abs().max() > 1e-3, "the mask must make a difference"


def cache_of(blocks: list[DecoderBlock], memory: Tensor, mask: Tensor | None, watches: bool = True) -> DecoderCache:
    own = KVCache(len(blocks), len(memory), 2, 6, 4, torch.float64)
    return DecoderCache(own, [block.cross.keys_and_values(memory) for block in blocks], mask, watches)


def read(blocks: list[DecoderBlock], hidden: Tensor, cache: DecoderCache) -> Tensor:
    for layer, block in enumerate(blocks):
        hidden = block(hidden, None, cache.mask, cache.layer(layer))
    cache.advance(hidden.shape[1])
    return hidden


@shapes
@torch.no_grad()
def test_cached_steps_equal_all_at_once_also_with_other_rows(shape: BlockShape) -> None:
    (hidden, memory), blocks = given(), [filled(DecoderBlock(shape)) for _ in range(2)]
    full = blocks[1](blocks[0](hidden, memory, MASK), memory, MASK)
    cache = cache_of(blocks, memory, MASK)
    begun = torch.cat([read(blocks, piece, cache) for piece in hidden[:, :3].split((2, 1), dim=1)], dim=1)
    torch.testing.assert_close(begun, full[:, :3], rtol=0, atol=1e-10)
    assert cache.length == 3
    for index in ([2, 0, 1], [1, 1, 0, 2], [3]):  # other sources, more rows, fewer rows
        chosen = torch.tensor(index)
        cache.reorder(chosen)
        hidden, full = hidden[chosen], full[chosen]
        found = read(blocks, hidden[:, cache.length : cache.length + 1], cache)
        torch.testing.assert_close(found[:, 0], full[:, cache.length - 1], rtol=0, atol=1e-10)
        assert cache.attention.shape == (len(index), 5)


@torch.no_grad()
def test_a_memory_that_stays_behind_is_noticed() -> None:
    (hidden, memory), blocks = given(), [filled(DecoderBlock(PLAIN))]
    cache = cache_of(blocks, memory, MASK)
    read(blocks, hidden[:, :3], cache)
    cache._origin = torch.tensor([1, 1, 1])  # as if all rows had one source
    cache.reorder(torch.tensor([2, 0, 1]))
    full = blocks[0](hidden, memory, MASK)[[2, 0, 1]]
    assert (read(blocks, hidden[[2, 0, 1], 3:4], cache)[:, 0] - full[:, 3]).abs().max() > 1e-3


@torch.no_grad()
def test_beams_that_change_places_within_their_source_copy_no_memory() -> None:
    (hidden, memory), blocks = given(), [filled(DecoderBlock(PLAIN))]
    cache = cache_of(blocks, memory, MASK)
    read(blocks, hidden[:, :2], cache)
    cache.reorder(torch.tensor([0, 0, 1, 1, 2, 2]))
    before = cache.memory
    cache.reorder(torch.tensor([1, 0, 2, 2, 5, 4]))
    assert cache.memory is before
    cache.reorder(torch.tensor([2, 0, 1, 2, 5, 4]))
    assert cache.memory is not before


@torch.no_grad()
def test_attention_is_kept_of_the_last_query_in_the_last_layer() -> None:
    (hidden, memory), blocks = given(), [filled(DecoderBlock(PLAIN)) for _ in range(2)]
    seen: list[Tensor] = []
    blocks[1].cross.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    cache = cache_of(blocks, memory, MASK)
    read(blocks, hidden, cache)
    query = blocks[1].cross.query(seen[0][:, -1]).unflatten(-1, (2, 4))
    key = blocks[1].cross.memory(memory)[..., :8].unflatten(-1, (2, 4))
    scores = (query[:, None] * key).sum(-1) / 2.0  # the root of a head's width
    expected = scores.masked_fill(~MASK[..., None], -torch.inf).softmax(1).mean(-1)
    torch.testing.assert_close(cache.attention, expected, rtol=0, atol=1e-12)
    quiet = cache_of(blocks, memory, MASK, watches=False)
    read(blocks, hidden, quiet)
    assert quiet.attention is None


@shapes
def test_dropout_is_a_function_of_its_keys_and_is_recomputed(shape: BlockShape) -> None:
    (hidden, memory), block = given(), filled(DecoderBlock(replace(shape, dropout=0.2, attention_dropout=0.2)))
    whole = block(hidden, memory, MASK, None, NOISE)
    alone = [block(hidden[i : i + 1], memory[i : i + 1], MASK[i : i + 1], None, NOISE[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=0, atol=1e-12)
    assert (whole - block(hidden, memory, MASK)).abs().max() > 1e-3
    again = checkpoint(block, hidden, memory, MASK, None, NOISE, use_reentrant=False, preserve_rng_state=False)
    slopes = [torch.autograd.grad(r.sin().sum(), memory)[0] for r in (whole, again)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-12)


def test_each_dropout_draws_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []

    def note(hidden: Tensor, probability: float, noise: Tensor, place: int) -> Tensor:
        places.append(place)
        return hidden

    for module in ("decoder", "transformer"):
        monkeypatch.setattr(f"dougong.nn.{module}.dropout", note)
    block = filled(DecoderBlock(replace(PLAIN, dropout=0.2, attention_dropout=0.2)))
    block(*given(), MASK, None, NOISE)
    assert sorted(places) == [0, 1, 2, 3, 4]


@shapes
def test_block_is_made_empty_and_meta_gives_shapes(shape: BlockShape) -> None:
    with Operations() as done, torch.device("meta"):
        block = DecoderBlock(shape)
    assert done.names <= {"empty", "detach"}
    hidden, memory = (torch.empty(2, n, 8, device="meta") for n in (3, 5))
    assert block(hidden, memory).shape == (2, 3, 8)
