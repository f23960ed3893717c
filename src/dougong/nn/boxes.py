"""Boxes in a picture: how much they overlap, how one is written relative to another, anchors, which belong together.

A box is its left, top, right and lower edge, in pixels; its width is `right - left`, without the pixel that VOC's tools
add. Knows no logits and no losses (see `detection.py`), and no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NOTHING = -1
BETWEEN = -2
LARGEST_STEP = math.log(1000 / 16)


def area(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    """Returns each box's area, in pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


@torch.no_grad()
def pairwise_iou(boxes: Float[Tensor, "box 4"], others: Float[Tensor, "other 4"]) -> Float[Tensor, "box other"]:
    """Returns the area that each box shares with each other one, over the area of both; 0 where neither has any."""
    shared = _shared(boxes, others, 0).mul_(_shared(boxes, others, 1))
    both = area(boxes)[:, None] + area(others)[None, :]
    return shared / both.sub_(shared).clamp_(min=torch.finfo(boxes.dtype).tiny)


def _shared(boxes: Tensor, others: Tensor, axis: int) -> Tensor:
    """Returns how long the part is that each two boxes share, across (0) or down (1)."""
    end = torch.minimum(boxes[:, None, axis + 2], others[None, :, axis + 2])
    return end.sub_(torch.maximum(boxes[:, None, axis], others[None, :, axis])).clamp_(min=0)


def encode(boxes: Float[Tensor, "box 4"], anchors: Float[Tensor, "box 4"]) -> Float[Tensor, "box 4"]:
    """Returns each box relative to its anchor: `(x - xa)/wa, (y - ya)/ha, log(w/wa), log(h/ha)`, x and y centres.

    Girshick et al. 2014, appendix C, eq. 6 to 9, without weights.
    """
    place, size = _centred(boxes)
    from_place, from_size = _centred(anchors)
    return torch.cat([(place - from_place) / from_size, (size / from_size).log()], dim=-1)


