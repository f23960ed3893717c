"""The losses of a detector against their formulas, and its choice of detections by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.nn.boxes import encode
from dougong.nn.detection import Choice, Detections, box_loss, detect, sigmoid_focal_loss

LOGITS = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
TARGETS = torch.arange(120).reshape(40, 3) % 7 == 0
EVERY = torch.ones(40, dtype=torch.bool)
KEEP = Choice(score=0.05, candidates=1000, overlap=0.5, detections=100)


def focal_by_formula(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Lin et al. 2017b, eq. 5, as it is printed."""
    p = torch.sigmoid(logits)
    p_t = torch.where(targets, p, 1 - p)
    alpha_t = torch.where(targets, alpha, 1 - alpha)
    return (-alpha_t * (1 - p_t) ** gamma * p_t.log()).sum()


@pytest.mark.parametrize("alpha", [0.25, 0.9])
@pytest.mark.parametrize("gamma", [0, 0.5, 2.0])
def test_focal_loss_is_the_formula_with_its_gradient(alpha: float, gamma: float) -> None:
    ours, theirs = (LOGITS.clone().requires_grad_() for _ in range(2))
    found = sigmoid_focal_loss(ours, TARGETS, EVERY, alpha, gamma)
    expected = focal_by_formula(theirs, TARGETS, alpha, gamma)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    assert not torch.isclose(expected, focal_by_formula(LOGITS, TARGETS, alpha, gamma + 0.1))


def test_without_focus_it_is_half_the_cross_entropy() -> None:
    expected = F.binary_cross_entropy_with_logits(LOGITS, TARGETS.double(), reduction="sum") / 2
    torch.testing.assert_close(sigmoid_focal_loss(LOGITS, TARGETS, EVERY, 0.5, 0), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_stays_finite_where_the_formula_does_not(gamma: float) -> None:
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0]], requires_grad=True)
    targets = torch.tensor([[True, True], [False, False]])
    loss = sigmoid_focal_loss(logits, targets, torch.tensor([True, True]), 0.25, gamma)
    loss.backward()
    assert loss.item() == pytest.approx(300 * (0.25 + 0.75))
    assert logits.grad.isfinite().all()
    assert not focal_by_formula(logits, targets, 0.25, gamma).isfinite()


def test_what_does_not_count_costs_nothing() -> None:
    counts = torch.arange(40) % 3 > 0
    logits = LOGITS.clone().requires_grad_()
    found = sigmoid_focal_loss(logits, TARGETS, counts)
    torch.testing.assert_close(found, sigmoid_focal_loss(LOGITS[counts], TARGETS[counts], EVERY[counts]))
    found.backward()
    assert not logits.grad[~counts].any()
    assert logits.grad[counts].all()
    assert found != sigmoid_focal_loss(LOGITS, TARGETS, EVERY)


def test_box_loss_by_hand() -> None:
    found = torch.tensor([[0.0, 0.1, -0.5, 3.0], [9.0, 9.0, 9.0, 9.0]])
    wanted, counts = torch.zeros(2, 4), torch.tensor([True, False])
    assert box_loss(found, wanted, counts, 0.0).item() == pytest.approx(3.6)
    smooth = 0.1**2 / 0.4 + (0.5 - 0.1) + (3 - 0.1)
    assert box_loss(found, wanted, counts, 0.2).item() == pytest.approx(smooth)
    assert box_loss(found, wanted, ~counts, 0).item() == pytest.approx(36)


def answers(boxes: list, scores: list, anchors: Tensor) -> Tensor:
    """Returns the outputs of a detector that finds such boxes with such scores of each class."""
    return torch.cat([torch.tensor(scores).logit(), encode(torch.tensor(boxes), anchors)], dim=1)


ANCHORS = torch.tensor([[0.0, 0, 10, 10], [2, 2, 12, 12], [20, 20, 50, 50], [21, 21, 50, 50]])
BOXES = [[0.0, 0, 10, 10], [1.0, 0, 10, 10], [20.0, 20, 60, 50], [20.0, 20, 60, 50]]
SCORES = [[0.6, 0.01], [0.9, 0.01], [0.01, 0.8], [0.3, 0.2]]


def found_with(sizes: tuple[int, ...] = (2, 2), size: tuple[float, float] = (60, 60), **changes: float) -> Detections:
    choice = Choice(**{**vars(KEEP), **changes})
    return detect(answers(BOXES, SCORES, ANCHORS), ANCHORS.split(list(sizes)), size, choice)


def test_detections_by_hand() -> None:
    found = found_with()
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8, 0.3]))
    assert found.labels.tolist() == [0, 1, 0]
    # The first box is taken away by the second, the second class of the last one by the third.
    torch.testing.assert_close(found.boxes, torch.tensor([BOXES[1], BOXES[2], BOXES[3]]))


def test_each_threshold_decides() -> None:
    assert found_with(score=0.35).labels.tolist() == [0, 1]
    assert found_with(overlap=0.95).scores.tolist() == pytest.approx([0.9, 0.8, 0.6, 0.3])
    assert found_with(detections=1).labels.tolist() == [0]
    assert found_with(score=0.95).boxes.shape == (0, 4)


def test_the_candidates_are_the_best_of_each_level() -> None:
    assert found_with(candidates=1).scores.tolist() == pytest.approx([0.9, 0.8])
    assert found_with((4,), candidates=1).scores.tolist() == pytest.approx([0.9])
    # Overlaps are looked at afterwards: of the first level the better box alone was a candidate.
    assert found_with((4,), candidates=3).scores.tolist() == pytest.approx([0.9, 0.8])


def test_boxes_end_where_the_picture_does() -> None:
    assert found_with(size=(40, 45.5)).boxes[1].tolist() == pytest.approx([20, 20, 45.5, 40])


def test_half_precision_is_widened_before_boxes_are_made() -> None:
    found = detect(answers(BOXES, SCORES, ANCHORS).bfloat16(), [ANCHORS], (60, 60), KEEP)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert math.isclose(found.scores[0].item(), 0.9, abs_tol=0.01)
