"""Overlaps, coding, anchors and matching by hand; suppression equal to the plain loop over all boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dougong.nn import boxes as module
from dougong.nn.boxes import (
    BETWEEN,
    NOTHING,
    anchor_shapes,
    clip,
    decode,
    encode,
    grid_anchors,
    match,
    pairwise_iou,
    suppress,
    suppress_by_class,
)

SIDE = st.integers(0, 6)
BOX = st.tuples(st.integers(0, 8), st.integers(0, 8), SIDE, SIDE)
SCORE = st.sampled_from([0.1, 0.2, 0.5, 0.5, 0.9])
ANSWERS = st.lists(st.tuples(BOX, SCORE, st.integers(0, 2)), max_size=24)


def tensors(answers: list) -> tuple[Tensor, Tensor, Tensor]:
    """Returns boxes, scores and labels; sides may be 0, boxes and scores may be the same."""
    boxes = torch.tensor([[x, y, x + w, y + h] for (x, y, w, h), _, _ in answers]).reshape(-1, 4).float()
    scores = torch.tensor([score for _, score, _ in answers], dtype=torch.float32)
    return boxes, scores, torch.tensor([label for _, _, label in answers], dtype=torch.int64)


def plain_iou(one: list[float], other: list[float]) -> np.float32:
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = np.float32(wide * high)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / np.float32(sum(areas) - wide * high) if shared else np.float32(0)


def plain_suppression(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> list[int]:
    """Greedy suppression, box by box: the definition."""
    rest = sorted(range(len(scores)), key=lambda n: -scores[n].item())
    kept: list[int] = []
    for number in rest:
        rivals = [other for other in kept if labels[other] == labels[number]]
        overlaps = [plain_iou(boxes[other].tolist(), boxes[number].tolist()) for other in rivals]
        if not any(overlap > np.float32(threshold) for overlap in overlaps):
            kept.append(number)
    return kept


@given(ANSWERS, st.sampled_from([0.0, 0.3, 1 / 3, 0.5, 1.0]), st.sampled_from([1, 3, 1024]))
@settings(deadline=None, max_examples=300)
def test_suppression_is_the_plain_loop(answers: list, threshold: float, block: int) -> None:
    boxes, scores, labels = tensors(answers)
    same = torch.zeros_like(labels)
    assert suppress(boxes, scores, threshold, block).tolist() == plain_suppression(boxes, scores, same, threshold)
    found = suppress_by_class(boxes, scores, labels, threshold, block).tolist()
    assert found == plain_suppression(boxes, scores, labels, threshold)


def test_the_loop_notices_a_box_that_takes_away_though_it_was_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64)
    expected = plain_suppression(boxes, scores, labels, 0.3)
    assert expected == [0, 2] == suppress(boxes, scores, 0.3).tolist()
    monkeypatch.setattr(module, "_greedy", lambda takes_away, there: there & ~takes_away.any(dim=0))
    assert suppress(boxes, scores, 0.3).tolist() != expected


def test_a_chain_of_thousands_is_settled_exactly() -> None:
    left = torch.arange(3000) * 2.0
    boxes = torch.stack([left, torch.zeros_like(left), left + 5, torch.ones_like(left)], dim=1)
    kept = suppress(boxes, torch.linspace(1, 0, 3000), 0.3, block=512)  # each overlaps the next by 3/7
    assert kept.tolist() == list(range(0, 3000, 2))


def test_nothing_is_left_of_nothing() -> None:
    boxes, scores, labels = tensors([])
    assert suppress_by_class(boxes, scores, labels, 0.5).tolist() == suppress(boxes, scores, 0.5).tolist() == []


@given(st.lists(BOX, min_size=1, max_size=6), st.lists(BOX, min_size=1, max_size=6))
@settings(deadline=None)
def test_overlap_is_that_of_each_pair(ours: list, theirs: list) -> None:
    one, other = ([[x, y, x + w, y + h] for x, y, w, h in boxes] for boxes in (ours, theirs))
    found = pairwise_iou(torch.tensor(one).float(), torch.tensor(other).float())
    expected = np.array([[plain_iou(a, b) for b in other] for a in one])
    assert found.numpy() == pytest.approx(expected, rel=1e-6, abs=0)


def test_overlap_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [1, 1, 1, 1]])
    expected = [[1, 4 / 28, 0, 0], [4 / 28, 1, 4 / 28, 0], [0, 4 / 28, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(pairwise_iou(boxes, boxes), torch.tensor(expected))


def test_encoding_by_hand_and_back() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 20], [5, 5, 9, 11]])
    boxes = torch.tensor([[1.0, 2, 21, 12], [5, 5, 9, 11]])
    first = [(11 - 5) / 10, (7 - 10) / 20, math.log(20 / 10), math.log(10 / 20)]
    torch.testing.assert_close(encode(boxes, anchors), torch.tensor([first, [0.0] * 4]))
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes)
    assert not torch.allclose(decode(encode(boxes, anchors), anchors.flip(0)), boxes)


def test_a_box_grows_to_at_most_62_and_a_half_times_its_anchor() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 20]])
    left, top, right, low = decode(torch.tensor([[0.0, 0, 1000, 3]]), anchors)[0].tolist()
    assert right - left == pytest.approx(625)
    assert low - top == pytest.approx(20 * math.exp(3), rel=1e-5), "what is not too large is left as it is"


def test_boxes_are_cut_to_the_picture() -> None:
    boxes = torch.tensor([[-3.0, 2, 30, 40], [4, -5, 6, -2]])
    assert clip(boxes, 20, 25.5).tolist() == [[0, 2, 25.5, 20], [4, 0, 6, 0]]


def test_anchors_stand_row_by_row_with_all_shapes_at_each_place() -> None:
    shapes = anchor_shapes([4.9, 8], [0.25, 1.0])
    # Sizes are cut to whole pixels; for each ratio (height over width) every size.
    assert shapes == [(-4, -1, 4, 1), (-8, -2, 8, 2), (-2, -2, 2, 2), (-4, -4, 4, 4)]
    found = grid_anchors(torch.tensor(shapes), (2, 3), (16, 29))
    assert found.shape == (2 * 3 * 4, 4)
    centres = (found[:, :2] + found[:, 2:]) / 2
    assert centres[::4].tolist() == [[0, 0], [9, 0], [18, 0], [0, 8], [9, 8], [18, 8]]
    assert (found[:4] - 0).tolist() == [list(shape) for shape in shapes]


ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 22], [0, 0, 10, 40], [50, 50, 60, 60]])
EVERY = torch.tensor([True])


def test_matching_goes_by_the_two_thresholds() -> None:
    box = torch.tensor([[0.0, 0, 10, 10]])  # overlaps by 1, 10/22, 10/40 and 0
    assert match(box, ANCHORS, EVERY).tolist() == [0, BETWEEN, NOTHING, NOTHING]
    assert match(box, ANCHORS, EVERY, foreground=10 / 22).tolist() == [0, 0, NOTHING, NOTHING]
    assert match(box, ANCHORS, EVERY, background=0.5).tolist() == [0, NOTHING, NOTHING, NOTHING]


def test_every_box_gets_its_best_anchors_however_bad() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [59, 59, 90, 90]])
    both = torch.tensor([True, True])
    assert match(boxes, ANCHORS, both).tolist() == [0, BETWEEN, NOTHING, 1]
    twice = torch.cat([ANCHORS, ANCHORS[3:]])
    assert match(boxes, twice, both).tolist() == [0, BETWEEN, NOTHING, 1, 1], "all of the equally good"
    boxes[1] = torch.tensor([61.0, 61, 90, 90])
    assert match(boxes, ANCHORS, both).tolist() == [0, BETWEEN, NOTHING, NOTHING], "but none that it does not touch"


def test_what_fills_up_a_batch_is_matched_with_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 0, 0]])
    assert match(boxes, ANCHORS, torch.tensor([True, False, False])).tolist() == [0, BETWEEN, NOTHING, NOTHING]
    assert match(boxes, ANCHORS, torch.tensor([True, True, False])).tolist() == [0, BETWEEN, NOTHING, 1]
    assert match(boxes, ANCHORS, torch.tensor([False, False, False])).tolist() == [NOTHING] * 4
