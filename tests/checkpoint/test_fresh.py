"""Weights of another model to start from: what is taken, what begins anew, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dougong.checkpoint.weights import load_weights, save_model
from dougong.core.config import validate
from dougong.core.errors import FileError, UsageError
from dougong.models.resnet import ResNetConfig
from dougong.models.retinanet import RetinaNetConfig
from dougong.models.vgg import VGGConfig

TRUNK: dict[str, Any] = {"name": "resnet", "depths": [1, 1, 1], "widths": [4, 6, 8]}
CLASSIFIER = {**TRUNK, "num_classes": 5, "image_shape": [3, 32, 32]}
DETECTOR = {"name": "retinanet", "trunk": TRUNK, "num_classes": 2, "image_shape": [3, 32, 32], "pyramid_dim": 8}
NEW = ["pyramid.*", "classes.*", "boxes.*", "shapes"]
HEADS: dict[str, Any] = {"resnet": ResNetConfig, "retinanet": RetinaNetConfig, "vgg": VGGConfig}


def built(values: dict[str, Any], seed: int = 0) -> nn.Module:
    model = validate(HEADS[values["name"]], values).build()
    model.init_weights(seed)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = built(CLASSIFIER, seed=1)
    for tensor in model.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
    save_model(model, tmp_path / "classifier")
    return tmp_path / "classifier"


def taken(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """Returns which tensors are others now."""
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_detector_takes_a_classifier_s_trunk(folder: Path) -> None:
    model, source = built(DETECTOR), built(CLASSIFIER, seed=1)
    before = copied(model)
    new = load_weights(model, folder, NEW)
    trunk = {name for name in before if name.startswith("trunk.")}
    assert taken(model, before) == trunk
    assert set(new) == set(before) - trunk
    load_weights(source, folder)
    theirs = source.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items() if name in trunk)
    images = torch.randn(1, 3, 32, 32)
    pairs = zip(model.eval().trunk(images), source.eval().trunk(images), strict=True)  # type: ignore[union-attr, operator]
    assert all(torch.equal(ours, their) for ours, their in pairs)


def test_a_new_head_is_of_other_classes_and_all_else_is_taken(folder: Path) -> None:
    model = built({**CLASSIFIER, "num_classes": 9})
    before = copied(model)
    assert load_weights(model, folder, ["head.*"]) == ["head.weight", "head.bias"]
    assert taken(model, before) == set(before) - {"head.weight", "head.bias"}


def test_what_is_named_stays_even_where_it_would_fit(folder: Path) -> None:
    model = built(CLASSIFIER)
    before = copied(model)
    load_weights(model, folder, ["trunk.stem.*", "*running_mean"])
    stayed = set(before) - taken(model, before)
    assert {name for name in before if name.startswith("trunk.stem.") or name.endswith("running_mean")} <= stayed
    assert "head.weight" not in stayed


def test_without_new_parts_all_is_taken(folder: Path) -> None:
    """The control of the tests above: nothing stays by itself."""
    model = built(CLASSIFIER)
    before = copied(model)
    assert load_weights(model, folder) == []
    assert taken(model, before) == set(before)


ADVICE = "Name what is to start anew in init_new, or choose the model that these weights are of."
REFUSED: list[tuple[str, dict[str, Any], list[str], str]] = [
    (
        "a head of another size",
        {"num_classes": 9},
        ["trunk.stem.*"],
        "2 are of another shape (head.weight is [5, 8]",
    ),
    ("another width", {"widths": [4, 6, 10]}, ["head.*"], "are of another shape (trunk.stages.2.0.first.convolution"),
    ("more blocks", {"depths": [1, 1, 2]}, ["head.*"], "are missing (trunk.stages.2.1.first.convolution.weight, "),
    ("fewer blocks", {"depths": [1, 1], "widths": [4, 6]}, ["head.*"], "are unknown (trunk.stages.2.0."),
    ("no shortcut", {"shortcut": "padded"}, ["head.*"], "are unknown (trunk.stages.1.0.shortcut.convolution.weight"),
]


@pytest.mark.parametrize(("kind", "change", "new", "said"), REFUSED, ids=[kind for kind, *_ in REFUSED])
def test_what_does_not_fit_is_named(kind: str, change: dict[str, Any], new: list[str], said: str, folder: Path) -> None:
    model = built({**CLASSIFIER, **change})
    before = copied(model)
    with pytest.raises(FileError) as caught:
        load_weights(model, folder, new)
    assert said in str(caught.value)
    assert str(caught.value).endswith(ADVICE)
    assert taken(model, before) == set(), "a model that is refused stays as it was"


def test_a_detector_says_what_it_lacks(folder: Path) -> None:
    with pytest.raises(FileError) as caught:
        load_weights(built(DETECTOR), folder, ["pyramid.*", "shapes"])
    assert "are missing (classes." in str(caught.value)
    assert "unknown" not in str(caught.value), "what the first model has beyond the second needs no word"
    assert str(caught.value).endswith(ADVICE)


def test_a_model_of_another_kind_shares_nothing(folder: Path) -> None:
    values = {"name": "vgg", "num_classes": 5, "image_shape": [3, 32, 32], "depths": [1], "widths": [4]}
    with pytest.raises(FileError, match=r"are missing \(trunk\.stages\.0\.layers\.0"):
        load_weights(built(values), folder, ["head.*", "hidden.*"])


def test_a_pattern_that_fits_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"init_new must fit tensors of the model, but 'neck\.\*' fits none"):
        load_weights(built(CLASSIFIER), folder, ["head.*", "neck.*"])


def test_an_optimizer_of_fresh_parts_has_its_gradients(folder: Path) -> None:
    model: Any = built({**CLASSIFIER, "num_classes": 9})
    load_weights(model, folder, ["head.*"])
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
