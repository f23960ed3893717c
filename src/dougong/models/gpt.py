"""The decoder-only Transformer: one config that spans GPT-2, GPT-3 and Codex, and the Llama and Qwen3 kind.

Radford et al. 2019, Brown et al. 2020, Chen et al. 2021, Touvron et al. 2023, Yang et al. 2025. Knows blocks; knows no
file format (see `checkpoint/convert/`), no objective and no data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from dougong.core import seed as seeds
from dougong.core.config import Config, Fault
from dougong.core.errors import UsageError
from dougong.nn.attention import attention_by_formula, attention_fused, visible
from dougong.nn.cache import KVCache, KVLayer
from dougong.nn.dropout import dropout
from dougong.nn.feedforward import Activation, FeedForward, GatedFeedForward
from dougong.nn.init import Embedding, Linear, draw_normal
from dougong.nn.norm import make_norm
from dougong.nn.position import RopeScaling, frequencies, rotary, rotate

Rotation = tuple[Float[Tensor, "*broadcast time half"], Float[Tensor, "*broadcast time half"]]


class GPTConfig(Config):
    """A decoder-only Transformer. The defaults are GPT-2's."""

    name: Literal["gpt"] = "gpt"
    """Which model family."""
    vocab_size: PositiveInt | None = None
    """Number of different tokens; absent: that of the data's tokenizer."""
    max_seq_len: PositiveInt = 1024
    """Longest text, in tokens, that the model reads at once."""
    num_layers: PositiveInt = 12
    """Number of blocks."""
    num_heads: PositiveInt = 12
    """Number of attention heads (of queries)."""
    num_kv_heads: PositiveInt | None = None
    """Number of key and value heads, each shared by a group of query heads; absent: num_heads."""
    dim: PositiveInt = 768
    """Width of the residual stream."""
    head_dim: PositiveInt | None = None
    """Width of one head; absent: dim / num_heads."""
    hidden_dim: PositiveInt | None = None
    """Width inside the feed-forward network; absent: 4 dim, or if gated 8/3 dim rounded up to a multiple of 32."""
    position: Literal["learned", "rotary"] = "learned"
    """How a token's position enters: a learned vector added to it, or a rotation of queries and keys."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """How rotary frequencies are stretched for longer texts; absent: not at all."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Which normalisation stands before each sub-layer and at the end."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance (or mean square) that a normalisation divides by."""
    activation: Activation = "gelu_tanh"
    """Non-linearity of the feed-forward network."""
    gated_mlp: bool = False
    """Whether the feed-forward network multiplies by an activated gate (with silu: SwiGLU)."""
    bias: bool = True
    """Whether linear layers and LayerNorms have a bias."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normalised before they meet."""
    tie_embeddings: bool = True
    """Whether the output layer is the token embedding."""
    attention_pattern: list[Literal["dense", "banded"]] = Field(default=["dense"], min_length=1)
    """Which attention each layer has, repeated over the layers: all of the past, or the nearest `band` tokens."""
    band: PositiveInt | None = None
    """How many tokens, its own included, a query of a banded layer sees."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability of dropping an element of the embedding and of each sub-layer's output."""
    attention_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability of dropping an attention probability (needs memory for all of them)."""
    init_std: NonNegativeFloat = 0.02
    """Standard deviation of initial weights; residual projections have 1/sqrt(2 num_layers) of it."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        if self.head_dim is None and self.dim % self.num_heads:
            near = [n for n in range(1, min(self.dim, 1024) + 1) if self.dim % n == 0]
            near = sorted(sorted(near, key=lambda n: abs(n - self.num_heads))[:2])
            yield Fault(
                "num_heads",
                f"must divide dim, but {self.dim} % {self.num_heads} is {self.dim % self.num_heads}. "
                f"Try {' or '.join(map(str, near))}, or set head_dim.",
            )
        elif self.position == "rotary" and self.width_of_head % 2:
            yield Fault("head_dim", f"must be even for rotary positions, but is {self.width_of_head}.")
        if self.num_heads % self.kv_heads:
            yield Fault("num_kv_heads", f"must divide num_heads, but {self.num_heads} % {self.kv_heads} is not 0.")
        if self.position == "learned" and self.rope_scaling is not None:
            yield Fault("rope_scaling", "has no effect while position is learned. Remove it, or set position: rotary.")
        if self.position == "learned" and self.rope_theta != type(self).model_fields["rope_theta"].default:
            yield Fault("rope_theta", "has no effect while position is learned. Remove it, or set position: rotary.")
        if "banded" in self.attention_pattern and self.band is None:
            yield Fault("band", "is required by the banded layers of attention_pattern, but absent. Add it.")
        if "banded" not in self.attention_pattern and self.band is not None:
            yield Fault("band", "has no effect while attention_pattern has no banded layer. Set it to null.")

    @property
    def width_of_head(self) -> int:
        """The width of one head, given or derived."""
        return self.head_dim or self.dim // self.num_heads

    @property
    def kv_heads(self) -> int:
        """The number of key and value heads, given or derived."""
        return self.num_kv_heads or self.num_heads

    @property
    def width_of_mlp(self) -> int:
        """The width inside the feed-forward network, given or derived."""
        return self.hidden_dim or (32 * math.ceil(self.dim / 12) if self.gated_mlp else 4 * self.dim)

    def filled(self) -> GPTConfig:
        """Returns the same config with every derived size written out, as foreign formats want it."""
        return self.replace(num_kv_heads=self.kv_heads, head_dim=self.width_of_head, hidden_dim=self.width_of_mlp)

    def band_of(self, layer: int) -> int | None:
        """Returns the band of a layer, or None where it sees all of the past."""
        return self.band if self.attention_pattern[layer % len(self.attention_pattern)] == "banded" else None

    def build(self) -> GPT:
        """Returns the model, not yet initialised.

        Raises:
            UsageError: The vocabulary's size is not known.
        """
        return GPT(self)


