"""Text rearranged so that a model learns to fill in the middle (Bavarian et al. 2022, section 3).

Knows rows of tokens and a tokenizer; does not know where rows come from, nor how a trained model is asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from dougong.core.errors import UsageError
from dougong.data.examples import TokenRow
from dougong.data.tokenizer import Tokenizer
from dougong.data.vocabulary import FIM

_PROBE = " a  b\n\n\tc "
_HALF = "\N{REPLACEMENT CHARACTER}"
_ADDED = 5  # the three tokens, the one that opens a document, and the end of text after the middle


class Infilling:
    """The order of a text whose middle comes last, as a model that fills it in reads it.

    Args:
        tokenizer: Has the tokens `<|fim_prefix|>`, `<|fim_suffix|>` and `<|fim_middle|>`.

    Raises:
        UsageError: It lacks one of them.
    """

    def __init__(self, tokenizer: Tokenizer):
        ids = [tokenizer.id_of(token) for token in FIM]
        lacking = [token for token, number in zip(FIM, ids, strict=True) if number is None]
        if lacking:
            raise UsageError(
                f"to fill in the middle, the tokenizer must have the special tokens {', '.join(FIM)}, but lacks "
                f"{', '.join(lacking)}. Take a model that was trained with them (see the recipe gpt-stdlib-fim), or go "
                "on without."
            )
        self.prefix, self.suffix, self.middle = (int(number) for number in ids if number is not None)
        self.opening = tokenizer.eot_id

    def asked(self, prefix: list[int], suffix: list[int]) -> list[int]:
        """Returns what the middle is to follow: a document that is prefix, suffix, then the middle (PSM)."""
        return [self.opening, self.prefix, *prefix, self.suffix, *suffix, self.middle]

    def asked_suffix_first(self, prefix: list[int], suffix: list[int]) -> list[int]:
        """Returns the same with the suffix first, so that the middle goes on from the prefix (SPM, their variant 2)."""
        return [self.opening, self.prefix, self.suffix, *suffix, self.middle, *prefix]


class Rearranged:
    """Rows in which documents have their middle at the end; a pure function of row and generator.

    Each document's piece of a row is, with probability `rate`, cut at two characters drawn uniformly, and stands there
    as a document of its own. A row keeps its length: what is added pushes the end of its text out of it, and the middle
    of its last document still ends with the end of text.

    Args:
        tokenizer: Text to ids and back.
        rate: How probable it is that a document is rearranged.
        spm_share: Of these, how many have the suffix first.

    Raises:
        UsageError: The tokenizer lacks the special tokens, or does not give back text as it was.
    """

    def __init__(self, tokenizer: Tokenizer, rate: float | int, spm_share: float | int):
        self.tokenizer, self.rate, self.spm_share = tokenizer, rate, spm_share
        self.order = Infilling(tokenizer)
        again = tokenizer.decode(tokenizer.encode(_PROBE))
        if again != _PROBE:
            raise UsageError(
                f"to fill in the middle, the tokenizer must give back text as it was, but makes {again!r} of "
                f"{_PROBE!r}. Take one of bytes, such as bpe, or leave data.fim out."
            )

    def __call__(self, row: TokenRow, rng: np.random.Generator) -> TokenRow:
        """Returns the row rearranged; as it is where nothing is drawn for it."""
        size, starts = len(row.tokens), np.flatnonzero(np.diff(row.documents, prepend=-1))
        draws = rng.random((len(starts), 4))
        if not (draws[:, 0] < self.rate).any():
            return row
        tokens: list[int] = []
        documents: list[int] = []
        pieces = [piece.tolist() for piece in np.split(row.tokens, starts[1:])]
        for number, (start, piece, draw) in enumerate(zip(starts, pieces, draws, strict=True), start=1):
            tokens += self._piece(piece, draw, size - len(tokens), number == len(pieces))
            documents += [int(row.documents[start])] * (len(tokens) - len(documents))
        if len(tokens) < size:  # rare: cut like this, all of the text takes fewer tokens, and nothing would fill it
            return row
        kind = row.tokens.dtype
        return TokenRow(np.array(tokens, dtype=kind), np.array(documents, dtype=np.int64), row.across_documents)

    def _piece(self, piece: list[int], draw: Float[np.ndarray, " 4"], room: int, last: bool) -> list[int]:
        """Returns a document's piece as it will stand in a row that has room for so many tokens."""
        body = piece[1:] if piece[0] == self.tokenizer.eot_id else piece
        if draw[0] >= self.rate or not body or room <= _ADDED:
            return piece[:room]
        if not last:
            laid = self._laid(*self._cut(body, draw), draw)
            if len(laid) < room:  # the token that opens the next document says that the middle has ended
                return laid
        return self._ended(body, draw, room)

    def _ended(self, body: list[int], draw: Float[np.ndarray, " 4"], room: int) -> list[int]:
        """Returns the row's last document with its end, for which the end of its text makes room."""
        taken = room - _ADDED
        parts = self._cut(body[:taken], draw)
        while (missing := room - _ADDED - sum(map(len, parts))) > 0 and taken < len(body):
            taken += missing  # cut like this, the text takes fewer tokens
            parts = self._cut(body[:taken], draw)
        excess = -missing
        for part in reversed(parts):
            dropped = min(max(0, excess), len(part))
            del part[len(part) - dropped :]
            excess -= dropped
        return [*self._laid(*parts, draw), self.tokenizer.eot_id]

    def _cut(self, body: list[int], draw: Float[np.ndarray, " 4"]) -> tuple[list[int], list[int], list[int]]:
        """Returns the tokens of the beginning, the middle and the end of a text, cut at two characters.

        Halves of characters, which a row may begin and end with, stay where they are.
        """
        first, last = self._whole(body)
        text = self.tokenizer.decode(body[first:last])
        begin, end = sorted(int(share * (len(text) + 1)) for share in draw[2:])
        encode = self.tokenizer.encode  # one by one, as threads of the library would not be there in a forked worker
        prefix, middle, suffix = encode(text[:begin]), encode(text[begin:end]), encode(text[end:])
        return [*body[:first], *prefix], middle, [*suffix, *body[last:]]

    def _whole(self, body: list[int]) -> tuple[int, int]:
        """Returns between which tokens the text is whole characters."""
        first, last = 0, len(body)
        while self.tokenizer.decode(body[first:last]).startswith(_HALF):
            first += 1
        while self.tokenizer.decode(body[first:last]).endswith(_HALF):
            last -= 1
        return first, last

    def _laid(self, prefix: list[int], middle: list[int], suffix: list[int], draw: Any) -> list[int]:
        asked = self.order.asked_suffix_first if draw[1] < self.spm_share else self.order.asked
        return [*asked(prefix, suffix), *middle]
