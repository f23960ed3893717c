"""RetinaNet against torchvision's, with the same weights in double precision: from maps and anchors to detections."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dougong.checkpoint.weights import recognise
from dougong.core.config import validate
from dougong.core.contracts import Batch
from dougong.core.errors import FileError
from dougong.models.retinanet import RetinaNetConfig
from dougong.nn.boxes import BETWEEN, clip, decode, encode, match
from dougong.nn.detection import Choice, detect
from dougong.tasks.object_detection import ObjectDetectionConfig
from tests.parity.torchvision_reference import run_reference

TOLERANCE = 1e-9
CLASSES, HEIGHT, WIDTH = 3, 64, 96
OURS = {
    "first": {"extra_from": "p5"},
    "second": {"head_norm": "group"},
}
CHOICE = Choice(score=0.3, candidates=50, overlap=0.4, detections=60)

# The second version has a norm in its heads, and makes P6 from C5. The trunk has one block a stage.
_SCRIPT = """
import functools
torch.set_default_dtype(torch.float64)
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.detection import retinanet as source
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

second = VERSION == "second"
extra = LastLevelP6P7(512 if second else 256, 256)
backbone = _resnet_fpn_extractor(ResNet(BasicBlock, [1, 1, 1, 1]), 5, returned_layers=[2, 3, 4], extra_blocks=extra)
head = None
if second:
    norm = functools.partial(torch.nn.GroupNorm, 32)
    head = source.RetinaNetHead(256, 9, 3, norm_layer=norm)
model = source.RetinaNet(backbone, num_classes=3, head=head).eval()
with torch.no_grad():
    for name, tensor in model.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 2.0)
        elif tensor.ndim == 1:
            tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)
    begin = model.head(list(model.backbone(inputs["images"]).values()))
    model.head.classification_head.cls_logits.weight /= begin["cls_logits"].std()
    model.head.regression_head.bbox_reg.weight *= 0.3 / begin["bbox_regression"].std()
outputs |= {"weights." + key: tensor for key, tensor in model.state_dict().items()}

images, boxes, labels = inputs["images"], inputs["boxes"], inputs["labels"]
for number, level in enumerate(model.backbone.body(images).values()):
    outputs[f"body.{number}"] = level
levels = list(model.backbone(images).values())
for number, level in enumerate(levels):
    outputs[f"level.{number}"] = level
answers = model.head(levels)
anchors = model.anchor_generator(ImageList(images, [tuple(images.shape[2:])] * len(images)), levels)
outputs["answers"] = torch.cat([answers["cls_logits"], answers["bbox_regression"]], dim=2)
outputs["anchors"] = anchors[0]

targets = [{"boxes": b[l >= 0], "labels": l[l >= 0]} for b, l in zip(boxes, labels)]
outputs["matches"] = torch.stack([model.proposal_matcher(box_iou(t["boxes"], anchors[0])) for t in targets])
outputs["codes"] = model.box_coder.encode_single(targets[0]["boxes"][:1].expand_as(anchors[0]), anchors[0])
outputs["decoded"] = model.box_coder.decode_single(4 * answers["bbox_regression"][0], anchors[0])
losses = model.compute_loss(targets, answers, anchors)
outputs["classes"], outputs["boxes"] = losses["classification"], losses["bbox_regression"]
(losses["classification"] + losses["bbox_regression"]).backward()
outputs |= {"gradients." + key: parameter.grad for key, parameter in model.named_parameters()}

model.score_thresh, model.nms_thresh, model.topk_candidates, model.detections_per_img = inputs["choice"].tolist()
model.topk_candidates, model.detections_per_img = int(model.topk_candidates), int(model.detections_per_img)
counts = [9 * level.shape[2] * level.shape[3] for level in levels]
split = {key: [part.detach() for part in value.split(counts, dim=1)] for key, value in answers.items()}
found = model.postprocess_detections(split, [list(a.split(counts)) for a in anchors], [(60, 90)] * len(images))
for number, picture in enumerate(found):
    outputs |= {f"found.{number}.{key}": value for key, value in picture.items()}
