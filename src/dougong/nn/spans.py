"""Spans, as a model that gives each place a number as a beginning and one as an end has them (Devlin et al. 2019, 4.2).

Knows numbers over places; does not know what stands there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Spans(NamedTuple):
    """The likeliest span of each row.

    Attributes:
        scores: The logarithm of its probability: that of its beginning and that of its end added up.
        starts: Its first place.
        ends: Its last place.
    """

    scores: Float[Tensor, " batch"]
    starts: Int[Tensor, " batch"]
    ends: Int[Tensor, " batch"]


def log_probabilities(
    logits: Float[Tensor, "batch time 2"], allowed: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time 2"]:
    """Returns how likely each place is the beginning and the end, among those allowed; minus infinity at the others."""
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return logits.masked_fill(~allowed[..., None], float("-inf")).log_softmax(dim=1)


def best_spans(scores: Float[Tensor, "batch time 2"], allowed: Bool[Tensor, "batch time"], longest: int) -> Spans:
    """Returns the span of each row whose beginning and end have the greatest sum; of equals, the first that begins.

    Args:
        scores: Of each place as a beginning and as an end.
        allowed: Where a span may begin and end; a row without such a place has a score of minus infinity.
        longest: How many places a span has at most.
    """
    reach = min(longest, scores.shape[1])
    starts, ends = scores.masked_fill(~allowed[..., None], float("-inf")).unbind(-1)
    later = F.pad(ends, (0, reach - 1), value=float("-inf")).unfold(1, reach, 1)  # [batch time reach]
    best, offsets = later.max(-1)
    values, places = (starts + best).max(-1)
    return Spans(values, places, places + offsets.gather(1, places[:, None])[:, 0])
