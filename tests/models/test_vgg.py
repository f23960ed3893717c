"""What VGG promises beside what every model owes: its stages, counts, classifier and beginning, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dougong.core.config import try_validate, validate
from dougong.core.errors import UsageError
from dougong.models.vgg import SMALL, VARIANTS, VGGConfig, example

TINY = {"num_classes": 3, "image_shape": [3, 16, 24], "depths": [1, 2], "widths": [4, 6], "pooled": 2, "hidden_dim": 8}


def built(**values: Any) -> Any:
    model = validate(VGGConfig, {**TINY, **values}).build()
    model.init_weights(0)
    return model


# Simonyan and Zisserman 2015, table 2, in millions.
@pytest.mark.parametrize(("variant", "millions"), [("vgg11", 133), ("vgg13", 133), ("vgg16", 138), ("vgg19", 144)])
def test_counts_are_those_of_the_paper(variant: str, millions: int) -> None:
    counts = []
    for name in (variant, f"{variant}-bn"):
        with torch.device("meta"):
            model = validate(VGGConfig, {**VARIANTS[name], "num_classes": 1000}).build()
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
    assert round(counts[0] / 1e6) == millions
    assert counts[1] - counts[0] == 2 * sum(
        depth * width for depth, width in zip(VARIANTS[variant]["depths"], (64, 128, 256, 512, 512), strict=True)
    )


def test_maps_are_before_the_maximum_and_as_fine_as_their_strides_say() -> None:
    model = built()
    found = model.trunk(example(model.config, 2)["images"])
    assert (model.trunk.strides, model.trunk.widths) == ((1, 2), (4, 6))
    assert [tuple(m.shape) for m in found] == [(2, 4, 16, 24), (2, 6, 8, 12)]
    assert len(model.blocks) == 2


def test_the_classifier_sees_a_grid_of_means() -> None:
    """Of a picture whose last map is 4 by 6 after the last maximum, each place of the 2 by 2 is the mean of 2 by 3."""
    model = built().eval()
    images = example(model.config, 2)["images"]
    maps = torch.nn.functional.max_pool2d(model.trunk(images)[-1], 2)
    means = maps.unflatten(3, (2, 3)).unflatten(2, (2, 2)).mean((3, 5)).flatten(1)
    hidden = torch.relu(model.hidden[1](torch.relu(model.hidden[0](means))))
    torch.testing.assert_close(model(images), model.head(hidden))
    assert model(torch.randn(1, 3, 33, 41)).shape == (1, 3), "so pictures of another size have an answer, too"


def test_dropout_is_drawn_from_the_noise_alone() -> None:
    model = built(hidden_dim=64)
    images = example(model.config, 2)["images"]
    with torch.no_grad():
        model.head.weight.normal_()
        still, drawn, same, other = (
            model(images, noise=None if noise is None else torch.tensor(noise))
            for noise in (None, [1, 2], [1, 2], [3, 4])
        )
        off = built(hidden_dim=64, dropout=0.0)(images, noise=torch.tensor([1, 2]))
        assert torch.equal(drawn, same)
        assert not torch.equal(drawn, other)
        assert not torch.equal(drawn, still)
        assert torch.equal(off, built(hidden_dim=64, dropout=0.0)(images))


def test_it_begins_as_its_table_says() -> None:
    model = built(hidden_dim=256)
    assert model.hidden[1].weight.std().item() == pytest.approx(0.01, rel=0.02)
    convolution = built(widths=[64, 64]).trunk.stages[1].layers[1].convolution
    assert convolution.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"widths": [4]}, "widths must have one number for each of 2 stages, but has (4,)."),
    ({"norm_groups": 2}, "norm_groups has no effect while norm is none. Remove it."),
    ({"norm": "group", "norm_groups": 4}, "norm_groups must divide every width, but 6 % 4 is 2."),
    (
        {"image_shape": [3, 3, 24]},
        "image_shape must have at least 4 x 4 pixels for 2 stages, but has 3 x 24. Take larger pictures",
    ),
    ({"dropout": 1.0}, "dropout must be less than 1"),
    ({"pooled": 0}, "pooled must be greater than 0"),
]


@pytest.mark.parametrize(("values", "sentence"), FAULTS, ids=[str(values) for values, _ in FAULTS])
def test_a_config_that_does_not_fit_is_explained(values: dict[str, Any], sentence: str) -> None:
    _, complaints = try_validate(VGGConfig, {**TINY, **values})
    assert any(complaint.text.startswith(sentence) for complaint in complaints), [c.text for c in complaints]


def test_sound_configs_have_no_fault() -> None:
    for values in (TINY, *SMALL.values(), *VARIANTS.values()):
        assert try_validate(VGGConfig, values)[1] == []
    assert try_validate(VGGConfig, {**VARIANTS["vgg11"], "image_shape": [3, 32, 32]})[1] == []
    assert try_validate(VGGConfig, {**VARIANTS["vgg11"], "image_shape": [3, 31, 32]})[1] != []


def test_without_a_number_of_classes_there_is_no_model() -> None:
    with pytest.raises(UsageError, match=r"model\.num_classes must be known to build the model, but is absent"):
        VGGConfig().build()
    assert VGGConfig().filled().image_shape == (3, 224, 224)