"""

_NAMES = [
    (r"backbone\.body\.conv1\.", "trunk.stem.mixed.convolution."),
    (r"backbone\.body\.bn1\.", "trunk.stem.mixed.norm."),
    (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.0\.", r"trunk.stages.\1.\2.shortcut.convolution."),
    (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.1\.", r"trunk.stages.\1.\2.shortcut.norm."),
    (r"backbone\.body\.layer(\d)\.(\d+)\.conv1\.", r"trunk.stages.\1.\2.first.convolution."),
    (r"backbone\.body\.layer(\d)\.(\d+)\.bn1\.", r"trunk.stages.\1.\2.first.norm."),
    (r"backbone\.body\.layer(\d)\.(\d+)\.conv2\.", r"trunk.stages.\1.\2.last.convolution."),
    (r"backbone\.body\.layer(\d)\.(\d+)\.bn2\.", r"trunk.stages.\1.\2.last.norm."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"pyramid.lateral.\1.convolution."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"pyramid.output.\1.convolution."),
    (r"backbone\.fpn\.extra_blocks\.p6\.", "pyramid.extra.0."),
    (r"backbone\.fpn\.extra_blocks\.p7\.", "pyramid.extra.1."),
    (r"head\.classification_head\.conv\.(\d)\.0\.", r"classes.hidden.\1.convolution."),
    (r"head\.classification_head\.conv\.(\d)\.1\.", r"classes.hidden.\1.norm."),
    (r"head\.classification_head\.cls_logits\.", "classes.answer."),
    (r"head\.regression_head\.conv\.(\d)\.0\.", r"boxes.hidden.\1.convolution."),
    (r"head\.regression_head\.conv\.(\d)\.1\.", r"boxes.hidden.\1.norm."),
    (r"head\.regression_head\.bbox_reg\.", "boxes.answer."),
    (r"running_var$", "running_variance"),
]


def renamed(name: str) -> str:
    """Returns our name of a parameter of torchvision's; its stages are counted from 1."""
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    return re.sub(r"(?<=stages\.)\d", lambda digit: str(int(digit[0]) - 1), name)


def given() -> dict[str, Tensor]:
    images = torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3)).double()
    boxes = [
        [[5.0, 6.0, 40.0, 50.0], [30.0, 10.0, 90.0, 60.0], [2.0, 54.0, 10.0, 62.0]],
        [[10.0, 2.0, 60.0, 30.0], [12.0, 3.0, 62.0, 33.0], [0.0, 0.0, 0.0, 0.0]],
    ]
    choice = torch.tensor([CHOICE.score, CHOICE.overlap, CHOICE.candidates, CHOICE.detections], dtype=torch.float64)
    labels = torch.tensor([[0, 2, 1], [1, 0, -1]])
    return {"images": images, "boxes": torch.tensor(boxes).double(), "labels": labels, "choice": choice}


@functools.cache
def reference(version: str) -> dict[str, Tensor]:
    return run_reference(f"VERSION = {version!r}\n{_SCRIPT}", **given())


def ours(version: str) -> nn.Module:
    values = {"trunk": {"name": "resnet", "depths": (1, 1, 1, 1)}, "num_classes": CLASSES}
    model = validate(RetinaNetConfig, {**values, "image_shape": (3, HEIGHT, WIDTH), **OURS[version]}).build()
    model.init_weights(0)
    model.double()
    weights = {renamed(key): tensor for key, tensor in under(reference(version), "weights.").items()}
    kept = {key: tensor for key, tensor in weights.items() if not key.endswith("num_batches_tracked")}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    assert (missing, unexpected) == (["shapes"], [])
    return model.eval()


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def batch() -> Batch:
    tensors = given()
    fields = {key: tensors[key] for key in ("images", "boxes", "labels")}
    fields |= {"ignored": torch.zeros(2, 3, dtype=torch.bool)}
    return Batch(fields, torch.arange(2))


@pytest.fixture(params=list(OURS))
def version(request: pytest.FixtureRequest) -> str:
    return request.param


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_maps_and_answers_are_equal(version: str) -> None:
    expected, model, images = reference(version), ours(version), given()["images"]
    maps = model.trunk(images)[1:]
    levels = model.pyramid(maps)
    for prefix, found in (("body.", maps), ("level.", levels)):
        assert len(under(expected, prefix)) == len(found)
        for number, level in enumerate(found):
            assert_near(level, expected[f"{prefix}{number}"])
    found = model(images)
    assert expected["answers"][..., :CLASSES].std() > 0.1, "answers must differ for the comparison to mean something"
    assert_near(found, expected["answers"])
    nn.init.zeros_(model.pyramid.extra[1].weight)
    assert not torch.allclose(model(images), expected["answers"], atol=TOLERANCE), "it must notice a lost level"


