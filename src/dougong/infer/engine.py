"""Decoding: prompts are read once into a cache of keys and values, then each step reads one token per row.

Knows tokens and models by what they can do; knows no text (see `text.py`) and no model by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dougong.core.errors import UsageError
from dougong.infer.config import GenerateConfig
from dougong.infer.sampling import choose
from dougong.infer.search import Hypothesis, beam_search
from dougong.nn.cache import KVCache


@runtime_checkable
class Decoder(Protocol):
    """What a model must be able to do to be decoded: `models/gpt.py` says what each of these means.

    Attributes:
        config: With `max_seq_len`, how many tokens the context holds.
    """

    config: Any

    def features(
        self, tokens: Int[Tensor, "batch time"], segments: None = None, cache: KVCache | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Returns what the output layer reads; the tokens continue what the cache holds, and are added to it."""

    def head(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Returns the logits of features."""

    def new_cache(self, batch_size: int, max_len: int | None = None) -> KVCache:
        """Returns an empty cache for so many rows of at most so many tokens."""


class Decoding:
    """A batch of prompts that is being continued, one token per row and step.

    Rows that have ended leave the batch: they cost nothing more, and change nothing for the others.

    Args:
        prompts: Tokens, at least one per prompt.
        eot_id: The token that ends a text; None: no token does.
        rows: Each prompt's own number, which decides its draws; by default its place among the prompts.

    Attributes:
        tokens: What was generated for each prompt, with the end-of-text token where there was one.
        reasons: Why each prompt's text ended: `eot` (the model ended it), `length` (max_new_tokens, or the context is
            full), or what `end` was told; None while it goes on.

    Raises:
        UsageError: A prompt leaves no room for another token.
    """

    def __init__(
        self,
        model: Decoder,
        prompts: Sequence[Sequence[int]],
        config: GenerateConfig,
        eot_id: int | None = None,
        rows: Sequence[int] | None = None,
    ):
        for prompt in prompts:
            check_prompt(model, prompt)
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self.reasons: list[str | None] = [None] * len(prompts)
        self._model, self._prompts, self._config, self._eot_id = model, prompts, config, eot_id
        self._rows = list(range(len(prompts)) if rows is None else rows)
        self._room = [room(model, prompt, config) for prompt in prompts]
        self._live = list(range(len(prompts)))
        self._cache: KVCache | None = None
        self._last = torch.empty(0, 1, dtype=torch.int64)
        self._seen: Tensor | None = None

    @property
    def live(self) -> list[int]:
        """The prompts whose text goes on."""
        return [place for place in self._live if self.reasons[place] is None]

    def end(self, prompt: int, reason: str) -> None:
        """Ends the text of a prompt from outside."""
        self.reasons[prompt] = reason

    @torch.inference_mode()
    def step(self) -> dict[int, int]:
        """Generates one token for each prompt that goes on; returns it by the prompt's place."""
        if self._cache is None:
            self._cache, logits = self._prefill()
        else:
            if any(self.reasons[place] is not None for place in self._live):
                self._drop_ended(self._cache)
            logits = next_logits(self._model, self._last, self._cache)
        step = len(self.tokens[self._live[0]])
        chosen = choose(logits, self._config, [self._rows[place] for place in self._live], step, self._seen)
        self._last = chosen[:, None]
        if self._seen is not None:
            self._seen.scatter_(1, self._last, True)
        new = dict(zip(self._live, chosen.tolist(), strict=True))
        for place, token in new.items():
            self.tokens[place].append(token)
            self.reasons[place] = self._reason(place, token)
        return new

    def _reason(self, place: int, token: int) -> str | None:
        if token == self._eot_id:
            return "eot"
        return "length" if len(self.tokens[place]) == self._room[place] else None

    def _prefill(self) -> tuple[KVCache, Tensor]:
        prompts = [self._prompts[place] for place in self._live]
        size = max(len(prompt) + self._room[place] for place, prompt in zip(self._live, prompts, strict=True))
        cache = self._model.new_cache(len(prompts), size)
        logits = prompt_logits(self._model, prompts, cache)
        if self._config.repetition_penalty != 1:
            self._seen = seen_tokens(prompts, logits)
        return cache, logits

    def _drop_ended(self, cache: KVCache) -> None:
        kept = [row for row, place in enumerate(self._live) if self.reasons[place] is None]
        index = torch.tensor(kept, device=self._last.device)
        cache.reorder(index)
        cache.truncate(cache.lengths)
        self._live = self.live
        self._last = self._last[index]
        self._seen = None if self._seen is None else self._seen[index]


@torch.inference_mode()
def search(
    model: Decoder,
    prompt: Sequence[int],
    config: GenerateConfig,
    eot_id: int | None = None,
    stopped: Callable[[Sequence[int]], bool] | None = None,
) -> Hypothesis:
    """Returns the likeliest continuation of one prompt that beam search finds.

    Args:
        stopped: Tells whether these generated tokens contain a stop string; such a beam is finished.

    Raises:
        UsageError: The prompt leaves no room for another token.
    """
    check_prompt(model, prompt)
    most = room(model, prompt, config)
    cache = model.new_cache(1, len(prompt) + most)
    logits = prompt_logits(model, [prompt], cache)

    def ended(tokens: Sequence[int]) -> str | None:
        if tokens[-1] == eot_id:
            return "eot"
        if stopped is not None and stopped(tokens):
            return "stop"
        return "length" if len(tokens) == most else None

    def advance(parents: list[int], tokens: list[int]) -> Tensor:
        cache.reorder(torch.tensor(parents, device=logits.device))
        return next_logits(model, torch.tensor(tokens, device=logits.device)[:, None], cache)

    seen = seen_tokens([prompt], logits) if config.repetition_penalty != 1 else None
    return beam_search(logits, advance, ended, config, seen)


def check_prompt(model: Decoder, prompt: Sequence[int]) -> None:
    """Raises UsageError unless the prompt has a token and leaves room in the context for one more."""
    if not prompt:
        raise UsageError("a prompt must have at least one token, but has none. Begin with the end-of-text token.")
    if len(prompt) >= model.config.max_seq_len:
        raise UsageError(
            f"a prompt must leave room for a token in the model's context of {model.config.max_seq_len} tokens, "
            f"but has {len(prompt)}. Shorten it to at most {model.config.max_seq_len - 1} tokens."
        )


def room(model: Decoder, prompt: Sequence[int], config: GenerateConfig) -> int:
    """Returns how many tokens may follow a prompt: as many as are asked for, or until the context is full."""
    return min(config.max_new_tokens, model.config.max_seq_len - len(prompt))


def prompt_logits(model: Decoder, prompts: Sequence[Sequence[int]], cache: KVCache) -> Float[Tensor, "batch vocab"]:
    """Reads prompts of any lengths into an empty cache; returns the logits of what follows each."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    padded = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])
    features = model.features(padded.to(cache.lengths.device), cache=cache)
    cache.truncate(lengths)
    return model.head(features[torch.arange(len(prompts)), lengths - 1])


def next_logits(model: Decoder, tokens: Int[Tensor, "batch 1"], cache: KVCache) -> Float[Tensor, "batch vocab"]:
    """Reads one more token per row; returns the logits of what follows."""
    return model.head(model.features(tokens, cache=cache)[:, -1])


def seen_tokens(prompts: Sequence[Sequence[int]], logits: Float[Tensor, "batch vocab"]) -> Bool[Tensor, "batch vocab"]:
    """Returns which tokens of the vocabulary occur in each prompt."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, prompt in zip(seen, prompts, strict=True):
        row[torch.tensor(prompt, device=row.device)] = True
    return seen
