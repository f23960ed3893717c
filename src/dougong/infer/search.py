"""Beam search over anything that gives logits for the next token. Knows no model, no cache and no text.

The results equal those of `transformers`' `generate(num_beams=..., early_stopping=False)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dougong.infer.config import GenerateConfig
from dougong.infer.sampling import penalize_repetition

Advance = Callable[[list[int], list[int]], Tensor]
"""Given each new beam's parent (its row before) and its token: the logits [beams vocab] that follow."""


@dataclass(frozen=True)
class Hypothesis:
    """A text found by the search.

    Attributes:
        tokens: What was generated, with the end-of-text token if there was one.
        score: The sum of the log-probabilities in nats; over the number of tokens to the power of the length penalty
            once it is finished.
        reason: Why it ended (`length`, `stop`, `eot`), or None while it is open.
    """

    tokens: list[int]
    score: float
    reason: str | None = None


def beam_search(
    logits: Float[Tensor, "1 vocab"],
    advance: Advance,
    ended: Callable[[Sequence[int]], str | None],
    config: GenerateConfig,
    seen: Bool[Tensor, "1 vocab"] | None = None,
) -> Hypothesis:
    """Returns the finished text of the highest score.

    Each step takes the best `2 num_beams` continuations of the open beams. Those among the first `num_beams` that end
    are finished; of the others the best `num_beams` stay open. The search ends when `num_beams` texts are finished
    and the best open one, divided by its present length to the power of the penalty, is no better than the worst of
    them. (For a positive penalty a longer text could still overtake: this is `early_stopping=False`, not "never".)

    Args:
        logits: What follows the prompt.
        advance: Goes on from there; called with at most `num_beams` rows.
        ended: Tells why a text ends here, or None; it must end every text of `max_new_tokens`.
        seen: Which tokens occurred in the prompt; needed if there is a repetition penalty.
    """
    beams, finished = [Hypothesis([], 0.0)], list[Hypothesis]()
    while True:
        scores = _log_probabilities(logits, seen, config)
        scores = scores + torch.tensor([beam.score for beam in beams], device=scores.device)[:, None]
        parents, candidates = _best(scores, beams, 2 * config.num_beams)
        length = len(candidates[0].tokens) ** config.length_penalty
        open_parents, open_beams = [], []
        for rank, (parent, beam) in enumerate(zip(parents, candidates, strict=True)):
            reason = ended(beam.tokens)
            if reason is None:
                open_parents.append(parent)
                open_beams.append(beam)
            elif rank < config.num_beams:
                finished.append(Hypothesis(beam.tokens, beam.score / length, reason))
        finished = sorted(finished, key=lambda text: -text.score)[: config.num_beams]
        if not open_beams:
            return finished[0]
        if len(finished) == config.num_beams and open_beams[0].score / length <= finished[-1].score:
            return finished[0]
        beams, parents = open_beams[: config.num_beams], open_parents[: config.num_beams]
        last = [beam.tokens[-1] for beam in beams]
        if seen is not None:
            seen = seen[parents]
            seen[range(len(last)), last] = True
        logits = advance(parents, last)


def _log_probabilities(logits: Tensor, seen: Tensor | None, config: GenerateConfig) -> Tensor:
    scores = logits.float().log_softmax(-1)
    return scores if seen is None else penalize_repetition(scores, seen, config.repetition_penalty)


def _best(scores: Tensor, beams: list[Hypothesis], count: int) -> tuple[list[int], list[Hypothesis]]:
    """Returns the best continuations over all beams, best first: the row each comes from, and what it now is."""
    best = scores.flatten().topk(min(count, scores.numel()))
    parents, tokens = [], []
    for place in best.indices.tolist():
        parents.append(place // scores.shape[1])
        tokens.append(place % scores.shape[1])
    texts = [
        Hypothesis([*beams[parent].tokens, token], score)
        for parent, token, score in zip(parents, tokens, best.values.tolist(), strict=True)
    ]
    return parents, texts
