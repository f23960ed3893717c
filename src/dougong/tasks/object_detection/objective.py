"""Object detection: which anchor is to find which object, and what it costs not to.

Knows pictures of one size and models that answer for anchors; knows no concrete model or dataset. How detections are
judged, see `figures.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dougong.core.contracts import Batch, Loss
from dougong.core.errors import FileError
from dougong.data.examples import AnnotatedImage
from dougong.nn.boxes import BETWEEN, encode, match
from dougong.nn.detection import Choice, Detections, box_loss, detect, sigmoid_focal_loss
from dougong.nn.metrics import Mean
from dougong.tasks._classes import known, known_classes
from dougong.tasks._fit import require_fit
from dougong.tasks.object_detection import ObjectDetectionConfig
from dougong.tasks.object_detection.figures import Picture, figures, needed

ABSENT = -1
Equality = tuple[str, Batch, Sequence[Batch]]
Outputs = Float[Tensor, "batch anchor outputs"]


class ObjectDetection:
    """The objective.

    A batch has `images`; of each picture's objects `boxes`, `labels` (-1 where there is no further one) and `ignored`;
    and of each picture its `numbers`, `scales` and `sizes`, as `AnnotatedImage` has them. The loss of a picture is the
    sum over its anchors, its weight the number of anchors that are to find an object, at least 1.

    Attributes:
        item: What goes in, as a word for a person.
        counts_examples: That it is these that are counted, as a loss's weight counts anchors.
        pipeline_tag: What the hub calls models of this kind.
        shape: Channels, height and width, in pixels, of the pictures that the model takes.
        names: The names of the classes, if they are known.
        choice: Which of the model's answers are taken for objects.
    """

    item = "pictures"
    counts_examples = True
    pipeline_tag = "object-detection"

    def __init__(self, config: ObjectDetectionConfig, model: Any, data: Any = None):
        require_fit(model, data, config.name, AnnotatedImage)
        self.config = config
        filled = model.filled() if hasattr(model, "filled") else model
        self.shape: tuple[int, int, int] = tuple(known(filled, None, "image_shape", config.name))
        self.number = known_classes(model, data, config.name)
        self.names: Sequence[str] | None = getattr(data, "labels", None)
        self.choice = Choice(config.score_threshold, config.candidates, config.nms_threshold, config.max_detections)

    def collate(self, examples: Sequence[AnnotatedImage], samples: Sequence[int]) -> Batch:
        """Returns a batch of pictures of one size, each with as much room for objects as the fullest needs.

        Raises:
            FileError: A picture has another size than the model takes.
        """
        for example, sample in zip(examples, samples, strict=True):
            if example.pixels.shape != self.shape:
                raise FileError(
                    f"sample {sample} must be a picture of {_written(self.shape)}, as the model takes it, but is "
                    f"{_written(example.pixels.shape)}. Set the model's image_shape to the size of the pictures."
                )
        most = max(1, *(len(example.labels) for example in examples))
        boxes = np.zeros((len(examples), most, 4), dtype=np.float32)
        labels = np.full((len(examples), most), ABSENT, dtype=np.int64)
        ignored = np.zeros((len(examples), most), dtype=bool)
        for row, example in enumerate(examples):
            count = len(example.labels)
            boxes[row, :count], labels[row, :count] = example.boxes, example.labels
            ignored[row, :count] = example.ignored
        fields = {
            "images": torch.from_numpy(np.stack([example.pixels for example in examples])),
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(labels),
            "ignored": torch.from_numpy(ignored),
            "numbers": torch.tensor([example.number for example in examples], dtype=torch.int64),
            "scales": torch.tensor([example.scale for example in examples], dtype=torch.float32),
            "sizes": torch.tensor([example.size for example in examples], dtype=torch.int64),
        }
        return Batch(fields, torch.tensor(samples, dtype=torch.int64))

    def outputs(self, model: nn.Module, batch: Batch) -> Outputs:
        """Returns what the model answers for every anchor of each picture, in at least fp32."""
        found = model(batch["images"], noise=batch.noise)
        return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Returns the sum over pictures, and as its weight the number of matched anchors, at least 1 a picture."""
        return self.loss_of(self.outputs(model, batch), self.anchors(model), batch)

    def anchors(self, model: Any) -> list[Float[Tensor, "_ 4"]]:
        """Returns the anchors of each level, which are those of every picture."""
        return model.anchors(*self.shape[1:])

    def loss_of(self, outputs: Outputs, anchors: Sequence[Float[Tensor, "_ 4"]], batch: Batch) -> Loss:
        """Returns the loss of a model's answers; each picture's is a function of that picture alone."""
        every = torch.cat(list(anchors))
        sums = [
            self._picture(answers, every, *objects)
            for answers, *objects in zip(outputs, batch["boxes"], batch["labels"], batch["ignored"], strict=True)
        ]
        classes, boxes, weight = (torch.stack(parts).sum() for parts in zip(*sums, strict=True))
        return Loss(classes + boxes, weight, {"classes": classes.detach(), "boxes": boxes.detach()})

    def _picture(
        self,
        answers: Float[Tensor, "anchor outputs"],
        anchors: Float[Tensor, "anchor 4"],
        boxes: Float[Tensor, "box 4"],
        labels: Int[Tensor, " box"],
        ignored: Bool[Tensor, " box"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Int[Tensor, ""]]:
        """Returns the loss of the classes, the weighted loss of the boxes, and how many anchors are matched.

        No shape depends on the data: what does not count is computed, and left out of the sums.
        """
        config = self.config
        matches = match(boxes, anchors, labels != ABSENT)
        which = matches.clamp(min=0)
        left_out = (matches == BETWEEN) | ((matches >= 0) & ignored[which])
        found = (matches >= 0) & ~left_out
        classes = torch.arange(answers.shape[1] - 4, device=answers.device)
        targets = found[:, None] & (labels[which][:, None] == classes)
        focal = sigmoid_focal_loss(answers[:, :-4], targets, ~left_out, config.focal_alpha, config.focal_gamma)
        wanted = encode(torch.where(found[:, None], boxes[which], anchors), anchors).to(answers.dtype)
        regression = box_loss(answers[:, -4:], wanted, found, config.box_beta)
        return focal, config.box_weight * regression, found.sum().clamp(min=1)

    def detect(self, model: nn.Module, batch: Batch) -> list[Detections]:
        """Returns the objects that a model finds in each picture, in pixels of what the model takes."""
        return self.detections(self.outputs(model, batch.with_noise(None)), self.anchors(model), batch)

    def detections(self, outputs: Outputs, anchors: Sequence[Float[Tensor, "_ 4"]], batch: Batch) -> list[Detections]:
        """Returns the objects in a model's answers; none reaches beyond its picture into what only fills it up."""
        extents = (batch["sizes"] * batch["scales"]).tolist()
        limits = [(min(h, self.shape[1]), min(w, self.shape[2])) for h, w in extents]
        return [detect(answers, anchors, size, self.choice) for answers, size in zip(outputs, limits, strict=True)]

    def metrics(self) -> DetectionMetrics:
        """Returns a fresh accumulator.

        Raises:
            MissingExtra: The library that computes the figures is not installed.
        """
        needed()
        return DetectionMetrics(self)

    def decode(self, outputs: Sequence[Detections]) -> list[list[dict[str, Any]]]:
        """Returns what a person reads of each picture's objects: the name of the class, how sure it is, and where."""
        return [
            [
                {"label": self._name(label), "score": score, "box": box}
                for box, label, score in zip(*(part.tolist() for part in found), strict=True)
            ]
            for found in outputs
        ]

    @property
    def labels(self) -> Sequence[str] | None:
        """The names of the classes, if they are known."""
        return self.names

    def answers(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        """Returns the objects in each picture, the surest first, their boxes in pixels of the picture's file."""
        found = []
        for row, objects in enumerate(self.detect(model, batch)):
            scale = batch["scales"][row].flip(0).repeat(2)
            found.append(Detections(objects.boxes / scale, objects.labels, objects.scores))
        return [{"objects": objects} for objects in self.decode(found)]

    def _name(self, label: int) -> str | int:
        return label if self.names is None or label >= len(self.names) else self.names[label]

    def example_batch(self, batch_size: int, device: torch.device | str = "meta") -> Batch:
        """Returns a batch of the right shapes and types: striped pictures with one, two or three objects in each."""
        _, height, width = self.shape
        count = batch_size * math.prod(self.shape)
        images = (torch.arange(count, device=device, dtype=torch.float32).reshape(batch_size, *self.shape) * 0.7).sin()
        corners = [[_example_box(row, place, height, width) for place in range(3)] for row in range(batch_size)]
        labels = [
            [(row + place) % self.number if place <= row % 3 else ABSENT for place in range(3)]
            for row in range(batch_size)
        ]
        rows = torch.arange(batch_size, device=device)
        fields = {
            "images": images,
            "boxes": torch.tensor(corners, dtype=torch.float32, device=device),
            "labels": torch.tensor(labels, device=device),
            "ignored": torch.zeros(batch_size, 3, dtype=torch.bool, device=device),
            "numbers": rows,
            "scales": torch.ones(batch_size, 2, device=device),
            "sizes": torch.tensor([[height, width]] * batch_size, device=device),
        }
        return Batch(fields, rows)

    def chance(self) -> None:
        """Returns nothing: what it costs to know nothing depends on how many anchors the objects are matched with."""
        return

    def uneven(self, batch: Batch) -> Batch:
        """Returns the batch with the objects of some pictures ignored, so that its microbatches weigh unlike."""
        ignored = batch["ignored"].clone()
        ignored[: len(ignored) // 2 : 2] = True
        return replace(batch, fields={**batch.fields, "ignored": ignored})

    def equalities(self, batch: Batch) -> Iterator[Equality]:
        """Yields each picture with more room for objects than its batch has, and with no more than it needs."""
        for row in batch.split(1):
            count = max(1, int((row["labels"] != ABSENT).sum()))
            roomy = {"boxes": (0, 0, 0, 2), "labels": (0, 2), "ignored": (0, 2)}
            fills = {"labels": ABSENT}
            more = {key: F.pad(row[key], pad, value=fills.get(key, 0)) for key, pad in roomy.items()}
            less = {key: row[key][:, :count] for key in roomy}
            padded, alone = (replace(row, fields={**row.fields, **change}) for change in (more, less))
            yield "a picture in a batch with fuller ones equals the picture alone (the -1 of `labels`)", padded, [alone]


class DetectionMetrics:
    """The loss of a detector, and how good its detections are. Keeps at most `max_detections` of them a picture."""

    def __init__(self, task: ObjectDetection):
        self.task, self.mean, self.pictures = task, Mean(), list[Picture]()

    def update(self, model: nn.Module, batch: Batch) -> None:
        """Adds the batch's pictures."""
        task = self.task
        outputs, anchors = task.outputs(model, batch.with_noise(None)), task.anchors(model)
        loss = task.loss_of(outputs, anchors, batch)
        self.mean.add(loss.sum.double().item(), float(loss.weight.item()))
        for row, found in enumerate(task.detections(outputs, anchors, batch)):
            there = batch["labels"][row] != ABSENT
            scale = batch["scales"][row].flip(0).repeat(2)
            self.pictures.append(
                Picture(
                    _numbers(found.boxes / scale),
                    found.labels.cpu().numpy(),
                    _numbers(found.scores),
                    _numbers(batch["boxes"][row][there] / scale),
                    batch["labels"][row][there].cpu().numpy(),
                    batch["ignored"][row][there].cpu().numpy(),
                )
            )

    def compute(self) -> dict[str, float]:
        """Returns the loss, and the figures of all pictures; see `figures`."""
        names = self.task.names or [str(number) for number in range(self.task.number)]
        return {"loss": self.mean.value, **figures(self.pictures, names, self.task.choice.detections)}


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).numpy()


def _example_box(row: int, place: int, height: int, width: int) -> list[float]:
    """Returns a box that lies elsewhere in every picture, and is of another size at every place in it."""
    side, shift = 0.3 + 0.2 * place, 0.05 * ((row * 3 + place * 5) % 7)
    left, top = shift * width, 0.7 * shift * height
    return [left, top, min(left + side * width, width), min(top + 0.8 * side * height, height)]


def _written(shape: Sequence[int]) -> str:
    """Returns `3 channels, 32 x 32`."""
    return f"{shape[0]} channel{'s' if shape[0] != 1 else ''}, " + " x ".join(map(str, shape[1:]))
