"""Plans of networks for pictures: operations as published, memory as really taken by a step.

Published figures count a product and its sum as one multiply-add; the plan counts the two operations that they are, so
that a figure is half of what is planned for the forward pass over one picture.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from dougong.plan import memory
from dougong.plan.advise import Setting
from dougong.plan.count import count, known_model
from dougong.plan.memory import enlarged
from dougong.recipe import Recipe, load
from dougong.run import plan
from dougong.train.measure import step_peak
from dougong.train.state import State

IMAGENET = {  # in 1e9 multiply-adds, of one picture of 224 x 224: as torchvision gives them with its weights
    "resnet18": 1.81,
    "resnet34": 3.66,
    "resnet50": 4.09,
    "resnet101": 7.80,
    "resnet152": 11.51,
    "vgg11": 7.61,
    "vgg13": 11.31,
    "vgg16": 15.47,
    "vgg19": 19.63,
}
HE_2016 = {"resnet50-v1": 3.8, "resnet101-v1": 7.6, "resnet152-v1": 11.3}  # table 1, to the first decimal
CIFAR = {"cifar-resnet20": 0.0408, "cifar-resnet56": 0.1255, "cifar-resnet110": 0.2529}  # of 32 x 32


def recipe(variant: str, side: int = 224, classes: int = 1000, size: int = 2, **train: Any) -> Recipe:
    model = {"name": "vgg" if variant.startswith("vgg") else "resnet", "variant": variant}
    return load(
        {
            "model": {**model, "image_shape": [3, side, side], "num_classes": classes},
            "task": {"name": "image_classification"},
            "data": {"name": "digits"},
            "train": {"steps": 10, "batch_size": size, **train},
        }
    )


@functools.cache
def multiply_adds(variant: str, side: int = 224, **changes: Any) -> float:
    """In 1e9, of the forward pass over one picture."""
    found = recipe(variant, side)
    return count(found.replace(model=found.model.replace(**changes))).forward_flops / 2 / 1e9  # type: ignore[attr-defined]


@pytest.mark.parametrize("variant", IMAGENET)
def test_operations_are_those_that_are_published(variant: str) -> None:
    assert multiply_adds(variant) == pytest.approx(IMAGENET[variant], abs=0.006)


@pytest.mark.parametrize("variant", HE_2016)
def test_with_the_stride_as_in_the_paper_they_are_the_papers(variant: str) -> None:
    """And fewer than with the stride in the middle, which is the control."""
    found = multiply_adds(variant)
    assert found == pytest.approx(HE_2016[variant], abs=0.06)
    assert multiply_adds(variant.removesuffix("-v1")) > HE_2016[variant] + 0.1


@pytest.mark.parametrize("variant", CIFAR)
def test_small_ones_as_well(variant: str) -> None:
    assert multiply_adds(variant, 32, num_classes=10) == pytest.approx(CIFAR[variant], rel=0.01)


def test_the_plan_says_so_of_one_picture() -> None:
    found = plan(recipe("resnet50"), devices="1xh100")
    assert found.flops_per_sample["forward"] / 2 / 1e9 == pytest.approx(IMAGENET["resnet50"], abs=0.006)
    assert found.parameters == 25_557_032


def test_a_network_without_its_last_stage_is_not_taken_for_it() -> None:
    """The control: the last stage alone is a fifth of a ResNet-18."""
    shorter = multiply_adds("resnet18", depths=(2, 2, 2), widths=(64, 128, 256))
    assert shorter < 0.85 * multiply_adds("resnet18")


SGD = {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}
STEPS: dict[str, tuple[Any, list[str]]] = {
    "digits-resnet": ("digits-resnet", []),
    "ResNet-18 at 64 x 64": (recipe("resnet18", 64, 10, 16), []),
    "ResNet-50 at 64 x 64, recomputed": (recipe("resnet50", 64, 10, 4, recompute=True), []),
    "VGG-11 at 32 x 32": (recipe("vgg11", 32, 10, 16, **SGD), ["model.hidden_dim=256"]),
    "bccd-retinanet": ("bccd-retinanet", ["train.batch_size=2"]),
}


def predicted_and_measured(name: str, dtype: torch.dtype) -> tuple[int, int]:
    """The peak of a step, in bytes."""
    source, changes = STEPS[name]
    found = load(source, changes)
    model: Any = known_model(found)
    task: Any = found.task
    setting = Setting(model, task.build, found.train, dtype)
    size: Any = found.train.batch_size
    network = model.build()
    network.init_weights(0)
    batch = enlarged(setting.task().example_batch(1, "cpu"), size)
    batch = type(batch)({key: field.contiguous() for key, field in batch.fields.items()}, torch.arange(size))
    state = State.create(found.train, network.train(), dtype)
    return setting.memory(size).peak, step_peak(state, batch, setting.task())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_takes_the_memory_that_is_planned(name: str, dtype: torch.dtype) -> None:
    predicted, measured = predicted_and_measured(name, dtype)
    assert measured == pytest.approx(predicted, rel=0.05)


def test_without_the_kernels_own_memory_the_plan_would_fall_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(memory, "workspace", lambda func, args: 0)
    predicted, measured = predicted_and_measured("ResNet-18 at 64 x 64", torch.float32)
    assert measured > 1.05 * predicted
