"""The network: embeddings, an encoder and a decoder of either kind, and the output layer. The config: `__init__.py`.

Knows stacks; knows no file format (see `checkpoint/convert/`), no objective and no data.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dougong.core.errors import UsageError
from dougong.models.seq2seq import Seq2SeqConfig, recurrent, transformer
from dougong.models.seq2seq.memory import Memory
from dougong.models.seq2seq.recurrent import RecurrentCache
from dougong.nn.decoder import DecoderCache
from dougong.nn.dropout import dropout
from dougong.nn.init import Embedding, Linear, draw_glorot, draw_normal, draw_uniform
from dougong.nn.mask import mask_of
from dougong.nn.position import sinusoidal, sinusoidal_halves

Cache = DecoderCache | RecurrentCache


class Seq2Seq(nn.Module):
    """The model: it encodes sources, and gives for each place of a target the logits of what comes next.

    Attributes:
        config: What it was built from.
        encoder: Makes a memory of embedded sources.
        decoder: Makes features of embedded targets and a memory.
        SPLIT: How each parameter is split over a tensor-parallel axis. The rows of `qkv` and of `cross.memory` are the
            heads of the queries (if there are any), then of the keys, then of the values: each part is split by heads.
    """

    SPLIT: ClassVar[dict[str, str]] = {
        "token_embedding.weight": "row",
        "source_embedding.weight": "row",
        "*position_embedding.weight": "none",
        "*.blocks.*.attention.qkv.*": "column",
        "*.blocks.*.cross.query.*": "column",
        "*.blocks.*.cross.memory.*": "column",
        "*.blocks.*.output.weight": "row",
        "*.blocks.*.output.bias": "none",
        "*.blocks.*.feedforward.up.*": "column",
        "*.blocks.*.feedforward.down.weight": "row",
        "*.blocks.*.feedforward.down.bias": "none",
        "*_norm.*": "none",
        "encoder.layers.*": "none",
        "encoder.bridge.*": "none",
        "decoder.cells.*": "none",
        "decoder.fed.*": "none",
        "decoder.alignment.*": "none",
        "decoder.readout.*": "none",
        "unembedding.weight": "column",
        "output_bias": "column",
    }

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        if config.vocab_size is None:
            raise UsageError("model.vocab_size must be known to build the model, but is absent. Set it.")
        self.config = config
        kind = transformer if config.kind == "transformer" else recurrent
        separate, learned = config.source_vocab_size, config.position == "learned"
        self.source_embedding = None if separate is None else Embedding(separate, config.dim)
        self.source_position_embedding = Embedding(config.max_seq_len, config.dim) if learned else None
        self.encoder: Any = kind.Encoder(config)
        self.token_embedding = Embedding(config.vocab_size, config.dim)
        self.position_embedding = Embedding(config.max_seq_len, config.dim) if learned else None
        self.decoder: Any = kind.Decoder(config)
        width, tied = config.width_of_readout, config.tie_embeddings
        self.unembedding = None if tied else Linear(width, config.vocab_size, bias=False)
        self.output_bias = nn.Parameter(torch.empty(config.vocab_size)) if config.output_bias else None

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers of attention, first the encoder's: compilation and recomputation are applied to each."""
        return [*getattr(self.encoder, "blocks", ()), *getattr(self.decoder, "blocks", ())]

    def init_weights(self, seed: int) -> None:
        """Fills every parameter.

        | parameter | value |
        |---|---|
        | bias | 0 |
        | weight of a norm | 1 |
        | embedding | normal, std `init_std`; absent: `1 / (2 sqrt(dim))` |
        | weight of a recurrence | normal, std `init_std`; absent: uniform within `1 / sqrt(hidden_dim)` |
        | every other weight | normal, std `init_std`; absent: Glorot's |

        Twice as wide, as is usual, an embedding that is scaled and is also the output layer finds itself again: before
        training the model would bet on the token that it has just read.
        """
        std, within = self.config.init_std, 1.0 / math.sqrt(self.config.width_inside)
        for name, parameter in self.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
            elif name.endswith("norm.weight"):
                nn.init.ones_(parameter)
            elif std is not None or name.endswith("embedding.weight"):
                draw_normal(parameter, 0.5 / math.sqrt(self.config.dim) if std is None else std, seed, name)
            elif ".layers." in name or ".cells." in name:
                draw_uniform(parameter, within, seed, name)
            else:
                draw_glorot(parameter, seed, name)

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        sources: Int[Tensor, "batch source"],
        source_lengths: Int[Tensor, " batch"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time vocab"]:
        """Returns the logits of the token after each token of the targets.

        Arguments and errors are those of `encode` and `features`.
        """
        return self.head(self.features(tokens, self.encode(sources, source_lengths, noise), None, noise))

    def encode(
        self,
        sources: Int[Tensor, "batch source"],
        lengths: Int[Tensor, " batch"] | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Memory:
        """Returns what the decoder reads of the sources.

        Args:
            sources: Token numbers.
            lengths: Of each row, in tokens; what follows is padding, which nothing sees (an empty source keeps one, so
                that there is something to see). None: all of it counts.
            noise: One key per row, from which dropout draws; None switches dropout off.

        Raises:
            UsageError: A source is longer than `max_seq_len`.
        """
        table = self.token_embedding if self.source_embedding is None else self.source_embedding
        hidden = self._embedded(sources, table, self.source_position_embedding)
        mask = None if lengths is None else mask_of(lengths.clamp(min=1), sources.shape[1])
        return self.encoder(dropout(hidden, self.config.dropout, noise, place=0), mask, noise)

    def features(
        self,
        tokens: Int[Tensor, "batch time"],
        memory: Memory | None,
        cache: Cache | None = None,
        noise: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Returns what the output layer reads.

        Args:
            tokens: Token numbers of the targets, which begin with `start_id`.
            memory: What `encode` gave; where there is a cache it is not looked at, as the cache holds what is needed.
            cache: What was decoded before; the tokens continue it, and are added to it.
            noise: One key per row, from which dropout draws; None switches dropout off.

        Raises:
            UsageError: The target is longer than `max_seq_len`, or than the cache.
        """
        begin = 0 if cache is None else cache.length
        hidden = self._embedded(tokens, self.token_embedding, self.position_embedding, begin)
        return self.decoder(dropout(hidden, self.config.dropout, noise, place=1), memory, cache, noise)

    def head(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Returns the logits of features."""
        return F.linear(features, self.head_weight, self.output_bias)

    @property
    def head_weight(self) -> Float[Tensor, "vocab dim"]:
        """The weight of the output layer."""
        return self.token_embedding.weight if self.unembedding is None else self.unembedding.weight

    @property
    def head_bias(self) -> Float[Tensor, " vocab"] | None:
        """The bias of the output layer, if it has one."""
        return self.output_bias

    def new_cache(self, memory: Memory, max_len: int | None = None, attention: bool = False) -> Cache:
        """Returns an empty cache over a memory, one row for each of its rows.

        Args:
            memory: What `encode` gave.
            max_len: How many tokens there is room for; None: `max_seq_len`.
            attention: Whether to keep with which probabilities the last token looked at the source
                (`cache.attention`), for a penalty of coverage.
        """
        return self.decoder.new_cache(memory, max_len or self.config.max_seq_len, attention)

    def _embedded(self, tokens: Tensor, table: nn.Embedding, places: nn.Embedding | None, begin: int = 0) -> Tensor:
        """Returns the embeddings of tokens, with what is added for the places from `begin` on."""
        config, end = self.config, begin + tokens.shape[1]
        if end > config.max_seq_len:
            raise UsageError(
                f"a text must have at most model.max_seq_len = {config.max_seq_len} tokens, but has {end}. "
                "Shorten it, or build the model longer."
            )
        hidden = table(tokens)
        if config.kind == "recurrent":
            return hidden
        hidden = hidden * math.sqrt(config.dim) if config.scale_embeddings else hidden
        index = torch.arange(begin, end, device=tokens.device)
        if places is not None:
            return hidden + places(index)
        waves = sinusoidal if config.position == "sinusoidal" else sinusoidal_halves
        return hidden + waves(index, config.dim, hidden.dtype)


def example(config: Seq2SeqConfig, batch_size: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Returns inputs of `forward` that any small config accepts, different in every row; sources of unequal length."""
    time = config.max_seq_len
    numbers = torch.arange(batch_size * time, device=device).reshape(batch_size, time)
    tokens = (numbers * numbers * 7 + numbers) % (config.vocab_size or 1)
    sources = (numbers * numbers * 5 + 3 * numbers) % (config.source_vocab_size or config.vocab_size or 1)
    first = torch.full_like(tokens[:, :1], config.start_id or 0)
    return {
        "tokens": torch.cat((first, tokens[:, 1:]), dim=1),
        "sources": sources,
        "source_lengths": time - 3 * torch.arange(batch_size, device=device) % max(1, time // 2),
    }
