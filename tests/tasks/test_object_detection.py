"""Object detection: the loss anchor by anchor, what is ignored, and average precision equal to that by brute force."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dougong.core.config import validate
from dougong.core.contracts import Batch
from dougong.core.errors import FileError, MissingExtra
from dougong.data.examples import AnnotatedImage
from dougong.models.retinanet import SMALL, RetinaNetConfig
from dougong.nn.boxes import encode, pairwise_iou
from dougong.nn.detection import Detections
from dougong.tasks.object_detection import ObjectDetectionConfig
from dougong.tasks.object_detection.figures import Picture, figures

MODEL = validate(RetinaNetConfig, SMALL["plain"])
NAMES = ["cat", "dog", "bird"]


class Data:
    def __init__(self) -> None:
        self.determines, self.labels = {"num_classes": 3}, NAMES


def made(**options: Any) -> Any:
    return validate(ObjectDetectionConfig, options).build(MODEL, Data())


def network() -> nn.Module:
    model = MODEL.build()
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    return model.double()


def image(boxes: list, labels: list[int], ignored: tuple[int, ...] = (), **changes: Any) -> AnnotatedImage:
    pixels = np.sin(np.arange(3 * 32 * 48, dtype=np.float32) * (1 + 0.1 * len(boxes))).reshape(3, 32, 48)
    values = {
        "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
        "labels": np.array(labels, dtype=np.int64),
        "ignored": np.isin(np.arange(len(labels)), ignored),
        "number": len(boxes),
        "scale": (0.5, 0.25),
        "size": (64, 192),
    }
    return AnnotatedImage(pixels, **{**values, **changes})


EXAMPLES = [
    image([[1, 2, 20, 18], [30, 4, 46, 30]], [0, 2]),
    image([], []),
    image([[5, 5, 25, 25], [6, 4, 24, 27], [30, 20, 44, 31]], [1, 1, 0], (1,)),
]


def batch() -> Batch:
    return made().collate(EXAMPLES, [7, 8, 9])


def changed(batch: Batch, **fields: Tensor) -> Batch:
    return Batch({**batch.fields, **fields}, batch.samples)


# Batches


def test_batch_has_room_for_the_objects_of_the_fullest_picture() -> None:
    found = batch()
    assert found["boxes"].shape == (3, 3, 4)
    assert found["labels"].tolist() == [[0, 2, -1], [-1, -1, -1], [1, 1, 0]]
    assert found["ignored"].tolist() == [[False] * 3, [False] * 3, [False, True, False]]
    assert found["boxes"][0, :2].tolist() == EXAMPLES[0].boxes.tolist()
    assert (found["scales"].tolist(), found["sizes"].tolist()) == ([[0.5, 0.25]] * 3, [[64, 192]] * 3)
    assert found["numbers"].tolist() == [2, 0, 3]
    assert all(part["boxes"].shape[1:] == (3, 4) for part in found.split(1)), "a microbatch keeps the room"
    assert made().collate(EXAMPLES[1:2], [3])["boxes"].shape == (1, 1, 4), "and some is left where there is no object"


def test_a_picture_of_another_size_is_refused() -> None:
    other = image([], [], size=(3, 3))
    other = AnnotatedImage(**{**vars(other), "pixels": other.pixels[:, :16]})
    with pytest.raises(
        FileError, match="sample 4 must be a picture of 3 channels, 32 x 48, .* but is 3 channels, 16 x 48"
    ):
        made().collate([other], [4])


# The loss


def loss_by_hand(outputs: Tensor, anchors: Tensor, picture: Batch) -> tuple[float, float, int]:
    """Returns a picture's loss of classes and boxes and its weight, by loops over anchors and classes."""
    boxes, labels, ignored = (picture[key][0] for key in ("boxes", "labels", "ignored"))
    boxes, labels = boxes[labels >= 0], labels[labels >= 0].tolist()
    overlaps = pairwise_iou(boxes, anchors)
    classes = regression = 0.0
    matched = 0
    for place, answer in enumerate(outputs.tolist()):
        column = overlaps[:, place]
        box = int(column.argmax()) if len(labels) else 0
        best = len(labels) > 0 and any(column[n] == overlaps[n].max() and column[n] > 0 for n in range(len(labels)))
        if len(labels) and (column[box] >= 0.5 or best):
            if ignored[box]:
                continue
            matched += 1
            wanted = encode(boxes[box : box + 1], anchors[place : place + 1])[0].tolist()
            regression += sum(abs(a - b) for a, b in zip(answer[3:], wanted, strict=True))
        elif len(labels) and column[box] >= 0.4:
            continue
        else:
            box = -1
        for number, logit in enumerate(answer[:3]):
            p = 1 / (1 + math.exp(-logit))
            if box >= 0 and labels[box] == number:
                classes -= 0.25 * (1 - p) ** 2 * math.log(p)
            else:
                classes -= 0.75 * p**2 * math.log(1 - p)
    return classes, regression, max(1, matched)