class Attention(nn.Module):
    """Causal self-attention with grouped queries; queries, keys and values come from one fused product."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.kv_heads, config.width_of_head
        self.attention_dropout = config.attention_dropout
        width = self.heads * self.head_dim
        self.qkv = Linear(config.dim, width + 2 * self.kv_heads * self.head_dim, bias=config.bias)
        self.query_norm, self.key_norm = (
            make_norm(config.norm, self.head_dim, config.norm_eps, config.bias) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )
        self.output = Linear(width, config.dim, bias=config.bias)

    def forward(
        self,
        hidden: Float[Tensor, "batch time dim"],
        rotation: Rotation | None = None,
        mask: Bool[Tensor, "*batch time keys"] | None = None,
        memory: KVLayer | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Returns each position's mixture of what it may see. Arguments are those of `Block.forward`."""
        heads = rearrange(
            self.qkv(hidden), "batch time (heads head_dim) -> batch heads time head_dim", head_dim=self.head_dim
        )
        query, key, value = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if memory is not None:
            key, value = memory.extend(key, value)
        if self.attention_dropout and noise is not None:
            drop = functools.partial(dropout, probability=self.attention_dropout, noise=noise, place=0)
            mixed = attention_by_formula(query, key, value, mask, drop)
        else:
            mixed = attention_fused(query, key, value, mask)
        return self.output(rearrange(mixed, "batch heads time head_dim -> batch time (heads head_dim)"))


