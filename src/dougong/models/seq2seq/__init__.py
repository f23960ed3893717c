"""Models that read one sequence and write another: the Transformer of 2017, and recurrence with attention.

Vaswani et al. 2017; Bahdanau et al. 2015; Luong et al. 2015. Here are the config and the named sizes, which need no
torch, so that a recipe is checked at once; what both kinds share is in `network.py`, each kind in a file of its own.
Knows no file format (see `checkpoint/convert/`), no objective and no data.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dougong.core.config import Config, Fault
from dougong.nn.named import Activation

if TYPE_CHECKING:
    from torch import nn

ONLY = {
    "transformer": (
        "num_heads",
        "activation",
        "norm_first",
        "norm_eps",
        "position",
        "scale_embeddings",
        "attention_dropout",
    ),
    "recurrent": ("cell", "bidirectional", "attention", "input_feeding", "readout_dim"),
}
"""The fields that concern one kind alone."""


class Seq2SeqConfig(Config):
    """An encoder that reads a source and a decoder that writes a target. The defaults are the Transformer base's."""

    answers_as: ClassVar[str] = "translation"
    name: Literal["seq2seq"] = "seq2seq"
    """Which model family."""
    kind: Literal["transformer", "recurrent"] = "transformer"
    """What encoder and decoder are made of: attention alone, or recurrence with attention to the source."""
    vocab_size: PositiveInt | None = None
    """Number of different tokens of the target, or of both; absent: that of the data's tokenizer."""
    source_vocab_size: PositiveInt | None = None
    """Number of different tokens of the source; absent: both share one vocabulary and one embedding."""
    max_seq_len: PositiveInt = 256
    """Longest source, and longest target, in tokens."""
    num_layers: PositiveInt = 6
    """Number of layers of the encoder."""
    num_decoder_layers: PositiveInt | None = None
    """Number of layers of the decoder; absent: num_layers."""
    num_heads: PositiveInt = 8
    """Number of attention heads."""
    dim: PositiveInt = 512
    """Width of the embeddings, and of the residual stream."""
    hidden_dim: PositiveInt | None = None
    """Width inside the feed-forward network (absent: 4 dim), or of a recurrence's state, each way (absent: dim)."""
    activation: Activation = "relu"
    """Non-linearity of the feed-forward network."""
    norm_first: bool = False
    """Whether a norm stands before each sub-layer, and one after each stack, or one after each sum (as in 2017)."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance that a LayerNorm divides by."""
    position: Literal["sinusoidal", "sinusoidal_halves", "learned"] = "sinusoidal"
    """What is added for a token's place: sines and cosines in turn, sines before cosines (Marian), or learned."""
    scale_embeddings: bool = True
    """Whether embeddings are multiplied by the square root of dim before positions are added."""
    tie_embeddings: bool = True
    """Whether the output layer is the target's embedding."""
    output_bias: bool = False
    """Whether the output layer has a bias."""
    start_id: NonNegativeInt | None = None
    """The token that every target begins with; absent: that of the data."""
    cell: Literal["gru", "lstm"] = "lstm"
    """Which recurrence."""
    bidirectional: bool = True
    """Whether the encoder reads in both directions."""
    attention: Literal["bahdanau", "luong_dot", "luong_general", "luong_concat"] = "luong_general"
    """How a recurrent decoder looks at the source: with its state before a step, or after it by one of three scores."""
    input_feeding: bool = False
    """Whether a step reads what the step before gave the output layer (Luong et al. 2015, section 3.3)."""
    readout_dim: PositiveInt | None = None
    """Width of what the output layer of a recurrent decoder reads; absent: dim."""
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Probability of dropping an element of the embeddings, and of what a sub-layer or a recurrent layer gives."""
    attention_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability of dropping an attention probability (needs memory for all of them)."""
    init_std: NonNegativeFloat | None = None
    """Standard deviation of the initial weights; absent: by the widths that a matrix joins (see `init_weights`)."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        other = "recurrent" if self.kind == "transformer" else "transformer"
        for name in ONLY[other]:
            if getattr(self, name) != type(self).model_fields[name].default:
                yield Fault(name, f"has no effect while kind is {self.kind}. Remove it, or set kind: {other}.")
        if self.start_id is not None and self.vocab_size is not None and self.start_id >= self.vocab_size:
            yield Fault("start_id", f"must be below vocab_size = {self.vocab_size}, but is {self.start_id}.")
        yield from self._faults_of_transformer() if self.kind == "transformer" else self._faults_of_recurrence()

    def _faults_of_transformer(self) -> Iterator[Fault]:
        if self.dim % self.num_heads:
            rest = self.dim % self.num_heads
            yield Fault("num_heads", f"must divide dim, but {self.dim} % {self.num_heads} is {rest}. Choose a divisor.")

    def _faults_of_recurrence(self) -> Iterator[Fault]:
        if self.input_feeding and self.attention == "bahdanau":
            yield Fault("input_feeding", "has no effect while attention is bahdanau. Remove it, or choose Luong's.")
        if self.attention == "luong_dot" and self.bidirectional:
            yield Fault(
                "attention",
                "luong_dot needs a source as wide as the decoder's state, but one read in both directions is twice as "
                "wide. Set bidirectional: false, or attention: luong_general.",
            )
        if self.tie_embeddings and self.readout_dim not in (None, self.dim):
            yield Fault(
                "readout_dim",
                f"must be dim = {self.dim} while tie_embeddings is true, but is {self.readout_dim}. Remove it, or set "
                "tie_embeddings: false.",
            )

    @property
    def decoder_layers(self) -> int:
        """The number of layers of the decoder, given or derived."""
        return self.num_decoder_layers or self.num_layers

    @property
    def width_inside(self) -> int:
        """The width inside the feed-forward network, or of a recurrence's state, given or derived."""
        return self.hidden_dim or (4 * self.dim if self.kind == "transformer" else self.dim)

    @property
    def width_of_readout(self) -> int:
        """The width of what the output layer reads, given or derived."""
        return self.readout_dim or self.dim

    def filled(self) -> Seq2SeqConfig:
        """Returns the same config with every derived size written out, as foreign formats want it."""
        readout = {"readout_dim": self.width_of_readout} if self.kind == "recurrent" else {}
        return self.replace(num_decoder_layers=self.decoder_layers, hidden_dim=self.width_inside, **readout)

    def build(self) -> nn.Module:
        """Returns the model, not yet initialised.

        Raises:
            UsageError: The vocabulary's size is not known.
        """
        return importlib.import_module(f"{__name__}.network").Seq2Seq(self)


