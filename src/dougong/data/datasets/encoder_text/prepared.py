"""Text for encoders made ready: documents tokenized once, cut into pieces and framed, with random access to each.

Knows how the parts of `data` fit together; does not know models, tasks or batches. Which words are hidden is not
decided here, but by the task.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from dougong.core import seed as seeds
from dougong.core.errors import FileError, UsageError
from dougong.data import corpus
from dougong.data.datasets.encoder_text import EncoderTextConfig
from dougong.data.examples import EncoderText
from dougong.data.shards import Shards, TokenStream
from dougong.data.tokenizer import Tokenizer

SHORTEST = 8
"""Tokens that a piece must have: what is left of a document and shorter is left out."""


def prepared(config: EncoderTextConfig, cache: Path | None, seq_len: int) -> EncoderTextData:
    """Reads, splits and tokenizes the text, or finds that done in the cache."""
    return EncoderTextData(config, *corpus.read(config.sources, config.tokenizer, config.validation, cache), seq_len)


class Pieces:
    """The documents of a stream, each cut into pieces of equal length; the last one is what is left.

    Args:
        stream: The tokens.
        size: Of a piece, in tokens.

    Attributes:
        left_out: How many tokens stand in pieces that are too short.
    """

    def __init__(self, stream: TokenStream, size: int):
        self.stream, self.size = stream, size
        lengths = np.diff(np.append(stream.starts, len(stream))) - 1
        whole, rest = np.divmod(lengths, size)
        self.left_out = int(rest[rest < SHORTEST].sum())
        self._first = np.concatenate([[0], np.cumsum(whole + (rest >= SHORTEST))])

    def __len__(self) -> int:
        return int(self._first[-1])

    def tokens(self, index: int) -> Int[np.ndarray, " length"]:
        """Returns the tokens of a piece."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        document = self._document(index)
        start = int(self.stream.starts[document]) + 1 + (index - int(self._first[document])) * self.size
        last = document + 1 == self.stream.num_documents
        end = len(self.stream) if last else int(self.stream.starts[document + 1])
        return self.stream.tokens(start, min(start + self.size, end))

    def elsewhere(self, index: int, rng: np.random.Generator) -> Int[np.ndarray, " length"]:
        """Returns a piece of another document, each as likely as any."""
        first, end = self._first[self._document(index) :][:2].tolist()
        number = int(rng.integers(len(self) - (end - first)))
        return self.tokens(number if number < first else number + end - first)

    @property
    def documents(self) -> int:
        """How many documents have a piece."""
        return int(np.count_nonzero(np.diff(self._first)))

    def _document(self, index: int) -> int:
        return int(np.searchsorted(self._first, index, side="right")) - 1


@dataclass(frozen=True)
class Piece:
    """A piece that is not yet cut in two; `EncoderTextData.augment` does that at random.

    Attributes:
        pieces: All of its source.
        index: Which of them.
    """

    pieces: Pieces
    index: int


@dataclass(frozen=True)
class Source:
    """The pieces of one source and part, as a `Dataset` of what the training changes, or of examples.

    Attributes:
        pieces: The pieces.
        tokenizer: Frames them.
        pairs: Whether they are to be cut in two.
        fingerprint: A hash of the tokens and of how they are cut.
        licence: Of the text.
        source: Where the text comes from.
    """

    pieces: Pieces
    tokenizer: Tokenizer
    pairs: bool
    fingerprint: str
    licence: str
    source: str

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> EncoderText | Piece:
        return Piece(self.pieces, index) if self.pairs else self.example(index)

    def example(self, index: int) -> EncoderText:
        """Returns an example; of a pair, with what is drawn for its number once and for all."""
        if self.pairs:
            rng = np.random.default_rng(seeds.key(0, "pairs", index))
            return paired(Piece(self.pieces, index), rng, self.tokenizer)
        return EncoderText(*self.tokenizer.framed(self.pieces.tokens(index)))


class Joined:
    """The examples of several sources one after the other; a `Dataset`."""

    def __init__(self, parts: Sequence[Source]):
        self.parts = list(parts)
        self._ends = list(accumulate(len(part) for part in self.parts))
        self.licence = ", ".join(dict.fromkeys(part.licence for part in self.parts))
        self.source = ", ".join(dict.fromkeys(part.source for part in self.parts))
        self.fingerprint = hashlib.sha256(" ".join(part.fingerprint for part in self.parts).encode()).hexdigest()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> EncoderText:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        return self.parts[number].example(index - (self._ends[number - 1] if number else 0))


