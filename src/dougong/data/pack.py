"""Streams of tokens as rows of equal length, with random access. Knows token streams; knows no files or batches."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from dougong.data.examples import TokenRow
from dougong.data.shards import TokenStream


class TokenRows:
    """Row `i` is the `seq_len + 1` tokens of a stream from `i * seq_len` on.

    Rows overlap by one, so every token but the stream's first is a target exactly once. What is left at the end, less
    than a row, is dropped.

    Args:
        stream: The tokens.
        seq_len: The context, in tokens.
        across_documents: Whether attention may cross from one document into the next; told to the collate.
        licence: Of the text.
        source: Where the text comes from.
    """

    def __init__(self, stream: TokenStream, seq_len: int, across_documents: bool, licence: str, source: str):
        self.stream, self.seq_len, self.across_documents = stream, seq_len, across_documents
        self.licence, self.source = licence, source
        facts = f"{stream.fingerprint} {seq_len} {across_documents}"
        self.fingerprint = hashlib.sha256(facts.encode()).hexdigest()

    def __len__(self) -> int:
        return max(0, len(self.stream) - 1) // self.seq_len

    def __getitem__(self, index: int) -> TokenRow:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, stop = index * self.seq_len, (index + 1) * self.seq_len + 1
        return TokenRow(self.stream.tokens(start, stop), self.stream.documents(start, stop), self.across_documents)


class JoinedRows:
    """The rows of several streams one after the other, with documents numbered through."""

    def __init__(self, parts: Sequence[TokenRows]):
        self.parts = list(parts)
        self._ends = list(accumulate(len(part) for part in self.parts))
        self._documents = list(accumulate((part.stream.num_documents for part in self.parts), initial=0))
        self.licence = ", ".join(dict.fromkeys(part.licence for part in self.parts))
        self.source = ", ".join(dict.fromkeys(part.source for part in self.parts))
        self.fingerprint = hashlib.sha256(" ".join(part.fingerprint for part in self.parts).encode()).hexdigest()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> TokenRow:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        row = self.parts[number][index - (self._ends[number - 1] if number else 0)]
        return TokenRow(row.tokens, row.documents + self._documents[number], row.across_documents)