def test_loss_is_that_of_the_paper_anchor_by_anchor() -> None:
    model, task = network(), made()
    anchors = torch.cat(task.anchors(model))
    weights = []
    for picture in batch().split(1):
        found = task.loss(model, picture)
        classes, boxes, weight = loss_by_hand(task.outputs(model, picture)[0], anchors, picture)
        assert found.parts["classes"].item() == pytest.approx(classes, rel=1e-9)
        assert found.parts["boxes"].item() == pytest.approx(boxes, rel=1e-6)
        assert found.sum.item() == pytest.approx(classes + boxes, rel=1e-6)
        assert found.weight.item() == weight
        weights.append(weight)
    assert weights[1] == 1, "a picture without objects counts as one"
    assert min(weights[0], weights[2]) > 1
    whole = task.loss(model, batch())
    assert whole.weight.item() == sum(weights)
    torch.testing.assert_close(whole.sum, sum(task.loss(model, part).sum for part in batch().split(1)))


def test_what_is_ignored_counts_for_neither_side() -> None:
    model, task, picture = network(), made(), batch().split(1)[0]
    outputs, anchors = task.outputs(model, picture).detach(), task.anchors(model)
    ignoring = changed(picture, ignored=torch.tensor([[True, False, False]]))
    gradients = []
    for given in (picture, ignoring):
        answers = outputs.clone().requires_grad_()
        loss = task.loss_of(answers, anchors, given)
        loss.sum.backward()
        gradients.append(answers.grad[0])
    plain, silent = gradients
    without = changed(picture, labels=torch.tensor([[-1, 2, -1]]))
    background = task.loss_of(outputs, anchors, without)
    assert loss.weight == background.weight < task.loss_of(outputs, anchors, picture).weight
    quiet = ~silent.any(dim=1)
    assert quiet.any()
    assert plain[quiet].any(), "the same anchors learn from an object that is not ignored"
    assert loss.sum < background.sum, "nor are they told that there is nothing"


def test_boxes_lose_as_the_options_say() -> None:
    model, picture = network(), batch()
    plain, weighted, smooth = (made(**c).loss(model, picture) for c in ({}, {"box_weight": 2.5}, {"box_beta": 1.0}))
    assert weighted.parts["boxes"].item() == pytest.approx(2.5 * plain.parts["boxes"].item())
    assert weighted.parts["classes"] == plain.parts["classes"] == smooth.parts["classes"]
    assert smooth.parts["boxes"] < plain.parts["boxes"]
    assert weighted.sum.item() == pytest.approx(sum(part.item() for part in weighted.parts.values()))


OTHERS = {"score_threshold": 0.2, "nms_threshold": 0.05, "candidates": 2, "max_detections": 1}


@pytest.mark.parametrize("field", [name for name in ObjectDetectionConfig.model_fields if name != "name"])
def test_every_option_changes_the_loss_or_the_figures(field: str) -> None:
    model, found = network(), []
    for options in ({}, {field: OTHERS.get(field, 0.125)}):
        metrics = made(**{"score_threshold": 0.0, **options}).metrics()
        metrics.update(model, batch())
        found.append(metrics.compute() | {"kept": [picture.scores.tolist() for picture in metrics.pictures]})
    assert found[0] != found[1]


