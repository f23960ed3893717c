"""Image classification: one class for each picture.

Knows pictures of one size and models that turn them into logits; knows no concrete model or dataset.

A picture may come as several views of it, as the papers of VGG and ResNet test: the probabilities of all are averaged.
One may have a second mixed in (Zhang et al. 2018), whose class has the rest of the share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dougong.core.contracts import Batch, Loss
from dougong.core.errors import FileError
from dougong.data.examples import LabelledImage
from dougong.tasks._classes import Classes, ClassMetrics, example_labels, known, known_classes, uneven
from dougong.tasks._fit import require_fit
from dougong.tasks.image_classification import ImageClassificationConfig


class ImageClassification:
    """The objective. A batch has `images` and `labels`, and where pictures are mixed `other_labels` and `shares`.

    Attributes:
        item: What a loss's weight counts, as a word for a person.
        pipeline_tag: What the hub calls models of this kind.
        shape: Channels, height and width, in pixels, of the pictures that the model takes.
    """

    item = "examples"
    pipeline_tag = "image-classification"

    def __init__(self, config: ImageClassificationConfig, model: Any, data: Any = None):
        require_fit(model, data, config.name, LabelledImage)
        filled = model.filled() if hasattr(model, "filled") else model
        self.shape: tuple[int, int, int] = tuple(known(filled, None, "image_shape", config.name))
        number = known_classes(model, data, config.name)
        self.classes = Classes(number, config.label_smoothing, getattr(data, "labels", None))

    def collate(self, examples: Sequence[LabelledImage], samples: Sequence[int]) -> Batch:
        """Returns a batch of pictures of one size.

        Raises:
            FileError: A picture has another size than the model takes.
        """
        for example, sample in zip(examples, samples, strict=True):
            if example.pixels.shape[-3:] != self.shape:
                raise FileError(
                    f"sample {sample} must be a picture of {_written(self.shape)}, as the model takes it, but is "
                    f"{_written(example.pixels.shape)}. Set the model's input to the size of the pictures."
                )
        images = torch.from_numpy(np.stack([example.pixels for example in examples]))
        fields = {"images": images, "labels": torch.tensor([example.label for example in examples], dtype=torch.int64)}
        if any(example.other is not None for example in examples):
            others = [example.label if example.other is None else example.other for example in examples]
            fields["other_labels"] = torch.tensor(others, dtype=torch.int64)
            fields["shares"] = torch.tensor([example.share for example in examples], dtype=torch.float32)
        return Batch(fields, torch.tensor(samples, dtype=torch.int64))

    def logits(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Returns what the model says of each picture: of several views the logarithm of their mean probability."""
        images = batch["images"]
        if images.ndim == 4:
            return model(images, noise=batch.noise)
        count = images.shape[1]
        noise = None if batch.noise is None else batch.noise.repeat_interleave(count)
        said = model(images.flatten(0, 1), noise=noise).float().log_softmax(-1)
        return said.unflatten(0, (-1, count)).logsumexp(1) - math.log(count)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Returns the summed cross entropy over the pictures that count."""
        return self.classes.loss(self.logits(model, batch), batch)

    def metrics(self) -> ClassMetrics:
        """Returns a fresh accumulator."""
        return ClassMetrics(self.logits, self.classes)

    def decode(self, outputs: Float[Tensor, "batch classes"]) -> list[str] | list[int]:
        """Returns the name of each picture's likeliest class."""
        return self.classes.decode(outputs)

    @property
    def labels(self) -> Sequence[str] | None:
        """The names of the classes, if they are known."""
        return self.classes.names

    def answers(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        """Returns each picture's likeliest classes with their probabilities."""
        return self.classes.answers(self.logits(model, batch.with_noise(None)))

    def example_batch(self, batch_size: int, device: torch.device | str = "meta") -> Batch:
        """Returns a batch of the right shapes and types, each picture another pattern of stripes."""
        count = batch_size * math.prod(self.shape)
        images = (torch.arange(count, device=device, dtype=torch.float32).reshape(batch_size, *self.shape) * 0.7).sin()
        return Batch(
            {"images": images, "labels": example_labels(batch_size, self.classes.number, device)},
            torch.arange(batch_size, device=device),
        )

    def chance(self) -> float:
        """Returns the loss of one who holds every class for equally likely: the logarithm of their number."""
        return math.log(self.classes.number)

    def uneven(self, batch: Batch) -> Batch:
        """Returns the batch with some pictures left out, so that its microbatches have unequal weights."""
        return uneven(batch)


def _written(shape: Sequence[int]) -> str:
    """Returns `3 channels, 32 x 32`."""
    return f"{shape[0]} channel{'s' if shape[0] != 1 else ''}, " + " x ".join(map(str, shape[1:]))
