"""What a detector of objects learns by, and how its outputs become detections.

Knows logits, boxes relative to anchors, and classes by number; knows no model and no batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dougong.nn.boxes import clip, decode, suppress_by_class


def sigmoid_focal_loss(
    logits: Float[Tensor, "place classes"],
    targets: Bool[Tensor, "place classes"],
    counts: Bool[Tensor, " place"],
    alpha: float | int = 0.25,
    gamma: float | int = 2.0,
) -> Float[Tensor, ""]:
    """Returns the sum of `-alpha_t (1 - p_t)^gamma log p_t` over the classes of all places that count.

    Lin et al. 2017b, eq. 5: p_t is the probability given to what is true, alpha_t is alpha for the classes that are
    there and 1 - alpha for those that are not. From logarithms alone, so that no logit is too large.
    """
    signed = torch.where(targets, logits, -logits)
    weight = torch.where(targets, alpha, 1 - alpha) * (gamma * F.logsigmoid(-signed)).exp()
    return torch.where(counts[:, None], -weight * F.logsigmoid(signed), 0.0).sum()


def box_loss(
    found: Float[Tensor, "place 4"], wanted: Float[Tensor, "place 4"], counts: Bool[Tensor, " place"], beta: float | int
) -> Float[Tensor, ""]:
    """Returns the sum of the smooth L1 losses (Girshick 2015, eq. 3) of all places that count.

    Args:
        beta: Up to which difference the loss is a parabola, `d^2 / (2 beta)`; beyond it is `|d| - beta / 2`. 0: L1.
    """
    each = F.smooth_l1_loss(found, wanted, reduction="none", beta=float(beta))
    return torch.where(counts[:, None], each, 0.0).sum()


class Detections(NamedTuple):
    """The objects found in one picture, the surest first.

    Attributes:
        boxes: Left, top, right and lower edge, in pixels of what the model took.
        labels: The number of each one's class.
        scores: How sure each one is, from 0 to 1.
    """

    boxes: Float[Tensor, "object 4"]
    labels: Int[Tensor, " object"]
    scores: Float[Tensor, " object"]


@dataclass(frozen=True)
class Choice:
    """Which of a detector's many answers are taken.

    Attributes:
        score: Only what has a higher score than this.
        candidates: At most so many of each level, before overlaps are looked at.
        overlap: The largest intersection over union of two of one class.
        detections: At most so many of a picture, in the end.
    """

    score: float
    candidates: int
    overlap: float
    detections: int


@torch.no_grad()
def detect(
    outputs: Float[Tensor, "anchor outputs"],
    anchors: Sequence[Float[Tensor, "_ 4"]],
    size: tuple[float | int, float | int],
    choice: Choice,
) -> Detections:
    """Returns the objects that a detector found in one picture (Lin et al. 2017b, section 4, "Inference").

    Args:
        outputs: For each anchor the logits of all classes, and then its box relative to it.
        anchors: Those of each level, one level after another.
        size: Height and width of the picture, in pixels; boxes are cut to it.
    """
    outputs = outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
    parts = outputs.split([len(level) for level in anchors])
    levels = [_candidates(part, level, choice) for part, level in zip(parts, anchors, strict=True)]
    boxes, labels, scores = (torch.cat(pieces) for pieces in zip(*levels, strict=True))
    boxes = clip(boxes, *size)
    kept = suppress_by_class(boxes, scores, labels, choice.overlap)[: choice.detections]
    return Detections(boxes[kept], labels[kept], scores[kept])


def _candidates(outputs: Tensor, anchors: Tensor, choice: Choice) -> tuple[Tensor, Tensor, Tensor]:
    """Returns boxes, classes and scores of the best answers of one level; an anchor may give several classes."""
    classes = outputs.shape[1] - 4
    scores = outputs[:, :classes].sigmoid().flatten()
    high = (scores > choice.score).nonzero().squeeze(1)
    high = high[scores[high].argsort(descending=True, stable=True)[: choice.candidates]]
    which = high // classes
    return decode(outputs[which, classes:], anchors[which]), high % classes, scores[high]
