"""Image classification: views averaged, pictures mixed, and the figures by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dougong.core.config import validate
from dougong.core.contracts import Batch
from dougong.core.errors import FileError, UsageError
from dougong.data.examples import AnnotatedImage, LabelledImage, LabelledText
from dougong.models.resnet import SMALL, ResNetConfig
from dougong.models.retinanet import SMALL as DETECTOR
from dougong.models.retinanet import RetinaNetConfig
from dougong.tasks.image_classification import ImageClassificationConfig
from dougong.tasks.object_detection import ObjectDetectionConfig

SHAPE = (3, 4, 5)
NUMBERS = np.zeros(0, dtype=np.int64)
MODEL: Any = SimpleNamespace(image_shape=SHAPE, num_classes=7)


class Data:
    def __init__(self, labels: list[str] | None = None):
        self.determines, self.labels = {"num_classes": 7}, labels


class Said(nn.Module):
    """A model whose logits are a fixed linear map of the picture, by which many classes are likely."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.weight = nn.Parameter(torch.randn(math.prod(SHAPE), 7).double() / 3)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        return images.double().flatten(1) @ self.weight


def made(labels: list[str] | None = None, **options: Any) -> Any:
    return validate(ImageClassificationConfig, options).build(MODEL, Data(labels))


def picture(number: int, *views: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(*views, *SHAPE)).astype(np.float32)


def batch(*examples: LabelledImage, **options: Any) -> Batch:
    return made(**options).collate(list(examples), range(len(examples)))


PLAIN = [LabelledImage(picture(number), number % 7) for number in range(9)]


# Views