PART = Seq2SeqConfig
# The Transformer's sizes are Vaswani et al. 2017, table 3; one vocabulary and one matrix for source, target and output.
# Bahdanau et al. 2015, appendix A: embeddings of 620, states of 1000, a maxout of 500; vocabularies of 30,000.
# Luong et al. 2015, section 4.1: four layers of 1000; a learned layer gives the first state, which the paper copies.
VARIANTS: dict[str, dict[str, Any]] = {
    "transformer-base": {},
    "transformer-big": {"dim": 1024, "num_heads": 16, "dropout": 0.3},
    "rnn-search": {
        "kind": "recurrent",
        "num_layers": 1,
        "dim": 620,
        "hidden_dim": 1000,
        "cell": "gru",
        "attention": "bahdanau",
        "readout_dim": 500,
        "tie_embeddings": False,
        "output_bias": True,
        "dropout": 0.0,
    },
    "luong": {
        "kind": "recurrent",
        "num_layers": 4,
        "dim": 1000,
        "bidirectional": False,
        "attention": "luong_general",
        "input_feeding": True,
        "tie_embeddings": False,
        "dropout": 0.2,
    },
}

_TINY: dict[str, Any] = {"vocab_size": 61, "max_seq_len": 9, "num_layers": 2, "dim": 16, "start_id": 3}
_OF_ATTENTION: dict[str, Any] = {**_TINY, "num_heads": 2, "hidden_dim": 24}
_RECURRENT: dict[str, Any] = {**_TINY, "kind": "recurrent", "num_layers": 1}
SMALL: dict[str, dict[str, Any]] = {
    "transformer": {**_OF_ATTENTION},
    "norm-first": {
        **_OF_ATTENTION,
        "norm_first": True,
        "position": "learned",
        "source_vocab_size": 53,
        "num_decoder_layers": 1,
        "tie_embeddings": False,
        "attention_dropout": 0.1,
    },
    "marian": {
        **_OF_ATTENTION,
        "activation": "silu",
        "position": "sinusoidal_halves",
        "output_bias": True,
        "attention_dropout": 0.1,
        "init_std": 0.1,
    },
    "bahdanau": {**_RECURRENT, "cell": "gru", "attention": "bahdanau", "hidden_dim": 12, "source_vocab_size": 53},
    "luong-dot": {**_RECURRENT, "num_layers": 2, "bidirectional": False, "attention": "luong_dot"},
    "luong-general": {**_RECURRENT, "num_decoder_layers": 2, "input_feeding": True, "output_bias": True},
    "luong-concat": {
        **_RECURRENT,
        "cell": "gru",
        "attention": "luong_concat",
        "tie_embeddings": False,
        "readout_dim": 20,
        "hidden_dim": 12,
    },
}


def __getattr__(name: str) -> Any:
    if name not in ("Seq2Seq", "Memory", "example"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.network"), name)
