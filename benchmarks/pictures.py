"""What `benchmarks/vision.py` lets take turns: ResNets of ours and of `transformers`, on the same made-up pictures.

Each function here is the body of a process (see `turns.py`). Knows models and trainers; knows no ratios.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.turns import Ticker
from dougong.core import log
from dougong.core.contracts import Batch
from dougong.data.examples import LabelledImage
from dougong.models.resnet import VARIANTS, ResNetConfig
from dougong.nn.normed import fold
from dougong.tasks.image_classification import ImageClassificationConfig
from dougong.train.config import SgdConfig, TrainConfig
from dougong.train.loop import Job, fit

CLASSES, SIDE, POOL = 1000, 224, 64
FOREVER = 1_000_000


def pictures(count: int) -> tuple[np.ndarray, list[int]]:
    """Returns so many pictures of noise, normalised, and a label for each."""
    source = np.random.default_rng(0)
    pixels = source.standard_normal((count, 3, SIDE, SIDE), dtype=np.float32)
    return pixels, source.integers(0, CLASSES, count).tolist()


class Collated:
    """Batches put together from single pictures when they are asked for, as the other side's loader does."""

    def __init__(self, task: Any, size: int):
        pixels, labels = pictures(POOL)
        self.examples = [LabelledImage(one, label) for one, label in zip(pixels, labels, strict=True)]
        self.task, self.size = task, size

    def __getitem__(self, step: int) -> Batch:
        numbers = range(step * self.size, (step + 1) * self.size)
        batch: Batch = self.task.collate([self.examples[number % POOL] for number in numbers], numbers)
        return batch


def resnet(variant: str = "resnet50") -> Any:
    """Returns our network with random weights."""
    model = ResNetConfig(image_shape=(3, SIDE, SIDE), num_classes=CLASSES, **VARIANTS[variant]).build()
    model.init_weights(0)  # type: ignore[operator]
    return model


def dougong_training(tick: Ticker, batch: int, compiled: bool, precision: str = "auto") -> None:
    """Trains by `fit`, as a recipe of ResNets says: SGD with momentum, and the precision that `auto` finds."""
    model = resnet()
    task = ImageClassificationConfig().build(model.config)
    optimizer = SgdConfig(lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    values = {"steps": FOREVER, "batch_size": batch, "compile": compiled, "precision": precision}
    config = TrainConfig(optimizer=optimizer, **values)
    with tempfile.TemporaryDirectory() as folder, log.listening(lambda _: None):
        fit(Job(config, model, task, Collated(task, batch), Path(folder), observers=[lambda _: tick()]))


def trainer_training(tick: Ticker, batch: int, channels_last: bool, arguments: dict[str, Any]) -> None:
    """Trains by `transformers.Trainer`, its defaults changed only by `arguments`."""
    import transformers

    transformers.logging.set_verbosity_error()
    pixels, labels = pictures(POOL)
    data = [{"pixel_values": torch.from_numpy(one), "labels": label} for one, label in zip(pixels, labels, strict=True)]

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            tick()

    torch.manual_seed(0)
    model: Any = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=CLASSES))
    model = model.to(memory_format=torch.channels_last) if channels_last else model
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            max_steps=FOREVER,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            report_to="none",
            **arguments,
        )
        transformers.Trainer(model, settings, train_dataset=data, callbacks=[Clock()]).train()  # type: ignore[arg-type]


@torch.inference_mode()
def dougong_inference(tick: Ticker, batch: int, dtype: torch.dtype) -> None:
    """Computes logits by our network with its norms folded."""
    model = resnet().eval()
    fold(model)
    model = model.to(dtype=dtype, memory_format=torch.channels_last)
    images = torch.from_numpy(pictures(batch)[0])
    while True:
        model(images).float()
        tick()


@torch.inference_mode()
def transformers_inference(tick: Ticker, batch: int) -> None:
    """Computes logits by the network of `transformers`, as it is loaded."""
    import transformers

    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=CLASSES)).eval()
    images = torch.from_numpy(pictures(batch)[0])
    while True:
        model(pixel_values=images)
        tick()


@torch.inference_mode()
def folding_changes() -> dict[str, float]:
    """Returns the largest difference between logits with norms folded and not, in fp32, and the largest logit.

    The statistics of the norms are those of two training passes: folded at their first values they would change little.
    """
    model = resnet()
    images = torch.from_numpy(pictures(8)[0])
    for _ in range(2):
        model.train()(images)
    plain = model.eval()(images)
    folded = fold(model)
    found = model(images)
    return {
        "norms folded": folded,
        "largest difference": (plain - found).abs().max().item(),
        "largest logit": plain.abs().max().item(),
    }