def test_views_are_averaged_as_probabilities() -> None:
    several = [LabelledImage(picture(number, 4), number) for number in range(3)]
    model, task, found = Said(), made(), batch(*several)
    assert found["images"].shape == (3, 4, *SHAPE)
    logits = task.logits(model, found)
    for row, example in enumerate(several):
        mean = model(torch.from_numpy(example.pixels)).softmax(-1).mean(0)
        torch.testing.assert_close(logits[row].double(), mean.log(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(3), atol=1e-6, rtol=0)


def test_the_mean_of_logits_would_be_another_answer() -> None:
    """The control: views must differ enough for the comparison to mean something."""
    example, model = LabelledImage(picture(1, 4), 1), Said()
    logits = made().logits(model, batch(example))[0]
    wrong = model(torch.from_numpy(example.pixels)).mean(0).log_softmax(-1)
    assert (logits.double() - wrong).abs().max() > 0.05


def test_equal_views_are_one_view() -> None:
    one = picture(2)
    model, task = Said(), made()
    alone = task.logits(model, batch(LabelledImage(one, 2))).log_softmax(-1)
    five = task.logits(model, batch(LabelledImage(np.stack([one] * 5), 2)))
    torch.testing.assert_close(five.double(), alone, atol=1e-6, rtol=1e-6)


# Mixed


def test_loss_of_mixed_pictures_is_the_weighted_sum() -> None:
    examples = [
        LabelledImage(picture(1), 2, 5, 0.3),
        LabelledImage(picture(2), 0),
        LabelledImage(picture(3), 1, 1, 0.6),
    ]
    model, task, found = Said(), made(), batch(*examples)
    assert found["other_labels"].tolist() == [5, 0, 1]
    assert found["shares"].tolist() == pytest.approx([0.3, 1.0, 0.6])
    nll = -model(found["images"]).log_softmax(-1)
    wanted = 0.3 * nll[0, 2] + 0.7 * nll[0, 5] + nll[1, 0] + nll[2, 1]
    loss = task.loss(model, found)
    torch.testing.assert_close(loss.sum, wanted, atol=1e-6, rtol=1e-6)
    assert loss.weight.item() == 3
    first_alone = nll[0, 2] + nll[1, 0] + nll[2, 1]
    assert (loss.sum - first_alone).abs() > 0.1, "the control: the second class must matter"


def test_label_smoothing_and_mixing_go_together() -> None:
    example, model = LabelledImage(picture(1), 2, 5, 0.3), Said()
    log_p = model(torch.from_numpy(example.pixels)[None]).log_softmax(-1)[0]
    target = torch.full((7,), 0.1 / 7, dtype=torch.float64)
    target[2] += 0.9 * 0.3
    target[5] += 0.9 * 0.7
    loss = made(label_smoothing=0.1).loss(model, batch(example))
    torch.testing.assert_close(loss.sum, -(target * log_p).sum(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(loss.parts["nll"], -(0.3 * log_p[2] + 0.7 * log_p[5]).detach(), atol=1e-6, rtol=1e-6)


def test_pictures_that_are_not_mixed_have_no_second_class() -> None:
    found = batch(*PLAIN)
    assert set(found.fields) == {"images", "labels"}
    loss = made().loss(Said(), found)
    nll = nn.functional.cross_entropy(Said()(found["images"]), found["labels"], reduction="sum")
    torch.testing.assert_close(loss.sum, nll)


# Figures


def figures(*batches: Batch) -> tuple[dict[str, float], dict[str, Any]]:
    metrics, model = made(labels=[f"class {n}" for n in range(7)]).metrics(), Said()
    with torch.inference_mode():
        for each in batches:
            metrics.update(model, each)
    return metrics.compute(), metrics.details()


def test_figures_are_those_by_hand() -> None:
    examples = [LabelledImage(picture(number), number * number % 7) for number in range(60)]
    found, details = figures(batch(*examples[:25]), batch(*examples[25:]))
    p = Said()(torch.from_numpy(np.stack([e.pixels for e in examples]))).softmax(-1).detach().numpy()
    labels = np.array([e.label for e in examples])
    right, sure = p.argmax(1) == labels, p.max(1)
    assert found["accuracy"] == pytest.approx(right.mean())
    in_five = [label in row.argsort()[-5:] for row, label in zip(p, labels, strict=True)]
    assert found["top5_accuracy"] == pytest.approx(np.mean(in_five))
    assert found["accuracy"] < found["top5_accuracy"] < 1
    assert found["loss"] == pytest.approx(-np.log(p[np.arange(60), labels]).mean())
    bins = np.minimum((sure.astype(np.float32) * 15).astype(int), 14)
    apart = [abs(right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).sum() for b in np.unique(bins)]
    assert found["calibration_error"] == pytest.approx(sum(apart) / 60, abs=1e-6)
    for number in range(7):
        row = details["classes"].get(f"class {number}")
        hits = (right & (labels == number)).sum()
        said, there = (p.argmax(1) == number).sum(), (labels == number).sum()
        if row is None:
            assert said == there == 0
            continue
        assert row["examples"] == there
        assert row["precision"] == pytest.approx(hits / said if said else 0)
        assert row["recall"] == pytest.approx(hits / there if there else 0)
    assert sum(each["examples"] for each in details["confusions"]) == (~right).sum()


def test_figures_are_without_label_smoothing() -> None:
    smooth, model = made(label_smoothing=0.3), Said()
    metrics = smooth.metrics()
    metrics.update(model, batch(*PLAIN))
    assert metrics.compute()["loss"] == pytest.approx(made().loss(model, batch(*PLAIN)).sum.item() / 9)
    assert metrics.compute()["loss"] != pytest.approx(smooth.loss(model, batch(*PLAIN)).sum.item() / 9)


def test_figures_of_several_views_are_those_of_their_mean() -> None:
    several = [LabelledImage(picture(number, 3), number % 7) for number in range(9)]
    found, _ = figures(batch(*several))
    assert found["loss"] == pytest.approx(made().loss(Said(), batch(*several)).sum.item() / 9, abs=1e-6)


# Answers


def test_answers_name_the_likeliest_five() -> None:
    names, model = [f"class {n}" for n in range(7)], Said()
    task = made(labels=names)
    answers = task.answers(model, task.collate(PLAIN, range(9)))
    p = model(torch.from_numpy(np.stack([e.pixels for e in PLAIN]))).softmax(-1)
    for answer, row in zip(answers, p, strict=True):
        assert [each["label"] for each in answer["likeliest"]] == [names[n] for n in row.topk(5).indices]
        assert answer["probability"] == pytest.approx(row.max().item(), abs=1e-6)
    assert task.decode(p) == [answer["label"] for answer in answers]
    assert made().answers(model, batch(*PLAIN))[0]["label"] == int(p[0].argmax())


# What is refused


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(
        FileError, match=r"sample 7 must be a picture of 3 channels, 4 x 5, .* is 1 channel, 4 x 5\. Set"
    ):
        made().collate([LabelledImage(picture(0)[:1], 0)], [7])


def test_numbers_that_nobody_gives_are_asked_for() -> None:
    config = ImageClassificationConfig()
    with pytest.raises(UsageError, match=r"model\.num_classes must be known for the task image_classification"):
        config.build(SimpleNamespace(image_shape=SHAPE))
    with pytest.raises(UsageError, match=r"model\.image_shape must be known for the task image_classification"):
        config.build(SimpleNamespace(num_classes=3))
    assert config.build(ResNetConfig(num_classes=3)).shape == (3, 224, 224)


def test_a_model_or_data_for_another_task_is_refused() -> None:
    config, fits = ImageClassificationConfig(), ResNetConfig(num_classes=7)
    boxed = AnnotatedImage(picture(0), np.zeros((0, 4), np.float32), NUMBERS, NUMBERS > 0, 0, (1.0, 1.0), (4, 5))
    texts = LabelledText(NUMBERS, 0)
    for examples, found in (([boxed], "pictures with boxes"), ([texts], "texts with a class each"), ([7], "others")):
        data: Any = SimpleNamespace(validation=examples, source="mine", determines={})
        with pytest.raises(UsageError, match=f"needs pictures with a class each, but mine has {found}"):
            config.build(fits, data)
    for examples in ([], PLAIN):
        data = SimpleNamespace(validation=examples, source="mine", determines={})
        assert config.build(fits, data).shape == (3, 224, 224)
    finder = validate(RetinaNetConfig, DETECTOR["plain"])
    with pytest.raises(UsageError, match=r"but retinanet is not\. Set task\.name to object_detection"):
        config.build(finder)
    detection = ObjectDetectionConfig()
    with pytest.raises(UsageError, match="must be one for the task object_detection, but resnet is not"):
        detection.build(fits)
    composed = SimpleNamespace(name="stack", image_shape=SHAPE, num_classes=7)
    with pytest.raises(UsageError, match=r"object_detection, but stack is not\. Choose another model\."):
        detection.build(composed)
    assert config.build(composed).shape == SHAPE
    assert detection.build(finder).shape == (3, 32, 48)


def test_chance_is_the_loss_of_one_who_knows_nothing() -> None:
    task = ImageClassificationConfig().build(validate(ResNetConfig, SMALL["basic"]))
    found = task.example_batch(6, "cpu")
    zeros = nn.Module()
    zeros.forward = lambda images, noise=None: torch.zeros(len(images), 3)  # type: ignore[method-assign, assignment]
    loss = task.loss(zeros, found)
    assert (loss.sum / loss.weight).item() == pytest.approx(task.chance())