def test_room_for_more_objects_changes_nothing() -> None:
    model, task = network(), made()
    claims = list(task.equalities(batch()))
    assert len(claims) == 3
    for _, padded, (alone,) in claims:
        assert padded["labels"].shape[1] == 5 > alone["labels"].shape[1]
        torch.testing.assert_close(task.loss(model, padded).sum, task.loss(model, alone).sum, rtol=1e-12, atol=0)
    more = torch.tensor([0.0, 14.0, 12.0, 30.0]).where((padded["labels"] < 0)[..., None], padded["boxes"])
    loud = task.loss(model, changed(padded, labels=padded["labels"].clamp(min=0), boxes=more))
    assert task.loss(model, alone).sum != loud.sum


def test_half_precision_is_widened_before_the_loss() -> None:
    model, task = network().float(), made()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = task.loss(model, batch())
    assert found.sum.dtype == torch.float32
    torch.testing.assert_close(found.sum, task.loss(model, batch()).sum.detach(), rtol=0.05, atol=0)


# Figures


def average_precisions(
    pictures: list[Picture], label: int, threshold: float, levels: list[float], crowd: bool, most: int = 100
) -> float | None:
    """Returns the mean precision at levels of recall, by loops: greedy matching, best scores first.

    Args:
        crowd: Whether an overlap with an ignored object is a share of the detection alone.
    """
    records, objects = [], 0
    for picture in pictures:
        places = [n for n in np.argsort(picture.ignored, kind="stable") if picture.labels[n] == label]
        objects += sum(not picture.ignored[n] for n in places)
        answers = [n for n in np.argsort(-picture.scores, kind="stable") if picture.found_labels[n] == label][:most]
        taken: set[int] = set()
        for answer in answers:
            best, chosen = threshold, None
            for place in places:
                if place in taken or (chosen is not None and not picture.ignored[chosen] and picture.ignored[place]):
                    continue
                overlap = shared(picture.found[answer], picture.boxes[place], crowd and bool(picture.ignored[place]))
                if overlap >= best:
                    best, chosen = overlap, place
            if chosen is None:
                records.append((picture.scores[answer], False))
            elif not picture.ignored[chosen]:
                taken.add(chosen)
                records.append((picture.scores[answer], True))
    if not objects:
        return None
    hits = np.cumsum([hit for _, hit in sorted(records, key=lambda record: -record[0])])
    points = [(hit / objects, hit / (n + 1)) for n, hit in enumerate(hits)]
    return float(np.mean([max((p for r, p in points if r >= level), default=0.0) for level in levels]))


def shared(one: np.ndarray, other: np.ndarray, of_one: bool) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    area = float(np.prod(sides.clip(min=0)))
    sizes = [float(np.prod(box[2:] - box[:2])) for box in (one, other)]
    return area / (sizes[0] if of_one else sum(sizes) - area)


