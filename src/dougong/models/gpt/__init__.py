"""The decoder-only Transformer: one config that spans GPT-2, GPT-3 and Codex, and the Llama and Qwen3 kind.

Radford et al. 2019, Brown et al. 2020, Chen et al. 2021, Touvron et al. 2023, Yang et al. 2025. Here are the config and
the named sizes, which need no torch, so that a recipe is checked in less time than torch takes to import; the network
is in `network.py`. Knows no file format (see `checkpoint/convert/`), no objective and no data.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dougong.core.config import Config, Fault
from dougong.nn.named import Activation, RopeScaling

if TYPE_CHECKING:
    from torch import nn


class GPTConfig(Config):
    """A decoder-only Transformer. The defaults are GPT-2's."""

    name: Literal["gpt"] = "gpt"
    """Which model family."""
    vocab_size: PositiveInt | None = None
    """Number of different tokens; absent: that of the data's tokenizer."""
    head: Literal["lm", "classify"] = "lm"
    """What it gives: the next token after each, or the class of the text, read at its last token."""
    num_classes: PositiveInt | None = None
    """Number of classes, for the head classify; absent: that of the data."""
    pad_id: NonNegativeInt | None = None
    """For the head classify: the token that fills up short texts, where no lengths are given; absent: none does."""
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
        yield from self._faults_of_head()

    def _faults_of_head(self) -> Iterator[Fault]:
        """Yields what the head makes of no effect."""
        if self.head == "classify" and not self.tie_embeddings:
            yield Fault("tie_embeddings", "must be true while head is classify: no layer gives tokens. Set it to true.")
        for name in ("num_classes", "pad_id"):
            if self.head == "lm" and getattr(self, name) is not None:
                yield Fault(name, "has no effect while head is lm. Remove it, or set head: classify.")
        if self.pad_id is not None and self.vocab_size is not None and self.pad_id >= self.vocab_size:
            yield Fault("pad_id", f"must be below vocab_size = {self.vocab_size}, but is {self.pad_id}.")

    def takes(self, name: str) -> bool:
        """Tells whether a number that the data decides has an effect here, so that it may be set."""
        return super().takes(name) and (name != "num_classes" or self.head == "classify")

    @property
    def answers_as(self) -> str | None:
        """The task that a head of classes is for; None: it writes text."""
        return "text_classification" if self.head == "classify" else None

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

    def build(self) -> nn.Module:
        """Returns the model, not yet initialised.

        Raises:
            UsageError: The vocabulary's size, or the number of classes, is not known.
        """
        return _network().GPT(self)


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
    "classify": {**_TINY, "head": "classify", "num_classes": 3, "dropout": 0.1},
    "classify-llama": {**_TINY, **_LLAMA, "head": "classify", "num_classes": 4, "num_kv_heads": 2, "pad_id": 60},
}

PART = GPTConfig


def _network() -> Any:
    """Imports the network. By a computed name, as it imports this module in turn."""
    return importlib.import_module(f"{__name__}.network")


def __getattr__(name: str) -> Any:
    if name not in ("GPT", "Block", "example"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_network(), name)
