"""What RetinaNet promises beside what every model owes: its counts, its beginning, its order, what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dougong.core.config import try_validate, validate
from dougong.core.errors import UsageError
from dougong.models.retinanet import SMALL, VARIANTS, RetinaNetConfig, example
from dougong.recipe import recipe as recipes

NARROW = SMALL["plain"]


def built(**changes: object) -> nn.Module:
    model = validate(RetinaNetConfig, {**NARROW, **changes}).build()
    model.init_weights(0)
    return model


# With the trunk's norm frozen, as torchvision does: its scales and shifts are no parameters there.
@pytest.mark.parametrize(("variant", "published"), [("resnet50-fpn", 34_014_999), ("resnet50-fpn-v2", 38_145_815)])
def test_parameters_are_those_of_torchvision_beside_the_norms_of_the_trunk(variant: str, published: int) -> None:
    with torch.device("meta"):
        model = validate(RetinaNetConfig, {**VARIANTS[variant], "num_classes": 91}).build()
    norms = sum(p.numel() for name, p in model.named_parameters() if name.startswith("trunk.") and ".norm." in name)
    assert norms == 53_120
    assert sum(p.numel() for p in model.parameters()) - norms == published


def test_each_class_begins_with_the_prior() -> None:
    for prior in (0.01, 0.2):
        model = built(prior=prior)
        outputs = model(**example(model.config, 2))
        torch.testing.assert_close(
            outputs[..., :3].sigmoid(), torch.full_like(outputs[..., :3], prior), rtol=0.05, atol=0
        )
        assert outputs[..., 3:].abs().max() < 0.2, "and each box at its anchor"


def test_answers_stand_in_the_order_of_the_anchors() -> None:
    model = built()
    places = [12 * 8 // 4, 3 * 2, 2, 1]
    assert [len(level) for level in model.anchors(32, 48)] == [4 * count for count in places]
    for head, outputs in ((model.classes, 3), (model.boxes, 4)):
        nn.init.zeros_(head.answer.weight)
        head.answer.bias.data = torch.arange(4.0 * outputs)
    found = model(**example(model.config, 1))[0]
    one_place = torch.cat([torch.arange(12.0).reshape(4, 3), torch.arange(16.0).reshape(4, 4)], dim=1)
    torch.testing.assert_close(found, one_place.repeat(sum(places), 1))


def test_a_place_answers_for_what_it_sees() -> None:
    model = built(trunk={**NARROW["trunk"], "norm": "none", "norm_groups": None}, head_layers=0).double()
    nn.init.zeros_(model.pyramid.lateral[1].convolution.weight)  # so that the coarser map, which sees all, says nothing
    images = example(model.config, 1)["images"].double()
    other = images.clone()
    other[..., 28:, 44:] += 1.0
    changed = (model(images) != model(other))[0, :96].any(dim=1).reshape(4, 6, 4)
    assert changed[-1, -1].all()
    assert not changed[0, 0].any()


def test_finer_maps_are_read_if_asked_for() -> None:
    assert built().strides == (8, 16, 32, 64)
    assert built(finest_stride=4).strides == (4, 8, 16, 32, 64)
    assert built(finest_stride=16, extra_levels=0, extra_from="c5").strides == (16,)
    first = built(finest_stride=4).anchors(32, 48)[0]
    assert len(first) == 8 * 12 * 4
    assert (first[0, 2:] - first[0, :2]).tolist() == [22, 12], (
        "4 steps of 4 pixels: an area of 16 x 16, half as high as wide"
    )


def test_a_vgg_may_be_the_trunk() -> None:
    model = validate(RetinaNetConfig, {**SMALL["normed"], "pyramid_norm": "batch"}).build()
    model.init_weights(0)
    assert model.strides == (2, 4)
    buffers = {name for name, _ in model.named_buffers()}
    assert {"shapes", "pyramid.lateral.0.norm.running_mean", "pyramid.output.1.norm.running_variance"} <= buffers
    assert not any(name.startswith(("classes.", "boxes.")) for name in buffers)


def test_anchors_are_the_same_in_every_precision() -> None:
    whole = built(anchor_size=7.3).anchors(64, 64)
    narrow = built(anchor_size=7.3).bfloat16().anchors(64, 64)
    assert all(torch.equal(one, other) for one, other in zip(whole, narrow, strict=True))
    assert not torch.equal(whole[-1].bfloat16().float(), whole[-1]), "which half precision could not hold"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trunk": {"name": "gpt"}}, "trunk.name must be a model with a trunk (resnet or vgg), but is gpt."),
        ({"trunk": {"name": "resnet", "widht": 3}}, "trunk.widht is not an option. Did you mean trunk.widths?"),
        ({"trunk": {"name": "resnet", "num_classes": 3}}, "trunk.num_classes has no effect, as model.num_classes"),
        ({"extra_levels": 0}, "extra_from has no effect while extra_levels is 0."),
        ({"norm_groups": 2}, "norm_groups has no effect while no norm is over groups."),
        ({"head_norm": "group", "norm_groups": 4}, "norm_groups must divide pyramid_dim, but 6 % 4 is 2."),
        ({"head_norm": "group", "norm_groups": 3, "head_layers": 0}, "head_norm has no effect while head_layers is 0."),
        ({"head_norm": "batch"}, "head_norm must be"),
        ({"anchor_ratios": ()}, "anchor_ratios must"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_configs_are_refused_in_a_sentence(changes: dict, sentence: str) -> None:
    config, complaints = try_validate(RetinaNetConfig, {**NARROW, **changes})
    assert config is None
    assert any(complaint.text.startswith(sentence) for complaint in complaints), complaints


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_classes": None}, "model.num_classes must be known"),
        (
            {"finest_stride": 32},
            "model.finest_stride must be at most 16, the stride of the trunk's coarsest map, but is 32",
        ),
        ({"anchor_size": 0.1}, "model.anchor_size must make every anchor at least 2 pixels wide and high"),
        (
            {"image_shape": (3, 40, 48)},
            "must be multiples of 16 pixels, the stride of the trunk's coarsest map, but are 40",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_the_trunk_is_refused_when_it_is_built(changes: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        validate(RetinaNetConfig, {**NARROW, **changes}).build()


def test_a_picture_of_another_size_is_refused_or_read() -> None:
    model = built()
    assert model(torch.zeros(1, 3, 64, 32)).shape == (1, sum(map(len, model.anchors(64, 32))), 7)
    with pytest.raises(UsageError, match="multiples of 16 pixels"):
        model(torch.zeros(1, 3, 64, 33))


def test_the_schema_for_editors_describes_the_trunks_once() -> None:
    found = recipes.schema()["$defs"]
    trunk = str(found["RetinaNetConfig"]["properties"]["trunk"])
    assert "ResNetConfig" in trunk
    assert "GPTConfig" not in trunk
    assert set(found["RetinaNetConfig"]["properties"]["variant"]["enum"]) == set(VARIANTS)
