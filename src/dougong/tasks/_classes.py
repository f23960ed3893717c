"""What all tasks that name a class share: the loss of logits, its figures, and how a class is read.

Knows logits and labels; does not know what is classified, nor how the model is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dougong.core.contracts import Batch, Loss
from dougong.core.errors import UsageError
from dougong.nn.losses import IGNORED, class_cross_entropy
from dougong.nn.metrics import Classification

Logits = Callable[[nn.Module, Batch], Float[Tensor, "batch classes"]]


@dataclass(frozen=True)
class Classes:
    """The classes of a task.

    Attributes:
        number: How many there are.
        label_smoothing: Share of the true class's probability that is spread over all.
        names: The name of each, if they are known.
    """

    number: int
    label_smoothing: float
    names: Sequence[str] | None = None

    def loss(self, logits: Float[Tensor, "batch classes"], batch: Batch) -> Loss:
        """Returns the summed cross entropy over the examples that count."""
        mixed = batch.get("other_labels"), batch.get("shares")
        found = class_cross_entropy(logits, batch["labels"], self.label_smoothing, *mixed)
        return Loss(found.sum, found.weight, {"nll": found.nll} if self.label_smoothing else {})

    def answers(self, logits: Float[Tensor, "batch classes"], most: int = 5) -> list[dict[str, Any]]:
        """Returns the likeliest class of each example with its probability, and the `most` likeliest."""
        probabilities, numbers = logits.float().softmax(-1).topk(min(most, self.number))
        rows = zip(probabilities.tolist(), numbers.tolist(), strict=True)
        found = [[{"label": self._name(n), "probability": p} for p, n in zip(*row, strict=True)] for row in rows]
        return [{**likeliest[0], "likeliest": likeliest} for likeliest in found]

    def _name(self, number: int) -> str | int:
        return number if self.names is None or number >= len(self.names) else self.names[number]

    def decode(self, outputs: Float[Tensor, "batch classes"]) -> list[str] | list[int]:
        """Returns the likeliest class of each example: its name, or its number where there are no names."""
        found = outputs.argmax(-1).tolist()
        return found if self.names is None else [self.names[number] for number in found]


class ClassMetrics:
    """Loss, accuracy, F1 and calibration of a classifier.

    Args:
        logits: Calls the model.
        classes: The classes.
    """

    def __init__(self, logits: Logits, classes: Classes):
        self.logits, self.classes, self.counts = logits, classes, Classification(classes.number)

    def update(self, model: nn.Module, batch: Batch) -> None:
        """Adds the batch's examples that count."""
        kept = batch["labels"] != IGNORED
        logits, labels = self.logits(model, batch.with_noise(None))[kept], batch["labels"][kept]
        nats = class_cross_entropy(logits, labels).sum
        ranks = (logits > logits.gather(-1, labels[:, None])).sum(-1)
        confidences, predicted = logits.float().softmax(-1).max(-1)
        figures = (tensor.tolist() for tensor in (predicted, labels, ranks, confidences))
        self.counts.add(nats.double().item(), *figures)

    def compute(self) -> dict[str, float]:
        """Returns the figures."""
        return self.counts.compute()

    def details(self) -> dict[str, Any]:
        """Returns the figures of each class, and which classes were taken for which, the most frequent first."""
        names = self.classes.names or [str(number) for number in range(self.classes.number)]
        return {
            "classes": {names[number]: row for number, row in self.counts.by_class().items()},
            "confusions": [
                {"is": names[label], "taken for": names[said], "examples": number}
                for label, said, number in self.counts.confusions()
            ],
        }


def uneven(batch: Batch) -> Batch:
    """Returns the batch with every second example of its first half not counting, so that its pieces weigh unlike."""
    labels = batch["labels"].clone()
    labels[: len(labels) // 2 : 2] = IGNORED
    return replace(batch, fields={**batch.fields, "labels": labels})


def known(model: Any, data: Any, name: str, task: str) -> Any:
    """Returns what the data or the model's config gives.

    Raises:
        UsageError: Neither does.
    """
    found = getattr(data, "determines", {}).get(name) or getattr(model, name, None)
    if found is None:
        raise UsageError(f"model.{name} must be known for the task {task}, but is absent. Set it.")
    return found


def known_classes(model: Any, data: Any, task: str) -> int:
    """Returns the number of classes.

    Raises:
        UsageError: Neither the data nor the model gives it, or the model's head has fewer.
    """
    number, there = known(model, data, "num_classes", task), getattr(model, "num_outputs", None)
    if there is not None and there < number:
        raise UsageError(f"the model's head must have a number for each of the {number} classes, but has {there}.")
    return number


def example_labels(batch_size: int, number: int, device: torch.device | str) -> Tensor:
    """Returns labels 0, 1, 2, ... over again."""
    return torch.arange(batch_size, device=device) % number
