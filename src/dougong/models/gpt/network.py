"""The network of the decoder-only Transformer: the model around the blocks. What its config says, see `__init__.py`.

Knows blocks; knows no file format (see `checkpoint/convert/`), no objective and no data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dougong.core import seed as seeds
from dougong.core.errors import UsageError
from dougong.models.gpt import GPTConfig
from dougong.nn.attention import visible
from dougong.nn.cache import KVCache
from dougong.nn.dropout import dropout
from dougong.nn.init import Embedding, Linear, draw_normal
from dougong.nn.mask import at
from dougong.nn.norm import make_norm
from dougong.nn.position import frequencies, rotary
from dougong.nn.transformer import Block, BlockShape, Rotation


def block_shape(config: GPTConfig) -> BlockShape:
    """Returns what the blocks are made of: all of a model's are alike, but for the mask that they are given."""
    return BlockShape(
        dim=config.dim,
        num_heads=config.num_heads,
        hidden_dim=config.width_of_mlp,
        num_kv_heads=config.kv_heads,
        head_dim=config.width_of_head,
        activation=config.activation,
        gated=config.gated_mlp,
        norm=config.norm,
        norm_eps=config.norm_eps,
        bias=config.bias,
        qk_norm=config.qk_norm,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
    )


class GPT(nn.Module):
    """The model: embedding, blocks, last norm, output layer.

    Attributes:
        config: What it was built from.
        blocks: The layers, from the first to the last; compilation and recomputation are applied to its members.
        SPLIT: How each parameter is split over a tensor-parallel axis. The rows of `qkv` are the heads of the
            queries, then of the keys, then of the values: each third is split by heads.
        HEADS: What heads alone read, so that weights of one head may begin another; see `models/bert`.
    """

    SPLIT: ClassVar[dict[str, str]] = {
        "token_embedding.weight": "row",
        "position_embedding.weight": "none",
        "blocks.*.attention.qkv.*": "column",
        "blocks.*.attention.query_norm.*": "none",
        "blocks.*.attention.key_norm.*": "none",
        "blocks.*.attention.output.weight": "row",
        "blocks.*.attention.output.bias": "none",
        "blocks.*.feedforward.gate.*": "column",
        "blocks.*.feedforward.up.*": "column",
        "blocks.*.feedforward.down.weight": "row",
        "blocks.*.feedforward.down.bias": "none",
        "blocks.*_norm.*": "none",
        "final_norm.*": "none",
        "unembedding.weight": "column",
        "score.weight": "none",
    }
    HEADS: ClassVar[dict[str, str]] = {"unembedding.weight": "own", "score.weight": "own"}

    def __init__(self, config: GPTConfig):
        super().__init__()
        if config.vocab_size is None:
            raise UsageError("model.vocab_size must be known to build the model, but is absent. Set it.")
        if config.head == "classify" and config.num_classes is None:
            raise UsageError("model.num_classes must be known to build the model, but is absent. Set it.")
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.dim)
        learned = config.position == "learned"
        self.position_embedding = Embedding(config.max_seq_len, config.dim) if learned else None
        self.blocks = nn.ModuleList(Block(block_shape(config)) for _ in range(config.num_layers))
        self.final_norm = make_norm(config.norm, config.dim, config.norm_eps, config.bias)
        self.unembedding = None if config.tie_embeddings else Linear(config.dim, config.vocab_size, bias=False)
        self.score = Linear(config.dim, config.num_classes, bias=False) if config.num_classes else None

    def init_weights(self, seed: int) -> None:
        """Fills every parameter (Radford et al. 2019, section 2.3).

        | parameter | value |
        |---|---|
        | bias | 0 |
        | weight of a norm | 1 |
        | `attention.output.weight`, `feedforward.down.weight` | normal, std `init_std / sqrt(2 num_layers)` |
        | every other weight | normal, std `init_std` |
        """
        residual = self.config.init_std / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("norm.weight"):
                nn.init.ones_(parameter)
            else:
                last = name.endswith(("attention.output.weight", "feedforward.down.weight"))
                draw_normal(parameter, residual if last else self.config.init_std, seed, name)

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        segments: Int[Tensor, "batch time"] | None = None,
        cache: KVCache | None = None,
        noise: Int[Tensor, " batch"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time vocab"] | Float[Tensor, "batch classes"]:
        """Returns the logits of each next token, [batch time vocab], or of the text's class, [batch classes].

        Arguments and errors are those of `features`, and for the head classify:

        Args:
            lengths: Of each row, in tokens; what follows is padding. None: up to the last token that is not `pad_id`.
        """
        features = self.features(tokens, segments, cache, noise)
        if self.config.head == "classify":
            features = at(features, (self._lengths(tokens) if lengths is None else lengths).clamp(min=1) - 1)
        return self.head(features)

    def features(
        self,
        tokens: Int[Tensor, "batch time"],
        segments: Int[Tensor, "batch time"] | None = None,
        cache: KVCache | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Returns what the output layer reads.

        Args:
            tokens: Token numbers.
            segments: Each token's document: attention does not cross from one to another, and positions begin anew in
                each. A document's tokens stand together. None: each row is one document.
            cache: What was read before; the tokens continue it, and are added to it.
            noise: One key per row, from which dropout draws; None switches dropout off.

        Raises:
            UsageError: The text is longer than `max_seq_len`, or than the cache; or segments come with a cache.
        """
        positions = self._positions(tokens, segments, cache)
        hidden = self.token_embedding(tokens)
        if self.position_embedding is not None:
            hidden = hidden + self.position_embedding(positions)
        hidden = dropout(hidden, self.config.dropout, noise, place=0)
        rotation = self._rotation(positions, hidden.dtype)
        masks = self._masks(tokens, segments, cache)
        for layer, block in enumerate(self.blocks):
            memory = None if cache is None else cache.layer(layer)
            own_noise = None if noise is None else seeds.fold(noise, 1 + layer)
            hidden = block(hidden, rotation, masks[self.config.band_of(layer)], memory, own_noise)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.final_norm(hidden)

    def head(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Returns the logits of features: of the next token, or of the classes if this were the text's end."""
        return F.linear(features, self.head_weight)

    @property
    def head_weight(self) -> Float[Tensor, "vocab dim"]:
        """The weight of the output layer."""
        if self.score is not None:
            return self.score.weight
        return self.token_embedding.weight if self.unembedding is None else self.unembedding.weight

    @property
    def new_cache(self) -> Callable[..., KVCache]:
        """The method `_new_cache`; absent where the head names a class, which does not go on with a text."""
        if self.config.head != "lm":
            raise AttributeError("a classifier decodes nothing", name="new_cache", obj=self)
        return self._new_cache

    def _new_cache(self, batch_size: int, max_len: int | None = None) -> KVCache:
        """Returns an empty cache for so many rows of at most `max_len` tokens (or `max_seq_len`)."""
        config, weight = self.config, self.token_embedding.weight
        return KVCache(
            config.num_layers,
            batch_size,
            config.kv_heads,
            max_len or config.max_seq_len,
            config.width_of_head,
            weight.dtype,
            weight.device,
        )

    def _lengths(self, tokens: Tensor) -> Tensor:
        """Returns how long each row is up to its last token that is no padding."""
        time = tokens.shape[1]
        if self.config.pad_id is None:
            return torch.full_like(tokens[:, 0], time)
        places = torch.arange(1, time + 1, device=tokens.device)
        return torch.where(tokens != self.config.pad_id, places, 0).amax(dim=1)

    def _positions(self, tokens: Tensor, segments: Tensor | None, cache: KVCache | None) -> Tensor:
        """Returns the position of each token in its document: [time], or [batch, time] where rows differ."""
        time = tokens.shape[1]
        end = time if cache is None else cache.longest + time
        if end > self.config.max_seq_len:
            raise UsageError(
                f"a text must have at most model.max_seq_len = {self.config.max_seq_len} tokens, but has {end}. "
                "Shorten it, or build the model longer."
            )
        if cache is not None:
            if segments is not None:
                raise UsageError("segments must be absent where a cache is given: a cached row is one document.")
            return cache.positions(time)
        index = torch.arange(time, device=tokens.device)
        if segments is None:
            return index
        begins = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
        return index - torch.where(begins, index, 0).cummax(dim=1).values

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation | None:
        """Returns the cosines and sines of all positions, computed once for all layers."""
        config = self.config
        if config.position != "rotary":
            return None
        turning = frequencies(config.width_of_head, config.rope_theta, config.rope_scaling, positions.device)
        cosine, sine = rotary(positions, turning, dtype)
        return (cosine, sine) if positions.ndim == 1 else (cosine[:, None], sine[:, None])

    def _masks(self, tokens: Tensor, segments: Tensor | None, cache: KVCache | None) -> dict[int | None, Tensor | None]:
        """Returns the mask of each kind of layer by its band; None where it is plainly causal."""
        queries = (
            torch.arange(tokens.shape[1], device=tokens.device) if cache is None else cache.positions(tokens.shape[1])
        )
        longest = tokens.shape[1] if cache is None else cache.longest + tokens.shape[1]
        keys = torch.arange(longest, device=tokens.device)
        masks: dict[int | None, Tensor | None] = {}
        for band in {self.config.band_of(layer) for layer in range(self.config.num_layers)}:
            if segments is not None:
                same = segments[:, :, None] == segments[:, None, :]
                masks[band] = (visible(queries, keys, band) & same)[:, None]
            elif queries.ndim == 1 and (band is None or longest <= band):
                masks[band] = None
            else:
                mask = visible(queries, keys, band)
                masks[band] = mask[:, None] if mask.ndim == 3 else mask[None, None]
        return masks


def example(config: GPTConfig, batch_size: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Returns inputs of `forward` that any small config accepts, different in every row."""
    shape = (batch_size, config.max_seq_len)
    numbers = torch.arange(batch_size * config.max_seq_len, device=device).reshape(shape)
    tokens = (numbers * numbers * 7 + numbers) % (config.vocab_size or 1)
    if config.head == "lm":
        return {"tokens": tokens}
    lengths = config.max_seq_len - 3 * torch.arange(batch_size, device=device) % config.max_seq_len
    if config.pad_id is None:
        return {"tokens": tokens, "lengths": lengths}
    padding = torch.arange(config.max_seq_len, device=device) >= lengths[:, None]
    return {"tokens": tokens.masked_fill(padding, config.pad_id)}
