"""How good detections are: COCO's figures and VOC's, computed by the kept library `faster_coco_eval`.

COCO (Lin et al. 2014): precision averaged over 101 levels of recall, 10 thresholds of overlap from 0.5 to 0.95, and
all classes that occur; an ignored object is a crowd, in which any number of detections may lie. VOC (Everingham et al.
2010, section 4.2): the overlap is at least 0.5, and precision is averaged over 11 levels of recall (2007) or over all
that are reached (from 2010 on); an ignored object is a difficult one, and what is found of it counts for neither side.

Two things are the library's and not the VOC tools': a detection whose best object is taken by a surer one may take
another that it overlaps enough, and a box is as wide as `right - left`, without one pixel more. Knows arrays in pixels
of the files; knows no tensor and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dougong.core.errors import MissingExtra

# The areas, in pixels of the file, that COCO calls so.
AREAS = {"all": [0.0, 1e10], "small": [0.0, 32.0**2], "medium": [32.0**2, 96.0**2], "large": [96.0**2, 1e10]}
_OUTSIDE = -1.0  # an area in no range: the library ignores such an object, but measures its overlap as usual
_LEVELS_2007 = [number / 10 for number in range(11)]


@dataclass(frozen=True)
class Picture:
    """What was found in one picture, and what is there; boxes in pixels of the file.

    Attributes:
        found: The boxes that were found.
        found_labels: The class of each.
        scores: How sure each is.
        boxes: The boxes of the objects that are there.
        labels: The class of each.
        ignored: Which of them count for neither side.
    """

    found: Float[np.ndarray, "detection 4"]
    found_labels: Int[np.ndarray, " detection"]
    scores: Float[np.ndarray, " detection"]
    boxes: Float[np.ndarray, "object 4"]
    labels: Int[np.ndarray, " object"]
    ignored: Bool[np.ndarray, " object"]


def needed() -> Any:
    """Imports the library.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import faster_coco_eval
    except ImportError as error:
        raise MissingExtra("measuring object detection", "detection") from error
    return faster_coco_eval


def figures(pictures: Sequence[Picture], names: Sequence[str], most: int) -> dict[str, float]:
    """Returns the figures by name, between 0 and 1; without those that nothing in the pictures defines.

    `map` is COCO's, over overlaps from 0.5 to 0.95; `map_50` and `map_75` at one overlap; `map_small`, `map_medium` and
    `map_large` for objects of an area; `recall` the share of the objects that is found, over the same overlaps;
    `map_voc2007` and `map_voc` VOC's; `ap_NAME` each class's part of `map_voc`.

    Args:
        names: Of the classes.
        most: How many detections of a picture are looked at; COCO's own figures are with 100.
    """
    if not any((~picture.ignored).any() for picture in pictures):
        return {}
    return {**_coco(pictures, names, most), **_voc(pictures, names, most)}


def _coco(pictures: Sequence[Picture], names: Sequence[str], most: int) -> dict[str, float]:
    objects = [
        _object(number, picture, place, int(picture.ignored[place]))
        for number, picture in enumerate(pictures)
        for place in range(len(picture.labels))
    ]
    found = _evaluated(pictures, names, objects, {"maxDets": [most], **_ranges(AREAS)})
    precision = found["precision"][..., 0]  # [overlap, recall, class, area]
    parts = {
        "map": precision[:, :, :, 0],
        "map_50": precision[0, :, :, 0],
        "map_75": precision[5, :, :, 0],
        **{f"map_{area}": precision[:, :, :, place] for place, area in enumerate(AREAS) if place},
        "recall": found["recall"][:, :, 0, 0],
    }
    return {name: float(part[part > -1].mean()) for name, part in parts.items() if (part > -1).any()}


def _voc(pictures: Sequence[Picture], names: Sequence[str], most: int) -> dict[str, float]:
    """Returns VOC's figures: the library's precision at the levels of recall that VOC averages over.

    With n objects of a class recall rises in steps of 1/n, so that the area under its curve is the mean over k/n.
    """
    objects = [item for number, picture in enumerate(pictures) for item in _difficult(number, picture)]
    counts = np.zeros(len(names), dtype=np.int64)
    for picture in pictures:
        counts += np.bincount(picture.labels[~picture.ignored], minlength=len(names))
    own = {number: np.arange(1, count + 1) / count for number, count in enumerate(counts.tolist()) if count}
    levels = np.unique(np.concatenate([np.array(_LEVELS_2007), *own.values()]))
    options = {"maxDets": [most], "iouThrs": np.array([0.5]), "recThrs": levels, **_ranges({"all": AREAS["all"]})}
    precision = _evaluated(pictures, names, objects, options)["precision"][0, :, :, 0, 0]  # [recall, class]
    precisions = {number: precision[np.searchsorted(levels, at), number].mean() for number, at in own.items()}
    old = precision[np.searchsorted(levels, _LEVELS_2007)][:, list(own)]
    return {
        "map_voc2007": float(old.mean()),
        "map_voc": float(np.mean(list(precisions.values()))),
        **{f"ap_{names[number]}": float(value) for number, value in precisions.items()},
    }


def _difficult(number: int, picture: Picture) -> list[dict[str, Any]]:
    """Returns the objects of a picture; an ignored one as often as it might be found, as one is taken but once."""
    found = []
    for place, ignored in enumerate(picture.ignored.tolist()):
        times = int((picture.found_labels == picture.labels[place]).sum()) if ignored else 1
        item = _object(number, picture, place, 0)
        found += [dict(item, area=_OUTSIDE if ignored else item["area"]) for _ in range(times)]
    return found


def _object(number: int, picture: Picture, place: int, crowd: int) -> dict[str, Any]:
    """Returns an object as the library wants it; pictures and objects are numbered from 1 there."""
    left, top, right, low = (float(edge) for edge in picture.boxes[place])
    sides = right - left, low - top
    label = int(picture.labels[place]) + 1
    extent = {"bbox": [left, top, *sides], "area": sides[0] * sides[1]}
    return {"image_id": number + 1, "category_id": label, "iscrowd": crowd, **extent}


def _ranges(areas: dict[str, list[float]]) -> dict[str, Any]:
    return {"areaRng": list(areas.values()), "areaRngLbl": list(areas)}


def _evaluated(
    pictures: Sequence[Picture], names: Sequence[str], objects: list[dict[str, Any]], options: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Returns the library's precision [overlap, recall, class, area, most] and recall; -1 where there is no object."""
    library = needed()
    truth = library.COCO()
    truth.dataset = {
        "images": [{"id": number + 1} for number in range(len(pictures))],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(names)],
        "annotations": [dict(item, id=number + 1) for number, item in enumerate(objects)],
    }
    truth.createIndex()
    evaluation = library.COCOeval_faster(truth, truth.loadRes(_detections(pictures)), "bbox")
    for name, value in options.items():
        setattr(evaluation.params, name, value)
    evaluation.evaluate()
    evaluation.accumulate()
    return {name: np.asarray(evaluation.eval[name]) for name in ("precision", "recall")}


def _detections(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    found = []
    for number, picture in enumerate(pictures):
        corners = picture.found.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        answers = zip(boxes, picture.found_labels.tolist(), picture.scores.tolist(), strict=True)
        found += [
            {"image_id": number + 1, "category_id": label + 1, "bbox": box, "score": score, "segmentation": []}
            for box, label, score in answers
        ]
    return found
