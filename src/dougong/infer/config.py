"""How text is to be generated. Knows no tensors and no tokens: importable without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from dougong.core.config import Config, Fault


class GenerateConfig(Config):
    """How to choose tokens, and when to stop."""

    max_new_tokens: int = Field(default=128, ge=1)
    """The most tokens to generate; generation also ends where the model's context is full."""

    temperature: float = Field(default=1.0, ge=0)
    """Logits are divided by it before sampling; 0 takes the most likely token each time (greedy)."""

    top_k: int | None = Field(default=None, ge=1)
    """Sample from the k most likely tokens only."""

    top_p: float | None = Field(default=None, gt=0, lt=1)
    """Sample from the fewest most likely tokens whose probabilities sum to at least this (nucleus sampling)."""

    min_p: float | None = Field(default=None, gt=0, le=1)
    """Sample only from tokens at least this many times as probable as the most likely one."""

    repetition_penalty: float = Field(default=1.0, gt=0)
    """Scores of tokens already in the prompt or the text are divided (if positive) or multiplied by it; 1 is off."""

    num_beams: int = Field(default=1, ge=1)
    """Above 1: beam search for the likeliest text with this many open beams, instead of sampling."""

    length_penalty: float = 1.0
    """Beam search divides a text's log-probability by its number of tokens to this power; above 0 favours long."""

    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Generation ends where one of these strings would appear; the string itself is not part of the text."""

    batch_size: int = Field(default=16, ge=1)
    """How many prompts are decoded together; changes speed and memory, not the text."""

    seed: int = 0
    """Decides every random draw, together with the number of the prompt and of the token."""

    @property
    def greedy(self) -> bool:
        """Tells whether the most likely token is taken each time."""
        return self.temperature == 0

    def faults(self) -> Iterator[Fault]:
        """Options that would have no effect beside the others are faults (a setting without effect is an error)."""
        for name in ("top_k", "top_p", "min_p"):
            if getattr(self, name) is not None and self.num_beams > 1:
                yield Fault(
                    name, f"has no effect with num_beams {self.num_beams}: beams are not sampled. Leave it out."
                )
            elif getattr(self, name) is not None and self.greedy:
                yield Fault(name, "has no effect with temperature 0, which takes the likeliest token. Leave one out.")
        if self.num_beams > 1 and self.temperature != 1:
            yield Fault(
                "temperature", f"has no effect with num_beams {self.num_beams}: beams are not sampled. Leave it out."
            )
        if self.num_beams == 1 and self.length_penalty != 1:
            yield Fault("length_penalty", "has no effect without beams. Set num_beams above 1, or leave it out.")
