"""Which tokens of a text are hidden, and as what they are seen: functions of a batch and of a key per text (law 1).

All that a tokenizer has to say is in the batch, so a batch has one loss wherever it is computed. No shape depends on a
value, so it runs on the meta device. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dougong.core import seed as seeds
from dougong.core.contracts import Batch
from dougong.core.errors import UsageError
from dougong.nn.losses import IGNORED
from dougong.nn.mask import mask_of
from dougong.tasks.masked_lm import MaskedLMConfig

WHERE, HOW, WHAT = range(3)
_BITS = 24
_ROUNDS = 3


class Vocabulary:
    """What the hiding of words needs to know of a tokenizer.

    Args:
        tokenizer: The tokenizer; None: token 0 alone is special, and stands for `[MASK]`.
        vocab_size: Of the model: how many tokens there are where there is no tokenizer.
        whole_words: Whether a token that goes on with a word is hidden with it, or is a word of its own.

    Raises:
        UsageError: The vocabulary has no `[MASK]`, or no parts of words where whole words are asked for.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, whole_words: bool):
        self.num_tokens = vocab_size if tokenizer is None else tokenizer.vocab_size
        self.mask_id = 0 if tokenizer is None else _mask_id(tokenizer)
        self.special = np.array([0] if tokenizer is None else sorted(tokenizer.special_ids), dtype=np.int64)
        self._continues = np.zeros(self.num_tokens, dtype=bool)
        if whole_words and tokenizer is not None:
            self._continues |= tokenizer.continues
            if not self._continues.any():
                raise UsageError(
                    "task.whole_words has no effect, as no token of the data's tokenizer goes on with a word. "
                    "Remove it, or choose the tokenizer wordpiece."
                )

    def words(self, tokens: Int[np.ndarray, " length"]) -> Int[np.ndarray, " length"]:
        """Returns the number of the word that each token belongs to; -1 for special tokens, which are never hidden."""
        begins = ~self._continues[tokens]
        begins[:1] = True
        return np.where(np.isin(tokens, self.special), -1, np.cumsum(begins) - 1)

    def fields(self, batch_size: int) -> dict[str, Int[Tensor, "batch ..."]]:
        """Returns what a batch holds of it, the same for each text."""
        return {
            "special": torch.from_numpy(self.special).repeat(batch_size, 1),
            "mask_id": torch.full((batch_size,), self.mask_id),
            "num_tokens": torch.full((batch_size,), self.num_tokens),
        }


@dataclass(frozen=True)
class Hidden:
    """Texts with hidden tokens.

    Attributes:
        tokens: What the model sees.
        places: Where a token is to be named; where a row has fewer than it could, the last ones do not count.
        targets: The tokens that stand there; -1 where the place does not count.
    """

    tokens: Int[Tensor, "batch time"]
    places: Int[Tensor, "batch most"]
    targets: Int[Tensor, "batch most"]


def hide(config: MaskedLMConfig, batch: Batch, keys: Int[Tensor, " batch"]) -> Hidden:
    """Hides words of each text: of n tokens that may be hidden, `max(1, round(share n))`.

    Words are taken in a random order while they fit into that number, so words of several tokens may miss it by a
    little, and words of one never do.

    Args:
        config: The shares.
        batch: The texts: `tokens`, `lengths`, `words`, and what the vocabulary says.
        keys: One for each text, from which all is drawn.
    """
    tokens, time = batch["tokens"], batch["tokens"].shape[1]
    chosen = _chosen(config.share, batch, keys)
    most = min(time, int(config.share * time) + 1)
    places = (chosen.long() * time - torch.arange(time, device=tokens.device)).topk(most, dim=1).indices
    counts, true = chosen.gather(1, places), tokens.gather(1, places)
    kinds, drawn = (seeds.draw_bits(keys, (time,), place).gather(1, places) for place in (HOW, WHAT))
    edge = round(config.masked * 2**_BITS)
    seen = torch.where(kinds < edge + round(config.random * 2**_BITS), _plain(batch, drawn), true)
    seen = torch.where(kinds < edge, batch["mask_id"][:, None], seen)
    return Hidden(
        tokens.scatter(1, places, torch.where(counts, seen, true)), places, torch.where(counts, true, IGNORED)
    )


def fit_in_order(sizes: Int[Tensor, "batch words"], room: Int[Tensor, " batch"]) -> Bool[Tensor, "batch words"]:
    """Returns which things are taken, if each in turn is taken while it fits into the room that is left.

    In each round all are taken up to the first that does not fit, which is then passed over. After three rounds what
    is left to take is next to nothing.
    """
    taken, left = torch.zeros_like(sizes, dtype=torch.bool), room[:, None]
    for _ in range(_ROUNDS):
        fits = ~taken & (sizes > 0) & (sizes <= left)
        now = fits & ((sizes * fits).cumsum(1) <= left)
        taken, left = taken | now, left - (sizes * now).sum(1, keepdim=True)
    return taken


def _chosen(share: float, batch: Batch, keys: Int[Tensor, " batch"]) -> Bool[Tensor, "batch time"]:
    """Returns the tokens of the words that are taken."""
    words, time = batch["words"], batch["words"].shape[1]
    allowed = (words >= 0) & mask_of(batch["lengths"], time)
    number = allowed.sum(1)
    wanted = torch.minimum((number * share + 0.5).long().clamp(min=1), number)
    words = words.clamp(min=0)
    sizes = torch.zeros_like(words).scatter_add(1, words, allowed.long())
    # A random number for each word, no two equal, so that their order is the same on every device.
    scores = (seeds.draw_bits(keys, (time,), WHERE).long() << _BITS) + torch.arange(time, device=keys.device)
    order = scores.argsort(1, descending=True)
    taken = fit_in_order(sizes.gather(1, order), wanted)
    return torch.zeros_like(taken).scatter(1, order, taken).gather(1, words) & allowed


def _plain(batch: Batch, bits: Int[Tensor, "batch most"]) -> Int[Tensor, "batch most"]:
    """Returns tokens that are not special, each as likely, from uniform 24-bit integers."""
    special = batch["special"]
    number = bits.long() * (batch["num_tokens"] - special.shape[1])[:, None] >> _BITS
    # Numbers go on over the special tokens: as many are skipped as stand before the place where it then lies.
    before = special - torch.arange(special.shape[1], device=special.device)
    return number + (number[..., None] >= before[:, None]).sum(-1)


def _mask_id(tokenizer: Any) -> int:
    found = tokenizer.id_of("[MASK]")
    if found is None:
        raise UsageError(
            "the task masked_lm needs a tokenizer with the token [MASK], but the data's has none. "
            "Choose the tokenizer wordpiece."
        )
    return found