class EncoderTextData:
    """Text for encoders, ready to train on.

    Attributes:
        config: What described it.
        tokenizer: Text to ids and back.
        seq_len: The longest example, in tokens.
        train: The training examples of each source with its weight; of pairs, what `augment` makes examples of.
        validation: The validation examples of all sources, in order.
        determines: Fields of the model that the data decides.
        fingerprint: A hash of tokenizer, training and validation examples, and weights.
        licence: Of the text, as its sources state it.
        source: Where the text comes from.
        counts: Per source: samples read, used, quarantined, left out; documents, tokens, bytes, pieces of both parts.
        augment: Makes a training example of a piece; None where pieces are not cut in two.

    Raises:
        UsageError: An example is too short to hold a piece.
        FileError: A part of the text has no piece, or no second document to take one from.
    """

    def __init__(self, config: EncoderTextConfig, tokenizer: Tokenizer, shards: Sequence[Shards], seq_len: int):
        self.config, self.tokenizer, self.seq_len = config, tokenizer, seq_len
        frame = tokenizer.frame_size(config.pairs)
        if seq_len < frame + SHORTEST:
            raise UsageError(
                f"an example must hold {SHORTEST} tokens and {frame} around them, but data.seq_len (or the model's "
                f"max_seq_len) is {seq_len}. Raise it to {frame + SHORTEST} or more."
            )
        train, apart = ([self._source(s, part) for s in shards] for part in ("train", "validation"))
        self.train = [(part, source.weight) for part, source in zip(train, config.sources, strict=True)]
        self.validation = Joined(apart)
        self.determines: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
        self.licence, self.source = self.validation.licence, self.validation.source
        facts = [tokenizer.fingerprint, self.validation.fingerprint]
        facts += [f"{part.fingerprint} {source.weight}" for part, source in zip(train, config.sources, strict=True)]
        self.fingerprint = hashlib.sha256(" ".join(facts).encode()).hexdigest()
        self.counts = [_counts(*each) for each in zip(shards, train, apart, strict=True)]
        self.augment = self._augment if config.pairs else None
        self._check([("training", part) for part in train])
        self._check([("validation", part) for part in apart if len(part) or not len(self.validation)])

    def length(self, example: EncoderText) -> int:
        """Returns how long an example is, in tokens."""
        return len(example.tokens)

    def save_assets(self, folder: str | Path) -> None:
        """Writes what a model needs beside its weights: the tokenizer's files."""
        self.tokenizer.save(folder)

    def _source(self, shards: Shards, part: str) -> Source:
        stream: TokenStream = getattr(shards, part)
        pieces = Pieces(stream, self.seq_len - self.tokenizer.frame_size(self.config.pairs))
        facts = f"{stream.fingerprint} {pieces.size} {SHORTEST} {self.config.pairs}"
        digest, manifest = hashlib.sha256(facts.encode()).hexdigest(), shards.manifest
        return Source(pieces, self.tokenizer, self.config.pairs, digest, manifest.licence, manifest.source)

    def _augment(self, piece: Piece, rng: np.random.Generator) -> EncoderText:
        return paired(piece, rng, self.tokenizer)

    def _check(self, parts: Sequence[tuple[str, Source]]) -> None:
        for what, part in parts:
            least = 2 if self.config.pairs else 1
            if part.pieces.documents < least:
                by = self.config.validation
                stream = part.pieces.stream
                raise FileError(
                    f"the {what} text of {part.source} must have {least} or more documents of {SHORTEST} tokens, but "
                    f"has {part.pieces.documents} (of {stream.num_documents:,} documents and {len(stream):,} tokens, "
                    f"with {by.fraction:g} kept apart by {by.by}). Add text, or change data.validation."
                )


def paired(piece: Piece, rng: np.random.Generator, tokenizer: Tokenizer) -> EncoderText:
    """Returns a piece cut in two; of every other one, the second half is replaced by as much of another document.

    The cut lies in the middle half of the piece. What comes from elsewhere is the end of a piece, as the half that it
    replaces is, so that its beginning gives nothing away; it is shorter only where that piece is.
    """
    tokens = piece.pieces.tokens(piece.index)
    quarter = len(tokens) // 4
    cut = int(rng.integers(quarter, len(tokens) - quarter + 1))
    second, follows = tokens[cut:], bool(rng.integers(2))
    if not follows:
        second = piece.pieces.elsewhere(piece.index, rng)[-len(second) :]
    return EncoderText(*tokenizer.framed(tokens[:cut], second), follows=follows)


def _counts(shards: Shards, train: Source, apart: Source) -> dict[str, Any]:
    found = shards.manifest.model_dump(exclude={"format", "dtype", "sha256"})
    for name, part in (("train", train), ("validation", apart)):
        found[name] = {**found[name], "pieces": len(part), "tokens_left_out": part.pieces.left_out}
    return found
