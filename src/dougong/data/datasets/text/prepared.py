"""Text made ready: read, split and tokenized once, then rows of tokens with random access.

Knows how the parts of `data` fit together; does not know models, tasks or batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from dougong.core.errors import FileError
from dougong.data import corpus
from dougong.data.datasets.text import TextConfig
from dougong.data.fim import Rearranged
from dougong.data.pack import JoinedRows, TokenRows
from dougong.data.shards import Shards
from dougong.data.tokenizer import Tokenizer


def prepared(config: TextConfig, cache: Path | None, seq_len: int) -> TextData:
    """Reads, splits and tokenizes the text, or finds that done in the cache."""
    return TextData(config, *corpus.read(config.sources, config.tokenizer, config.validation, cache), seq_len)


class TextData:
    """Text, ready to train on.

    Attributes:
        config: What described it.
        tokenizer: Text to ids and back.
        seq_len: The context, in tokens.
        train: The training rows of each source with its weight (see `loader.order`).
        validation: The validation rows of all sources, in order.
        augment: Makes a training row of a row of the text; there only if the recipe asks for infilling.
        determines: Fields of the model that the data decides.
        fingerprint: A hash of tokenizer, training and validation rows, and weights.
        licence: Of the text, as its sources state it.
        source: Where the text comes from.
        counts: Per source: samples read, used, quarantined, left out, and documents, tokens and bytes of both parts.

    Raises:
        FileError: The text is too short for a row of the context.
    """

    def __init__(self, config: TextConfig, tokenizer: Tokenizer, shards: Sequence[Shards], seq_len: int):
        def rows(part: str) -> list[TokenRows]:
            return [
                TokenRows(getattr(s, part), seq_len, config.across_documents, s.manifest.licence, s.manifest.source)
                for s in shards
            ]

        self.config, self.tokenizer, self.seq_len, self._shards = config, tokenizer, seq_len, shards
        train = rows("train")
        self.train = [(part, source.weight) for part, source in zip(train, config.sources, strict=True)]
        self.validation = JoinedRows(rows("validation"))
        self.determines: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
        self.licence, self.source = self.validation.licence, self.validation.source
        facts = [tokenizer.fingerprint, self.validation.fingerprint]
        facts += [f"{part.fingerprint} {weight}" for part, weight in self.train]
        if config.fim:
            self.augment = Rearranged(tokenizer, config.fim.rate, config.fim.spm_share)
            facts.append(repr(config.fim.model_dump(mode="json")))
        self.fingerprint = hashlib.sha256(" ".join(facts).encode()).hexdigest()
        left_apart = {"format", "dtype", "sha256"}
        self.counts = [shard.manifest.model_dump(exclude=left_apart) for shard in shards]
        self._check_length()

    def raw_validation_bytes(self) -> Iterator[bytes]:
        """Yields the validation text of all sources as UTF-8, to compare with what a compressor makes of it."""
        return chain.from_iterable(shard.raw_validation_bytes() for shard in self._shards)

    def save_assets(self, folder: str | Path) -> None:
        """Writes what a model needs beside its weights: the tokenizer's files."""
        self.tokenizer.save(folder)

    def _check_length(self) -> None:
        for part, _ in self.train:
            if len(part) == 0:
                raise FileError(self._too_short(f"training text of {part.source}", len(part.stream)))
        if len(self.validation) == 0:
            raise FileError(self._too_short("validation text", max(len(p.stream) for p in self.validation.parts)))

    def _too_short(self, what: str, tokens: int) -> str:
        by, streams = self.config.validation, [*self.validation.parts, *(part for part, _ in self.train)]
        documents = sum(part.stream.num_documents for part in streams)
        advice = "set validation to {by: position}" if by.by == "document" else "change validation.fraction"
        return (
            f"the {what} must have more tokens than the context of {self.seq_len}, but has {tokens:,} "
            f"(of {documents:,} documents, with {by.fraction:g} kept apart by {by.by}). Add text, lower seq_len (or "
            f"the model's max_seq_len), or {advice}."
        )