def test_anchors_are_equal(version: str) -> None:
    found = torch.cat(ours(version).anchors(HEIGHT, WIDTH))
    assert torch.equal(found.double(), reference(version)["anchors"])


def test_matching_is_equal(version: str) -> None:
    expected, anchors, tensors = reference(version), torch.cat(ours(version).anchors(HEIGHT, WIDTH)), given()
    rows = zip(tensors["boxes"], tensors["labels"], strict=True)
    found = torch.stack([match(boxes, anchors, labels >= 0) for boxes, labels in rows])
    assert torch.equal(found, expected["matches"])
    assert {0, 1, 2, BETWEEN} <= set(found.flatten().tolist())


def test_coding_of_boxes_is_equal(version: str) -> None:
    expected, anchors = reference(version), torch.cat(ours(version).anchors(HEIGHT, WIDTH))
    boxes = given()["boxes"][0, :1].expand_as(anchors)
    assert_near(encode(boxes, anchors), expected["codes"])
    deltas = 4 * expected["answers"][0, :, CLASSES:]
    found = decode(deltas, anchors)
    assert_near(found, expected["decoded"])


def test_loss_and_gradients_are_equal(version: str) -> None:
    expected, model = reference(version), ours(version)
    task = ObjectDetectionConfig().build(model.config)
    losses = [task.loss(model, part) for part in batch().split(1)]
    for part in ("classes", "boxes"):  # theirs is the mean over pictures of what is a ratio for each
        found = sum(loss.parts[part] / loss.weight for loss in losses) / 2
        assert_near(found, expected[part])
    (sum(loss.sum / loss.weight for loss in losses) / 2).backward()
    gradients = {renamed(key): tensor for key, tensor in under(expected, "gradients.").items()}
    parameters = dict(model.named_parameters())
    assert gradients.keys() == parameters.keys()
    for name, gradient in gradients.items():
        assert_near(parameters[name].grad, gradient)
    assert min(gradient.abs().max().item() for gradient in gradients.values()) > 100 * TOLERANCE


def test_another_loss_is_noticed(version: str) -> None:
    model, part = ours(version), batch().split(1)[0]
    for change in ({"focal_alpha": 0.3}, {"focal_gamma": 1.9}, {"box_beta": 0.1}):
        plain, other = (ObjectDetectionConfig(**c).build(model.config).loss(model, part) for c in ({}, change))
        assert not torch.isclose(plain.sum, other.sum, rtol=1e-3)


def test_detections_are_equal(version: str) -> None:
    expected, anchors = reference(version), ours(version).anchors(HEIGHT, WIDTH)
    for number, answers in enumerate(expected["answers"]):
        theirs = under(expected, f"found.{number}.")
        found = detect(answers, anchors, (60, 90), CHOICE)
        assert len(theirs["scores"]) > 20
        assert_near(found.scores, theirs["scores"])
        assert torch.equal(found.labels, theirs["labels"])
        assert_near(found.boxes, theirs["boxes"])
        assert torch.equal(found.boxes, clip(found.boxes, 60, 90))
        loose = detect(answers, anchors, (60, 90), replace(CHOICE, overlap=1.0))
        assert not torch.equal(loose.scores, found.scores), "suppression must have taken some away"


def test_torchvisions_file_is_recognised_and_read(version: str, tmp_path: Path) -> None:
    weights = under(reference(version), "weights.")
    save_file(weights, tmp_path / "model.safetensors")
    model, wanted = recognise(tmp_path), ours(version)
    assert model is not None
    assert model.config.replace(image_shape=(3, HEIGHT, WIDTH)) == wanted.config.replace(
        trunk={**wanted.config.trunk.model_dump(), "stem_dim": 64}
    )
    found = model.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.state_dict().items())
    assert found.keys() == wanted.state_dict().keys()
    del weights["backbone.fpn.layer_blocks.2.0.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(FileError, match="missing"):
        recognise(tmp_path)