def decode(deltas: Float[Tensor, "box 4"], anchors: Float[Tensor, "box 4"]) -> Float[Tensor, "box 4"]:
    """Returns the boxes that `encode` wrote; none is more than 62.5 times as wide or high as its anchor."""
    from_place, from_size = _centred(anchors.to(deltas.dtype))
    place = deltas[:, :2] * from_size + from_place
    half = 0.5 * (deltas[:, 2:].clamp(max=LARGEST_STEP).exp() * from_size)
    return torch.cat([place - half, place + half], dim=-1)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the centres (x, y) and the sizes (width, height)."""
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + 0.5 * size, size


def clip(boxes: Float[Tensor, "*batch 4"], height: float | int, width: float | int) -> Float[Tensor, "*batch 4"]:
    """Returns the part of each box that lies in a picture of so many pixels."""
    across, down = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([across, down], dim=-1).flatten(-2)


def anchor_shapes(sizes: Sequence[float | int], ratios: Sequence[float | int]) -> list[tuple[int, int, int, int]]:
    """Returns the anchors of one place, around it, in whole pixels: for each ratio every size.

    Args:
        sizes: The side of a square of the anchor's area, in pixels; cut to whole pixels.
        ratios: Height over width.
    """
    # By numpy in fp32, whose numbers are there wherever tensors have none: on the meta device, and while planning.
    whole = np.array([int(size) for size in sizes], dtype=np.float32)
    tall = np.sqrt(np.array(list(ratios), dtype=np.float32))
    wide = ((np.float32(1) / tall)[:, None] * whole).flatten()
    high = (tall[:, None] * whole).flatten()
    corners = np.round(np.stack([-wide, -high, wide, high], axis=1) / np.float32(2))
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in corners.tolist()]


def grid_anchors(
    shapes: Int[Tensor, "anchor 4"], grid: tuple[int, int], picture: tuple[int, int]
) -> Float[Tensor, "place 4"]:
    """Returns the anchors at every place of a feature map: row by row from the top left, at each place all shapes.

    Args:
        shapes: The anchors around a place, in whole pixels.
        grid: Rows and columns of the map.
        picture: Height and width of the picture, in pixels; places are `height // rows` and `width // columns` apart.
    """
    down, across = (
        torch.arange(count, device=shapes.device) * (length // count)
        for count, length in zip(grid, picture, strict=True)
    )
    y, x = down[:, None].expand(grid), across[None, :].expand(grid)
    places = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (places + shapes).reshape(-1, 4).float()


def match(
    boxes: Float[Tensor, "box 4"],
    anchors: Float[Tensor, "anchor 4"],
    present: Bool[Tensor, " box"],
    foreground: float = 0.5,
    background: float = 0.4,
) -> Int[Tensor, " anchor"]:
    """Returns for each anchor the box that it is to find: the one it overlaps most.

    Lin et al. 2017b, section 4: an overlap of `foreground` or more makes a match, less than `background` is none
    (`NOTHING`), and what lies between counts for neither (`BETWEEN`). But the anchors that overlap some box more than
    all others do are matched, however little they do, so that hardly a box is left without (Ren et al. 2015, section
    3.1.2, (i)).

    Args:
        present: Which of the boxes are there; the others only fill up a batch.
    """
    overlaps = torch.where(present[:, None], pairwise_iou(boxes, anchors), -1.0)
    most, which = overlaps.max(dim=0)
    best = overlaps.amax(dim=1, keepdim=True)
    forced = ((overlaps == best) & (best > 0)).any(dim=0)
    weak = torch.where(most < background, NOTHING, BETWEEN)
    return torch.where(forced | (most >= foreground), which, weak)


def suppress(
    boxes: Float[Tensor, "box 4"], scores: Float[Tensor, " box"], threshold: float, block: int = 1024
) -> Int[Tensor, " kept"]:
    """Returns which boxes are left, best first, when each takes away all worse ones that overlap it by more.

    Greedy non-maximum suppression; of equal scores the first counts as better.

    Args:
        threshold: The largest overlap (intersection over union) that is left.
        block: How many boxes are settled at a time; see `_left`.
    """
    order = scores.argsort(descending=True, stable=True)
    return order[_left(boxes[order], threshold, block)]


def suppress_by_class(
    boxes: Float[Tensor, "box 4"],
    scores: Float[Tensor, " box"],
    labels: Int[Tensor, " box"],
    threshold: float,
    block: int = 1024,
) -> Int[Tensor, " kept"]:
    """Returns what `suppress` leaves where a box takes away none of another class."""
    order = scores.argsort(descending=True, stable=True)
    boxes, labels = boxes[order], labels[order]
    left = torch.zeros_like(labels, dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().squeeze(1)
        left[members] = _left(boxes[members], threshold, block)
    return order[left]


def _left(boxes: Tensor, threshold: float, block: int) -> Tensor:
    """Returns which boxes are left, of boxes that stand best first.

    Exact, and vectorised: a block of boxes is compared with all that were left before it, and then settled within
    itself. Needs memory for `block` times as many overlaps as boxes are left.
    """
    left = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for start in range(0, len(boxes), block):
        part = boxes[start : start + block]
        taken = (pairwise_iou(boxes[:start][left[:start]], part) > threshold).any(dim=0)
        within = (pairwise_iou(part, part) > threshold).triu_(diagonal=1)
        left[start : start + block] = _greedy(within, ~taken)
    return left


def _greedy(takes_away: Bool[Tensor, "box box"], there: Bool[Tensor, " box"]) -> Bool[Tensor, " box"]:
    """Returns who is left when each, from the first on, takes away those it does, unless it was itself taken away.

    "Left is who is taken away by none that is left" has one solution, as only earlier boxes take away later ones; each
    round of inserting it into itself settles at least one box more, and mostly a few rounds settle all.

    Args:
        there: Who was not taken away before.
    """
    left = there
    while True:
        again = there & ~(takes_away & left[:, None]).any(dim=0)
        if torch.equal(again, left):
            return left
        left = again
