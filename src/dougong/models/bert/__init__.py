"""BERT: an encoder that reads a text from both sides (Devlin et al. 2019), with the heads of pre-training and of use.

Here are the config and the named sizes, which need no torch, so that a recipe is checked at once; the network is in
`network.py`. Knows no file format (see `checkpoint/convert/`), no objective and no data.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from dougong.core.config import Config, Fault
from dougong.nn.named import Activation

if TYPE_CHECKING:
    from torch import nn

OF_CLASSES = ("classify", "tag")
TASKS = {
    "masked_lm": "masked_lm",
    "pretraining": "masked_lm",
    "classify": "text_classification",
    "tag": "token_classification",
    "spans": "question_answering",
}
"""The task that each head is for."""


class BertConfig(Config):
    """An encoder that reads from both sides. The defaults are those of BERT-base."""

    name: Literal["bert"] = "bert"
    """Which model family."""
    head: Literal["masked_lm", "pretraining", "classify", "tag", "spans", "pooled", "sentence"] = "masked_lm"
    """What it gives: hidden words, these and whether a sentence follows, classes, tags, answers' ends, or vectors."""
    vocab_size: PositiveInt | None = None
    """Number of different tokens; absent: that of the data's tokenizer."""
    num_classes: PositiveInt | None = None
    """Number of classes, for the heads classify and tag; absent: that of the data."""
    max_seq_len: PositiveInt = 512
    """Longest text, in tokens, that the model reads at once."""
    num_segments: PositiveInt = 2
    """Kinds of segments (first and second sentence) that have an embedding of their own."""
    num_layers: PositiveInt = 12
    """Number of blocks."""
    num_heads: PositiveInt = 12
    """Number of attention heads."""
    dim: PositiveInt = 768
    """Width of the residual stream."""
    hidden_dim: PositiveInt | None = None
    """Width inside the feed-forward network; absent: 4 dim."""
    activation: Activation = "gelu"
    """Non-linearity of the feed-forward network and of the head over words."""
    norm_eps: PositiveFloat = 1e-12
    """Added to the variance that a LayerNorm divides by."""
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Probability of dropping an element of the embeddings, of a sub-layer's output, and of what a head reads."""
    attention_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """Probability of dropping an attention probability."""
    init_std: NonNegativeFloat = 0.02
    """Standard deviation of the initial weights."""

    def faults(self) -> Iterator[Fault]:
        """Yields what is wrong between the fields."""
        if self.dim % self.num_heads:
            near = [number for number in range(1, self.num_heads) if self.dim % number == 0]
            yield Fault(
                "num_heads",
                f"must divide dim, but {self.dim} % {self.num_heads} is {self.dim % self.num_heads}. Try {near[-1]}.",
            )
        if self.num_classes is not None and self.head not in OF_CLASSES:
            yield Fault("num_classes", f"has no effect while head is {self.head}. Remove it.")

    def takes(self, name: str) -> bool:
        """Tells whether a number that the data decides has an effect here, so that it may be set."""
        return super().takes(name) and (name != "num_classes" or self.head in OF_CLASSES)

    @property
    def answers_as(self) -> str | None:
        """The task that the head is for; None: it gives a vector."""
        return TASKS.get(self.head)

    @property
    def embeds(self) -> bool:
        """Whether it gives a vector for each text."""
        return self.answers_as is None

    @property
    def width_of_mlp(self) -> int:
        """Width inside the feed-forward network, given or derived."""
        return self.hidden_dim or 4 * self.dim

    def filled(self) -> BertConfig:
        """Returns the same with derived sizes written out."""
        return self.replace(hidden_dim=self.width_of_mlp)

    def build(self) -> nn.Module:
        """Returns the model, not yet initialised.

        Raises:
            UsageError: The vocabulary's size, or the number of classes, is not known.
        """
        return importlib.import_module(f"{__name__}.network").Bert(self)


PART = BertConfig
VARIANTS: dict[str, dict[str, Any]] = {
    "bert-base": {},
    "bert-large": {"num_layers": 24, "num_heads": 16, "dim": 1024},
    # Every second layer of a MiniLM of Wang et al. 2020; its sentence embeddings are widely used.
    "minilm-l6": {"num_layers": 6, "dim": 384},
}

_TINY = {"vocab_size": 61, "max_seq_len": 20, "num_layers": 2, "num_heads": 2, "dim": 16, "hidden_dim": 24}
SMALL: dict[str, dict[str, Any]] = {
    "masked_lm": {**_TINY},
    "pretraining": {**_TINY, "head": "pretraining", "activation": "gelu_tanh"},
    "classify": {**_TINY, "head": "classify", "num_classes": 3},
    "tag": {**_TINY, "head": "tag", "num_classes": 5, "num_segments": 3},
    "spans": {**_TINY, "head": "spans"},
    "pooled": {**_TINY, "head": "pooled"},
    "sentence": {**_TINY, "head": "sentence"},
}


def __getattr__(name: str) -> Any:
    if name not in ("Bert", "example"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.network"), name)