def mean_of(values: list[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def drawn(seed: int, count: int = 12, ignoring: float = 0.2) -> list[Picture]:
    """Returns pictures with objects and detections, many of them near an object, some near the same one."""
    draw = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        objects = int(draw.integers(0, 7))
        corner, size = draw.uniform(0, 80, (objects, 2)), draw.uniform(5, 60, (objects, 2))
        boxes, labels = np.concatenate([corner, corner + size], axis=1), draw.integers(0, 2, objects)
        near = draw.integers(0, max(objects, 1), 9 if objects else 0)
        found = np.concatenate([boxes[near] + draw.normal(0, 4, (len(near), 4)), [[3.0, 3.0, 40.0, 30.0]]])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        found_labels = np.append(np.where(draw.random(len(near)) < 0.8, labels[near], 1), 0)
        scores = draw.permutation(1000)[: len(found)] / 1000 + draw.random() * 1e-4
        numbers = (array.astype(np.float32) for array in (found, scores, boxes))
        found, scores, boxes = numbers
        ignored = draw.random(objects) < ignoring
        pictures.append(Picture(found, found_labels.astype(np.int64), scores, boxes, labels.astype(np.int64), ignored))
    return pictures


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ignoring", [0.0, 0.4])
def test_figures_are_average_precision_by_brute_force(seed: int, ignoring: float) -> None:
    pictures = drawn(seed, ignoring=ignoring)
    found = figures(pictures, NAMES, 100)
    levels = np.linspace(0, 1, 101).tolist()
    thresholds = [0.5 + 0.05 * number for number in range(10)]
    at = [mean_of([average_precisions(pictures, n, t, levels, crowd=True) for n in range(3)]) for t in thresholds]
    assert found["map"] == pytest.approx(np.mean(at), abs=1e-9)
    assert (found["map_50"], found["map_75"]) == pytest.approx((at[0], at[5]), abs=1e-9)
    old = [average_precisions(pictures, n, 0.5, [k / 10 for k in range(11)], crowd=False) for n in range(3)]
    assert found["map_voc2007"] == pytest.approx(mean_of(old), abs=1e-9)
    new = []
    for number in range(3):
        count = sum(int((~p.ignored & (p.labels == number)).sum()) for p in pictures)
        steps = [k / count for k in range(1, count + 1)] if count else []
        new.append(average_precisions(pictures, number, 0.5, steps, crowd=False))
    assert found["map_voc"] == pytest.approx(mean_of(new), abs=1e-9)
    assert (found["ap_cat"], found["ap_dog"]) == pytest.approx(new[:2], abs=1e-9)
    assert "ap_bird" not in found, "of a class that does not occur there is no figure"
    assert 0.1 < found["map_voc"] < 0.95
    assert len({round(found[key], 6) for key in ("map", "map_50", "map_75", "map_voc", "map_voc2007")}) == 5


def test_the_comparison_notices_another_precision() -> None:
    pictures = drawn(0)
    other = [Picture(**{**vars(p), "ignored": np.zeros_like(p.ignored)}) for p in pictures]
    assert abs(figures(pictures, NAMES, 100)["map_voc"] - figures(other, NAMES, 100)["map_voc"]) > 1e-3
    assert figures(pictures, NAMES, 2) != figures(pictures, NAMES, 100)


def one_picture(found: list, boxes: list, ignored: list[bool]) -> list[Picture]:
    count = len(found)
    return [
        Picture(
            np.array(found, dtype=np.float32).reshape(-1, 4),
            np.zeros(count, dtype=np.int64),
            np.linspace(0.9, 0.5, count, dtype=np.float32),
            np.array(boxes, dtype=np.float32),
            np.zeros(len(boxes), dtype=np.int64),
            np.array(ignored),
        )
    ]


def test_a_difficult_object_may_be_found_any_number_of_times() -> None:
    hard, plain = [0.0, 0, 50, 50], [60.0, 60, 90, 90]
    again = [[0.0, 0, 50, 48], [0.0, 0, 48, 50]]
    found = figures(one_picture([hard, *again, plain], [hard, plain], [True, False]), NAMES, 100)
    assert found["map_voc"] == found["map_voc2007"] == found["map_50"] == 1.0
    found = figures(one_picture([hard, *again, plain], [hard, plain], [False, False]), NAMES, 100)
    assert found["map_voc"] == pytest.approx((1 + 2 / 4) / 2)


def test_a_part_of_a_crowd_is_in_it_for_coco_and_not_for_voc() -> None:
    crowd, plain, part = [0.0, 0, 50, 50], [60.0, 60, 90, 90], [10.0, 10, 20, 20]
    found = figures(one_picture([part, plain], [crowd, plain], [True, False]), NAMES, 100)
    assert (found["map_50"], found["map_voc"]) == pytest.approx((1.0, 0.5))


def test_areas_are_those_of_the_file() -> None:
    sizes = {"small": 20, "medium": 60, "large": 150}
    for name, side in sizes.items():
        box = [1.0, 1, 1 + side, 1 + side]
        found = figures(one_picture([box], [box], [False]), NAMES, 100)
        assert {key for key in found if key in ("map_small", "map_medium", "map_large")} == {f"map_{name}"}
        assert found[f"map_{name}"] == found["map"] == pytest.approx(1.0)


def test_without_objects_there_are_no_figures() -> None:
    assert figures([], NAMES, 100) == {}
    assert figures(one_picture([[0, 0, 9, 9]], [[0, 0, 9, 9]], [True]), NAMES, 100) == {}
    nothing = figures(one_picture([], [[0, 0, 9, 9]], [False]), NAMES, 100)
    assert nothing["map"] == nothing["map_voc"] == nothing["recall"] == 0.0


class Knowing(nn.Module):
    """A detector that answers what it is told: for the right anchors the objects of the batch, nothing elsewhere."""

    def __init__(self, batch: Batch, model: nn.Module):
        super().__init__()
        self.anchors, every = model.anchors, torch.cat(model.anchors(32, 48))
        self.answers = torch.full((len(batch), len(every), 7), -9.0)
        self.answers[..., 3:] = 0.0
        for row, labels in enumerate(batch["labels"].tolist()):
            for place, label in enumerate(labels):
                if label >= 0:
                    box = batch["boxes"][row, place : place + 1]
                    anchor = int((every - box).abs().sum(dim=1).argmin())
                    self.answers[row, anchor, label] = 4.0
                    self.answers[row, anchor, 3:] = encode(box, every[anchor : anchor + 1])[0]

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.answers


def test_metrics_are_of_boxes_in_pixels_of_the_file() -> None:
    task, given = made(), batch()
    metrics = task.metrics()
    metrics.update(Knowing(given, network()), given)
    found = metrics.compute()
    assert next(iter(found)) == "loss"
    assert found["map_50"] == found["map_voc"] == found["ap_cat"] == 1.0
    first = metrics.pictures[0]
    assert sorted(first.found.round().tolist()) == [[4, 4, 80, 36], [120, 8, 184, 60]], "4 times across, 2 times down"
    assert first.boxes.tolist() == [[4, 4, 80, 36], [120, 8, 184, 60]]
    assert "map_medium" in found


def test_nothing_is_found_in_what_fills_a_picture_up() -> None:
    given = batch()
    narrow = changed(given, sizes=torch.tensor([[64, 100]] * 3))  # of which 25 pixels are left at a scale of 0.25
    found = made().detect(Knowing(given, network()), narrow)
    assert max(picture.boxes[:, 2].max().item() for picture in found if len(picture.boxes)) == 25.0


def test_at_most_so_many_detections_of_a_picture_are_kept() -> None:
    model = network()
    for most in (3, 7):
        metrics = made(score_threshold=0.0, max_detections=most).metrics()
        for _ in range(2):
            metrics.update(model, batch())
        assert [len(picture.scores) for picture in metrics.pictures] == [most] * 6


def test_a_person_reads_names_scores_and_boxes() -> None:
    box = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    found = Detections(box, torch.tensor([1]), torch.tensor([0.5]))
    nothing = Detections(box[:0], torch.tensor([], dtype=torch.int64), torch.tensor([]))
    read = [{"label": "dog", "score": 0.5, "box": [1.0, 2.0, 3.0, 4.0]}]
    assert made().decode([found, nothing]) == [read, []]
    assert validate(ObjectDetectionConfig, {}).build(MODEL).decode([found])[0][0]["label"] == 1


def test_without_its_library_measuring_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingExtra, match=r"pip install 'dougong\[detection\]'"):
        made().metrics()


def test_uneven_changes_what_microbatches_weigh() -> None:
    model, task = network(), made()
    plain = task.example_batch(6, "cpu")
    weights = [[task.loss(model, part).weight.item() for part in b.split(1)] for b in (plain, task.uneven(plain))]
    assert weights[0] != weights[1]
    assert weights[1][0] == 1
    assert task.chance() is None
