"""The network of BERT: embeddings, blocks, pooler and heads. What its config says, see `__init__.py`.

Knows blocks; knows no file format (see `checkpoint/convert/`), no objective and no data.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dougong.core import seed as seeds
from dougong.core.errors import UsageError
from dougong.models.bert import OF_CLASSES, BertConfig
from dougong.nn.attention import mask_for
from dougong.nn.dropout import dropout
from dougong.nn.feedforward import activate
from dougong.nn.init import Embedding, Linear, draw_normal
from dougong.nn.mask import mask_of
from dougong.nn.norm import LayerNorm
from dougong.nn.pooling import pool_time
from dougong.nn.transformer import Block, BlockShape

POOLED = ("pretraining", "classify", "pooled")
OVER_WORDS = ("masked_lm", "pretraining")


def block_shape(config: BertConfig) -> BlockShape:
    """Returns what the blocks are made of: the norm stands after each sum, and nothing is hidden from a query."""
    return BlockShape(
        dim=config.dim,
        num_heads=config.num_heads,
        hidden_dim=config.width_of_mlp,
        activation=config.activation,
        norm_eps=config.norm_eps,
        norm_first=False,
        causal=False,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
    )


class Words(nn.Module):
    """The head over words: a layer of its own, then the embeddings' matrix and a bias (section 3.1, task 1)."""

    def __init__(self, config: BertConfig, vocab_size: int):
        super().__init__()
        self.activation = config.activation
        self.transform = Linear(config.dim, config.dim)
        self.norm = LayerNorm(config.dim, config.norm_eps, bias=True)
        self.bias = nn.Parameter(torch.empty(vocab_size))

    def forward(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns what the matrix of the words is applied to."""
        return self.norm(activate(self.activation, self.transform(features)))


class Bert(nn.Module):
    """The model: embeddings, blocks, and what the config's head asks for.

    Attributes:
        config: What it was built from.
        blocks: The layers, from the first to the last; compilation and recomputation are applied to its members.
        SPLIT: How each parameter is split over a tensor-parallel axis. The rows of `qkv` are the heads of the
            queries, then of the keys, then of the values: each third is split by heads.
        HEADS: What heads alone read, so that weights of one head may begin another: "shared" means the same under
            every head that has it, "own" something else under each.
    """

    SPLIT: ClassVar[dict[str, str]] = {
        "token_embedding.weight": "row",
        "position_embedding.weight": "none",
        "segment_embedding.weight": "none",
        "embedding_norm.*": "none",
        "blocks.*.attention.qkv.*": "column",
        "blocks.*.attention.output.weight": "row",
        "blocks.*.attention.output.bias": "none",
        "blocks.*.feedforward.up.*": "column",
        "blocks.*.feedforward.down.weight": "row",
        "blocks.*.feedforward.down.bias": "none",
        "blocks.*_norm.*": "none",
        "pooler.*": "none",
        "words.*": "none",
        "answer.*": "none",
    }
    HEADS: ClassVar[dict[str, str]] = {"pooler.*": "shared", "words.*": "shared", "answer.*": "own"}

    def __init__(self, config: BertConfig):
        super().__init__()
        if config.vocab_size is None:
            raise UsageError("model.vocab_size must be known to build the model, but is absent. Set it.")
        if config.head in OF_CLASSES and config.num_classes is None:
            raise UsageError("model.num_classes must be known to build the model, but is absent. Set it.")
        self.config, head = config, config.head
        self.token_embedding = Embedding(config.vocab_size, config.dim)
        self.position_embedding = Embedding(config.max_seq_len, config.dim)
        self.segment_embedding = Embedding(config.num_segments, config.dim)
        self.embedding_norm = LayerNorm(config.dim, config.norm_eps, bias=True)
        self.blocks = nn.ModuleList(Block(block_shape(config)) for _ in range(config.num_layers))
        # Absent where the head does not read it.
        self.pooler: Any = Linear(config.dim, config.dim) if head in POOLED else None
        self.words: Any = Words(config, config.vocab_size) if head in OVER_WORDS else None
        outputs = {"pretraining": 2, "spans": 2, "classify": config.num_classes, "tag": config.num_classes}.get(head)
        self.answer: Any = None if outputs is None else Linear(config.dim, outputs)

    def init_weights(self, seed: int) -> None:
        """Fills every parameter.

        | parameter | value |
        |---|---|
        | bias | 0 |
        | weight of a norm | 1 |
        | every other weight | normal, std `init_std` (the paper's released code cuts it off at two) |
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("norm.weight"):
                nn.init.ones_(parameter)
            else:
                draw_normal(parameter, self.config.init_std, seed, name)

    def features(
        self,
        tokens: Int[Tensor, "batch time"],
        lengths: Int[Tensor, " batch"] | None = None,
        segments: Int[Tensor, "batch time"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Returns a vector for each token.

        Args:
            tokens: Token numbers.
            lengths: Of each row, in tokens; what follows is padding, which nothing sees. None: all of it counts.
            segments: Which segment each token belongs to, from 0; None: all to the first.
            noise: One key per row, from which dropout draws; None switches dropout off.

        Raises:
            UsageError: The text is longer than `max_seq_len`.
        """
        time = tokens.shape[1]
        if time > self.config.max_seq_len:
            raise UsageError(
                f"a text must have at most model.max_seq_len = {self.config.max_seq_len} tokens, but has {time}. "
                "Shorten it, or build the model longer."
            )
        positions = torch.arange(time, device=tokens.device)
        kinds = torch.zeros_like(tokens) if segments is None else segments
        hidden = self.token_embedding(tokens) + self.position_embedding(positions) + self.segment_embedding(kinds)
        hidden = dropout(self.embedding_norm(hidden), self.config.dropout, noise, place=0)
        mask = mask_for(None if lengths is None else mask_of(lengths, time), hidden, causal=False)
        for layer, block in enumerate(self.blocks):
            own_noise = None if noise is None else seeds.fold(noise, 1 + layer)
            hidden = block(hidden, mask=mask, noise=own_noise)
        return hidden

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        lengths: Int[Tensor, " batch"] | None = None,
        segments: Int[Tensor, "batch time"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        """Returns what the head gives; arguments and errors are those of `features`.

        | head | gives |
        |---|---|
        | masked_lm | logits of the vocabulary at each place: [batch time vocab] |
        | pretraining | the same, flat, then the logits of "follows" and "does not": [batch time*vocab+2] |
        | classify | logits of the classes: [batch classes] |
        | tag, spans | logits at each place: [batch time classes], [batch time 2] |
        | pooled, sentence | a vector: [batch dim] |
        """
        features, head = self.features(tokens, lengths, segments, noise), self.config.head
        if head == "masked_lm":
            return self.over_words(features)
        if head == "pretraining":
            return torch.cat([self.over_words(features).flatten(1), self.follows(features)], dim=1)
        if head == "pooled":
            return self.pooled(features)
        if head == "sentence":
            mask = None if lengths is None else mask_of(lengths, tokens.shape[1])
            return F.normalize(pool_time("mean", features, mask), dim=-1)
        seen = self.pooled(features) if head == "classify" else features
        return self.answer(seen if head == "spans" else self._dropped(seen, noise))

    def pooled(self, features: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch dim"]:
        """Returns the vector of the first token, through a layer of its own."""
        return self.pooler(features[:, 0]).tanh()

    @property
    def head_weight(self) -> Float[Tensor, "vocab dim"]:
        """What `word_features` are multiplied with to give the logits of the vocabulary."""
        return self.token_embedding.weight

    @property
    def head_bias(self) -> Float[Tensor, " vocab"]:
        """What is added to them."""
        return self.words.bias

    def word_features(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns what the head's matrix is applied to, for features of any places."""
        return self.words(features)

    def over_words(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Returns the logits of the vocabulary for features of any places."""
        return F.linear(self.word_features(features), self.head_weight, self.head_bias)

    def follows(self, features: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch 2"]:
        """Returns the logits of "the second sentence follows the first" and "it does not"."""
        return self.answer(self.pooled(features))

    def _dropped(self, features: Tensor, noise: Tensor | None) -> Tensor:
        return dropout(features, self.config.dropout, noise, place=3)


def example(config: BertConfig, batch_size: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Returns inputs of `forward` that any small config accepts, different in every row; texts of unequal length."""
    time = config.max_seq_len
    numbers = torch.arange(batch_size * time, device=device).reshape(batch_size, time)
    return {
        "tokens": (numbers * numbers * 7 + numbers) % (config.vocab_size or 1),
        "lengths": time - 3 * torch.arange(batch_size, device=device) % max(1, time // 2),
        "segments": (numbers // 5) % config.num_segments,
    }