class Block(nn.Module):
    """One layer: `x + attention(norm(x))`, then `x + feedforward(norm(x))`.

    All blocks of a model run the same code on the same shapes (a layer's own noise comes as an argument), so that one
    compiled block serves all.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.band = config.band_of(layer)
        self.dropout = config.dropout
        network = GatedFeedForward if config.gated_mlp else FeedForward
        self.attention_norm = make_norm(config.norm, config.dim, config.norm_eps, config.bias)
        self.attention = Attention(config)
        self.feedforward_norm = make_norm(config.norm, config.dim, config.norm_eps, config.bias)
        self.feedforward = network(config.dim, config.width_of_mlp, config.activation, config.bias)

    def forward(
        self,
        hidden: Float[Tensor, "batch time dim"],
        rotation: Rotation | None = None,
        mask: Bool[Tensor, "*batch time keys"] | None = None,
        memory: KVLayer | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Returns the residual stream after this layer.

        Args:
            hidden: The residual stream.
            rotation: Cosines and sines of the positions, where they are rotary.
            mask: Which keys each query may see; None is causal.
            memory: This layer's part of the cache.
            noise: This layer's own key per row; None switches dropout off.
        """
        mixed = self.attention(self.attention_norm(hidden), rotation, mask, memory, noise)
        hidden = hidden + dropout(mixed, self.dropout, noise, place=1)
        transformed = self.feedforward(self.feedforward_norm(hidden))
        return hidden + dropout(transformed, self.dropout, noise, place=2)


