"""From logits to the next token: pure functions, equal to the logits processors of `transformers`.

Every draw is a function of (seed, row, step), where `row` is the prompt's own number: batch mates change nothing.
Knows no model, no cache and no text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dougong.core import seed as seeds
from dougong.infer.config import GenerateConfig


def choose(
    logits: Float[Tensor, "batch vocab"],
    config: GenerateConfig,
    rows: Sequence[int],
    step: int,
    seen: Bool[Tensor, "batch vocab"] | None = None,
) -> Int[Tensor, " batch"]:
    """Returns each row's next token, greedily or by one draw from the filtered distribution.

    Args:
        rows: The number of each row's prompt, which with `step` and the config's seed decides its draw.
        step: How many tokens the rows have generated already.
        seen: Which tokens occurred in each row; needed if there is a repetition penalty.
    """
    if seen is not None:
        logits = penalize_repetition(logits, seen, config.repetition_penalty)
    if config.greedy:
        return logits.argmax(-1)
    return draw(filter_logits(logits.float(), config), uniforms(config.seed, rows, step))


def filter_logits(logits: Float[Tensor, "batch vocab"], config: GenerateConfig) -> Float[Tensor, "batch vocab"]:
    """Returns logits divided by the temperature, with -inf where top-k, top-p and min-p (in this order) forbid."""
    if config.temperature != 1:
        logits = logits / config.temperature
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = keep_top_p(logits, config.top_p)
    if config.min_p is not None:
        logits = keep_min_p(logits, config.min_p)
    return logits


def penalize_repetition(
    logits: Float[Tensor, "batch vocab"], seen: Bool[Tensor, "batch vocab"], penalty: float
) -> Float[Tensor, "batch vocab"]:
    """Makes tokens that occurred already less likely (Keskar et al. 2019, CTRL, section 4.1; negatives multiplied)."""
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Float[Tensor, "batch vocab"], k: int) -> Float[Tensor, "batch vocab"]:
    """Forbids all tokens less likely than the k-th (Fan et al. 2018, section 5.1); ties with the k-th stay."""
    least = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """Keeps the fewest most likely tokens whose probabilities sum to at least p (Holtzman et al. 2020, equation 2)."""
    ascending, order = logits.sort(dim=-1)
    forbidden = ascending.softmax(-1).cumsum(-1) <= 1 - p
    forbidden[:, -1] = False
    return logits.masked_fill(forbidden.scatter(1, order, forbidden), -torch.inf)


def keep_min_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """Forbids tokens less than p times as probable as the most likely one (Nguyen et al. 2024, section 3)."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)


def uniforms(seed: int, rows: Sequence[int], step: int) -> Float[Tensor, " batch"]:
    """Returns one number in [0, 1) per row, a function of (seed, row, step) with 52 random bits."""
    return torch.tensor([(seeds.key(seed, "sample", row, step) >> 11) / 2**52 for row in rows], dtype=torch.float64)


def draw(logits: Float[Tensor, "batch vocab"], uniform: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Returns the token at which the cumulative distribution passes `uniform` (one draw per row, by inversion).

    Sums in fp64: in fp32 the tail of a large vocabulary would be lost. (Apple's GPUs have no fp64.)
    """
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulative = logits.softmax(-1).cumsum(-1, dtype=wide)
    passed = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, passed, right=True)[:, 0]
