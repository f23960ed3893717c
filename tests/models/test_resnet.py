"""What ResNet promises beside what every model owes: its shortcuts, strides and beginning, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dougong.core.config import try_validate, validate
from dougong.core.errors import UsageError
from dougong.models.resnet import SMALL, VARIANTS, ResNetConfig, example
from dougong.models.resnet.network import Bottleneck, Padded


def built(**values: Any) -> Any:
    model = validate(ResNetConfig, {"num_classes": 3, "image_shape": [3, 32, 32], **values}).build()
    model.init_weights(0)
    return model


def maps(model: Any, images: Tensor | None = None) -> tuple[Tensor, ...]:
    return model.trunk(example(model.config, 2)["images"] if images is None else images)


# Shortcuts


def test_option_a_takes_every_second_place_and_fills_new_channels_with_zeros() -> None:
    images = torch.randn(2, 3, 7, 8)
    found = Padded(3, 5, 2)(images)
    assert found.shape == (2, 5, 4, 4)
    assert torch.equal(found[:, :3], images[:, :, ::2, ::2])
    assert not found[:, 3:].any()
    assert not list(Padded(3, 5, 2).parameters())


def test_option_b_has_what_option_a_lacks() -> None:
    padded, projected = (built(**VARIANTS["cifar-resnet20"] | {"shortcut": kind}) for kind in ("padded", "projection"))
    names = set(projected.state_dict()) - set(padded.state_dict())
    assert {name.split(".shortcut.")[0] for name in names} == {"trunk.stages.1.0", "trunk.stages.2.0"}
    assert [tuple(m.shape) for m in maps(padded)] == [tuple(m.shape) for m in maps(projected)]
    assert (maps(padded)[-1] - maps(projected)[-1]).abs().max() > 1e-3


@pytest.mark.parametrize(("stem", "strides"), [("imagenet", (4, 8, 16, 32)), ("cifar", (1, 2, 4, 8))])
def test_maps_are_as_fine_as_their_strides_say(stem: str, strides: tuple[int, ...]) -> None:
    model = built(stem=stem, widths=[4, 6, 8, 10], depths=[1, 1, 1, 1])
    assert (model.trunk.strides, model.trunk.widths) == (strides, (4, 6, 8, 10))
    assert [tuple(m.shape[1:]) for m in maps(model)] == [
        (width, 32 // stride, 32 // stride) for width, stride in zip((4, 6, 8, 10), strides, strict=True)
    ]


# The stride of a bottleneck


@pytest.mark.parametrize(("strided", "places"), [("first", (2, 1)), ("middle", (1, 2))])
def test_the_stride_is_where_the_config_says(strided: str, places: tuple[int, int]) -> None:
    config = ResNetConfig(block="bottleneck", strided=strided, depths=(1,), widths=(4,))  # type: ignore[arg-type]
    block = Bottleneck(config, 8, 4, 2)
    halved = [block.first(torch.randn(1, 8, 8, 8)), block.middle(torch.randn(1, 4, 8, 8))]
    assert [8 // hidden.shape[-1] for hidden in halved] == list(places)
    assert block(torch.randn(1, 8, 8, 8)).shape == (1, 16, 4, 4)


def test_both_strides_have_the_same_parameters_and_other_outputs() -> None:
    values = {"block": "bottleneck", "depths": [1, 2], "widths": [4, 6]}
    paper, usual = (built(strided=place, **values) for place in ("first", "middle"))
    assert all(torch.equal(a, b) for a, b in zip(paper.parameters(), usual.parameters(), strict=True))
    assert (maps(paper)[-1] - maps(usual)[-1]).abs().max() > 1e-3


# How it begins


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_with_zero_init_each_block_begins_as_the_identity(norm: str, block: str) -> None:
    values = {"block": block, "norm": norm, "depths": [3], "widths": [4], "stem_dim": 16 if block != "basic" else 4}
    if norm == "group":
        values["norm_groups"] = 2
    model, plain = (built(zero_init_residual=zero, **values) for zero in (True, False))
    images = torch.rand(2, model.config.widths_out[0], 6, 6)  # not negative, as what comes out of a ReLU
    for one, other in zip(model.blocks, plain.blocks, strict=True):
        assert torch.equal(one.eval()(images), images)
        assert (other.eval()(images) - images).abs().max() > 1e-3, "the control: without it no block is"


def test_zero_init_leaves_the_gradient_a_way_in() -> None:
    model = built(zero_init_residual=True, depths=[2], widths=[4])
    model(**example(model.config, 4)).square().sum().backward()
    assert model.blocks[0].last.norm.weight.grad.abs().max() > 0


def test_the_head_begins_small() -> None:
    model = built(num_classes=1000)
    assert model.head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not model.head.bias.any()


# Counts


# As published: He et al. 2016, table 6, in millions; torchvision's documentation for the others.
@pytest.mark.parametrize(
    ("variant", "millions"),
    [
        ("cifar-resnet20", 0.27),
        ("cifar-resnet32", 0.46),
        ("cifar-resnet44", 0.66),
        ("cifar-resnet56", 0.85),
        ("cifar-resnet110", 1.7),
    ],
)
def test_counts_are_those_of_the_paper(variant: str, millions: float) -> None:
    with torch.device("meta"):
        model = validate(ResNetConfig, {**VARIANTS[variant], "num_classes": 10, "image_shape": [3, 32, 32]}).build()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e6, 2 if millions < 1 else 1) == millions


# What is refused


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"widths": [64, 128]}, "widths must have one number for each of 4 stages, but has (64, 128)."),
    ({"strided": "first"}, "strided has no effect while block is basic. Remove it."),
    ({"norm_groups": 4}, "norm_groups has no effect while norm is batch. Remove it."),
    ({"norm": "none", "zero_init_residual": True}, "zero_init_residual has no effect while norm is none. Remove it."),
    ({"norm": "group", "norm_groups": 7}, "norm_groups must divide every width, but 64 % 7 is 1."),
    ({"norm": "group", "stem_dim": 33}, "norm_groups must divide every width, but 33 % 32 is 1."),
    (
        {"shortcut": "padded", "widths": [64, 32, 32, 32]},
        "shortcut must be projection where a stage has fewer channels than the one before it.",
    ),
    ({"depths": []}, "depths must"),
    ({"depths": [0, 1, 1, 1]}, "depths[0] must be greater than 0"),
    ({"image_shape": [3, 32]}, "image_shape"),
    ({"norm": "layer"}, "norm must be 'batch', 'group' or 'none', but is 'layer'."),
]


@pytest.mark.parametrize(("values", "sentence"), FAULTS, ids=[str(values) for values, _ in FAULTS])
def test_a_config_that_does_not_fit_is_explained(values: dict[str, Any], sentence: str) -> None:
    _, complaints = try_validate(ResNetConfig, values)
    assert any(complaint.text.startswith(sentence) for complaint in complaints), [c.text for c in complaints]


def test_sound_configs_have_no_fault() -> None:
    for values in (*SMALL.values(), *VARIANTS.values()):
        assert try_validate(ResNetConfig, values)[1] == []


def test_without_a_number_of_classes_there_is_no_model() -> None:
    with pytest.raises(UsageError, match=r"model\.num_classes must be known to build the model, but is absent"):
        ResNetConfig().build()
    assert isinstance(ResNetConfig().trunk(), nn.Module)
    assert ResNetConfig().filled().image_shape == (3, 224, 224)


def test_pictures_of_another_size_give_an_answer_too() -> None:
    model = built(depths=[1, 1], widths=[4, 8]).eval()
    assert model(torch.randn(2, 3, 45, 61)).shape == (2, 3)
