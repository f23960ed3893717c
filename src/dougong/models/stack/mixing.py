"""Stages that mix what stands at different places, and the networks that go with them: options and types.

Recurrence, attention, the Transformer block, feed-forward networks, mixtures of experts. Knows types; knows no torch.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from dougong.models.stack.stage import Here, Stage
from dougong.models.stack.types import Signal
from dougong.nn.named import Activation


class Recurrent(Stage):
    """What the three kinds of recurrence have in common."""

    main: ClassVar[str | None] = "dim"
    dim: PositiveInt
    """Width of the state; of each direction, where there are two."""
    num_layers: PositiveInt = 1
    """How many of them stand on one another."""
    bidirectional: bool = False
    """Whether a second one reads from the end to the beginning; the channels of both stand side by side."""
    bias: bool = True
    """Whether learned vectors are added."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns `batch time channel` with `dim` channels for each direction."""
        given = here.expect(given, "sequence").with_channel(self.dim * (1 + self.bidirectional))
        return given.sees_future(here.label) if self.bidirectional else given


class Rnn(Recurrent):
    """A plain recurrent network with tanh (Elman 1990)."""

    word: ClassVar[str] = "rnn"


class Gru(Recurrent):
    """Gated recurrent units (Cho et al. 2014)."""

    word: ClassVar[str] = "gru"


class Lstm(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997)."""

    word: ClassVar[str] = "lstm"


class Heads(Stage):
    """What attention has, alone and inside a Transformer block."""

    main: ClassVar[str | None] = "num_heads"
    num_heads: PositiveInt
    """Number of attention heads (of queries)."""
    num_kv_heads: PositiveInt | None = None
    """Number of key and value heads, each shared by a group of query heads; absent: num_heads."""
    head_dim: PositiveInt | None = None
    """Width of one head; absent: channels / num_heads."""
    causal: bool = False
    """Whether each place sees only itself and earlier ones."""
    band: PositiveInt | None = None
    """How far a place sees: so many places, its own included, to each side, or back if causal; absent: all."""
    rotary: bool = False
    """Whether queries and keys are turned by an angle that grows with the position (Su et al. 2021)."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary frequencies."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normalised before they meet."""
    bias: bool = True
    """Whether linear layers (and LayerNorms) have a bias."""
    attention_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability of dropping an attention probability (needs memory for all of them)."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns what it is given."""
        given = here.expect(given, "sequence")
        channel = given.channel
        whole = self.head_dim is not None or here.divides(
            "num_heads", self.num_heads, channel, f"channels that {given.source} gives"
        )
        width = self.head_dim or (channel // self.num_heads if channel and whole else None)
        if self.rotary and width is not None and width % 2:
            here.complain_of("rotary", f"must have heads of even width, but a head has {width}. Set head_dim.")
        if not self.rotary:
            here.idle("while rotary is false", "rope_theta")
        if self.num_kv_heads is not None:
            here.divides("num_kv_heads", self.num_kv_heads, self.num_heads, "of num_heads")
        return given if self.causal else given.sees_future(here.label)


class Attention(Heads):
    """Self-attention (Vaswani et al. 2017, section 3.2), without norm and without residual."""

    word: ClassVar[str] = "attention"


class Transformer(Heads):
    """A Transformer block: attention and a feed-forward network, each normalised and inside a residual."""

    word: ClassVar[str] = "transformer"
    hidden_dim: PositiveInt | None = None
    """Width inside the feed-forward network; absent: four times the channels."""
    activation: Activation = "gelu"
    """Non-linearity of the feed-forward network."""
    gated: bool = False
    """Whether the feed-forward network multiplies by an activated gate (with silu: SwiGLU)."""
    norm: Literal["layer", "rms"] = "layer"
    """Which normalisation."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance (or mean square) that a normalisation divides by."""
    norm_first: bool = True
    """Whether a norm stands before each sub-layer (then put norm after the last block), or after each sum."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability of dropping an element of each sub-layer's output."""


class FeedForward(Stage):
    """Two linear maps with an activation between them, at each place."""

    word: ClassVar[str] = "feedforward"
    main: ClassVar[str | None] = "hidden_dim"
    hidden_dim: PositiveInt | None = None
    """Width inside; absent: four times the channels."""
    activation: Activation = "gelu"
    """Non-linearity."""
    gated: bool = False
    """Whether it multiplies by an activated gate (with silu: SwiGLU)."""
    bias: bool = True
    """Whether the linear maps have a bias."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns what it is given."""
        return here.expect(given, "sequence", "vector")


class Mixture(Stage):
    """A mixture of experts (Shazeer et al. 2017): each place goes through the experts of highest score, none is full."""

    word: ClassVar[str] = "mixture"
    main: ClassVar[str | None] = "num_experts"
    num_experts: PositiveInt
    """How many feed-forward networks there are."""
    chosen: PositiveInt = 2
    """How many of them each place goes through."""
    hidden_dim: PositiveInt | None = None
    """Width inside each; absent: four times the channels."""
    activation: Activation = "gelu"
    """Non-linearity."""
    gated: bool = False
    """Whether an expert multiplies by an activated gate (with silu: SwiGLU)."""

    def out(self, given: Signal, here: Here) -> Signal:
        """Returns what it is given."""
        if self.chosen > self.num_experts:
            here.complain_of(
                "chosen", f"must be at most num_experts, but {self.chosen} > {self.num_experts}. Lower it."
            )
        return here.expect(given, "sequence", "vector")