class GPT(nn.Module):
    """The model: embedding, blocks, last norm, output layer.

    Attributes:
        config: What it was built from.
        blocks: The layers, from the first to the last; compilation and recomputation are applied to its members.
        SPLIT: How each parameter is split over a tensor-parallel axis. The rows of `qkv` are the heads of the
            queries, then of the keys, then of the values: each third is split by heads.
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
    }

    def __init__(self, config: GPTConfig):
        super().__init__()
        if config.vocab_size is None:
            raise UsageError("model.vocab_size must be known to build the model, but is absent. Set it.")
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.dim)
        learned = config.position == "learned"
        self.position_embedding = Embedding(config.max_seq_len, config.dim) if learned else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.final_norm = make_norm(config.norm, config.dim, config.norm_eps, config.bias)
        self.unembedding = None if config.tie_embeddings else Linear(config.dim, config.vocab_size, bias=False)

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
    ) -> Float[Tensor, "batch time vocab"]:
        """Returns the logits of the token after each token. Arguments and errors are those of `features`."""
        return self.head(self.features(tokens, segments, cache, noise))

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
        """Returns the logits of features."""
        return F.linear(features, self.head_weight)

    @property
    def head_weight(self) -> Float[Tensor, "vocab dim"]:
        """The weight of the output layer."""
        return self.token_embedding.weight if self.unembedding is None else self.unembedding.weight

    def new_cache(self, batch_size: int, max_len: int | None = None) -> KVCache:
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


# Brown et al. 2020, table 2.1: layers, width, heads. The table is not at one with itself in two rows: XL's "24 heads of
# 128" are 16 at its width of 2048; and 40 heads of 128 do not make 13B's width of 5140, which only 20 of 257 come near.
_GPT3 = {
    "small": (12, 768, 12),
    "medium": (24, 1024, 16),
    "large": (24, 1536, 16),
    "xl": (24, 2048, 16),
    "2.7b": (32, 2560, 32),
    "6.7b": (32, 4096, 32),
    "13b": (40, 5140, 20),
    "175b": (96, 12288, 96),
}
# Chen et al. 2021 print the sizes only: 12M to 12B parameters without embeddings, which is 12 dim^2 num_layers. From
# 85M on these are shapes of GPT-3 (12B is its 13B: 12.7e9); the three smallest are inferred from the printed number.
_CODEX = {
    "12m": (4, 512, 8),
    "25m": (8, 512, 8),
    "42m": (6, 768, 12),
    "85m": _GPT3["small"],
    "300m": _GPT3["medium"],
    "679m": _GPT3["large"],
    "2.5b": _GPT3["2.7b"],
    "12b": _GPT3["13b"],
}
_LLAMA = {"position": "rotary", "norm": "rmsnorm", "activation": "silu", "gated_mlp": True, "bias": False}
_LLAMA3 = {"vocab_size": 128256, "max_seq_len": 131072, "rope_theta": 500000.0, "num_heads": 32, "num_kv_heads": 8}


def _shape(num_layers: int, dim: int, num_heads: int) -> dict:
    return {"num_layers": num_layers, "dim": dim, "num_heads": num_heads}


def _gpt3(shape: tuple[int, int, int], vocab_size: int, max_seq_len: int) -> dict:
    # The paper gives no band; 256 is of the order of those of Child et al. 2019, which it follows.
    sparse = {"attention_pattern": ["dense", "banded"], "band": 256}
    return {"vocab_size": vocab_size, "max_seq_len": max_seq_len, **_shape(*shape), **sparse}


VARIANTS: dict[str, dict] = {
    "gpt2-small": {"vocab_size": 50257, **_shape(12, 768, 12)},
    "gpt2-medium": {"vocab_size": 50257, **_shape(24, 1024, 16)},
    "gpt2-large": {"vocab_size": 50257, **_shape(36, 1280, 20)},
    "gpt2-xl": {"vocab_size": 50257, **_shape(48, 1600, 25)},
    **{f"gpt3-{size}": _gpt3(shape, 50257, 2048) for size, shape in _GPT3.items()},
    # 24 tokens more than GPT-2: runs of spaces (Chen et al. 2021, section 3.2).
    **{f"codex-{size}": _gpt3(shape, 50281, 4096) for size, shape in _CODEX.items()},
    "llama-tiny": {**_LLAMA, **_shape(4, 256, 4), "max_seq_len": 256, "num_kv_heads": 2},
    "llama2-7b": _LLAMA
    | _shape(32, 4096, 32)
    | {"vocab_size": 32000, "max_seq_len": 4096, "hidden_dim": 11008, "tie_embeddings": False},
    "llama3.1-8b": _LLAMA
    | _LLAMA3
    | {"num_layers": 32, "dim": 4096, "hidden_dim": 14336, "tie_embeddings": False}
    | {"rope_scaling": {"name": "llama3", "factor": 8.0}},
    "llama3.2-1b": _LLAMA
    | _LLAMA3
    | {"num_layers": 16, "dim": 2048, "hidden_dim": 8192}
    | {"rope_scaling": {"name": "llama3", "factor": 32.0}},
    "qwen3-0.6b": _LLAMA
    | _shape(28, 1024, 16)
    | {"vocab_size": 151936, "max_seq_len": 40960, "num_kv_heads": 8, "head_dim": 128, "hidden_dim": 3072}
    | {"rope_theta": 1000000.0, "norm_eps": 1e-6, "qk_norm": True},
}

_TINY = {"vocab_size": 61, "max_seq_len": 24, "num_layers": 2, "num_heads": 4, "dim": 32}
SMALL: dict[str, dict] = {
    "gpt2": {**_TINY, "dropout": 0.1},
    "gpt3": {**_TINY, "attention_pattern": ["dense", "banded"], "band": 3, "head_dim": 6, "attention_dropout": 0.1},
    "llama": {
        **_TINY,
        **_LLAMA,
        "num_kv_heads": 2,
        "tie_embeddings": False,
        "rope_scaling": {"name": "llama3", "original_max_seq_len": 8},
    },
    "qwen3": {**_TINY, **_LLAMA, "num_kv_heads": 1, "head_dim": 16, "qk_norm": True},
}


def example(config: GPTConfig, batch_size: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Returns inputs of `forward` that any small config accepts, different in every row."""
    shape = (batch_size, config.max_seq_len)
    numbers = torch.arange(batch_size * config.max_seq_len, device=device).reshape(shape)
    return {"tokens": (numbers * numbers * 7 + numbers) % (config.vocab_size or 1)}


PART = GPTConfig
