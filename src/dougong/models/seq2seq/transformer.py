"""The two stacks of the Transformer (Vaswani et al. 2017, section 3.1). Knows blocks; knows no embedding, no head."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dougong.core import seed as seeds
from dougong.models.seq2seq import Seq2SeqConfig
from dougong.models.seq2seq.memory import Memory
from dougong.nn.attention import mask_for
from dougong.nn.cache import KVCache
from dougong.nn.decoder import DecoderBlock, DecoderCache
from dougong.nn.norm import LayerNorm
from dougong.nn.transformer import Block, BlockShape


def block_shape(config: Seq2SeqConfig, causal: bool) -> BlockShape:
    """Returns what the blocks of a stack are made of."""
    return BlockShape(
        dim=config.dim,
        num_heads=config.num_heads,
        hidden_dim=config.width_inside,
        activation=config.activation,
        norm_eps=config.norm_eps,
        norm_first=config.norm_first,
        causal=causal,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
    )


def final_norm(config: Seq2SeqConfig) -> nn.Module:
    """Returns what stands after a stack: a norm, where the blocks end with a sum."""
    return LayerNorm(config.dim, config.norm_eps, bias=True) if config.norm_first else nn.Identity()


class Encoder(nn.Module):
    """Reads the source: each place sees all of it."""

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        self.blocks = nn.ModuleList(Block(block_shape(config, causal=False)) for _ in range(config.num_layers))
        self.final_norm = final_norm(config)

    def forward(
        self,
        hidden: Float[Tensor, "batch source dim"],
        mask: Bool[Tensor, "batch source"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Memory:
        """Returns the memory of embedded sources. Arguments are those of `Seq2Seq.encode`."""
        seen = mask_for(mask, hidden, causal=False)
        for layer, block in enumerate(self.blocks):
            own_noise = None if noise is None else seeds.fold(noise, 1 + layer)
            hidden = block(hidden, mask=seen, noise=own_noise)
        return Memory(self.final_norm(hidden), mask)


class Decoder(nn.Module):
    """Writes the target: each place sees those before it, and all of the source."""

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        self.config = config
        shape = block_shape(config, causal=True)
        self.blocks: Any = nn.ModuleList(DecoderBlock(shape) for _ in range(config.decoder_layers))
        self.final_norm = final_norm(config)

    def forward(
        self,
        hidden: Float[Tensor, "batch time dim"],
        memory: Memory | None,
        cache: DecoderCache | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Returns what the output layer reads of embedded targets. Arguments are those of `Seq2Seq.features`."""
        source = None if memory is None else memory.features
        mask = None if memory is None else memory.mask
        if cache is not None:
            cache.require_room(hidden.shape[1])
            source, mask = None, cache.mask  # it holds what is needed of the memory
        for layer, block in enumerate(self.blocks):
            cached = None if cache is None else cache.layer(layer)
            own_noise = None if noise is None else seeds.fold(noise, 1 + self.config.num_layers + layer)
            hidden = block(hidden, source, mask, cached, own_noise)
        if cache is not None:
            cache.advance(hidden.shape[1])
        return self.final_norm(hidden)

    def new_cache(self, memory: Memory, max_len: int, attention: bool = False) -> DecoderCache:
        """Returns an empty cache over a memory. Arguments are those of `Seq2Seq.new_cache`."""
        source, shape = memory.features, block_shape(self.config, causal=True)
        own = KVCache(
            len(self.blocks),
            len(source),
            shape.kv_heads,
            max_len,
            shape.width_of_head,
            self.blocks[0].attention.qkv.weight.dtype,
            source.device,
        )
        read = [block.cross.keys_and_values(source) for block in self.blocks]
        return DecoderCache(own, read, memory.mask, attention)
