"""Samples while training: the model is asked to go on from some prompts, and what it writes is kept.

Knows how to generate; does not know when a run ends or what else is asked each step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dougong.core import files, log
from dougong.core.every import Every
from dougong.infer.language import LanguageModel
from dougong.run.parts import Parts
from dougong.train.config import SamplesConfig
from dougong.train.state import State
from dougong.train.step import Report

_TEMPERATURE = 0.8


class Sampler:
    """Asked after each step; writes `samples/step-00000500.txt` when it is due.

    Args:
        config: When, and from which prompts.
        seed: The run's.
        parts: Gives the tokenizer.
        folder: Where the samples go.
        dtype: The type of matrix products.
    """

    def __init__(self, config: SamplesConfig, seed: int, parts: Parts, folder: Path, dtype: torch.dtype):
        self.config, self.seed, self.folder, self.dtype = config, seed, folder, dtype
        self.tokenizer, self.every = parts.data.tokenizer, Every(config.every)

    def maybe_run(self, state: State, report: Report) -> None:
        """Samples if it is due."""
        if not self.every.due(state.step, state.config.steps):
            return
        with state.shown():
            texts = self._texts(state)
        prompts = self.config.prompts
        whole = "\n\n".join(f"{prompt}{text}" for prompt, text in zip(prompts, texts, strict=True))
        files.write_whole(self.folder / f"step-{state.step:08d}.txt", whole + "\n")
        log.say(f"sample: {(prompts[0] + texts[0])[:200]!r}")

    def _texts(self, state: State) -> list[str]:
        language_model = LanguageModel(state.model, self.tokenizer)
        most = self.config.max_new_tokens
        options: dict[str, Any] = {"max_new_tokens": most, "temperature": _TEMPERATURE, "seed": self.seed}
        try:
            return list(language_model.generate(list(self.config.prompts), **options))
        finally:
            state.model.train()
