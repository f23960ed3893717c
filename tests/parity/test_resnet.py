"""ResNets against transformers and torchvision: the same random weights, outputs, gradients and batch statistics."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from dougong.checkpoint.weights import load_model, recognise, save_model
from dougong.core.config import find_part
from dougong.core.errors import FileError
from tests.parity.reference import TOLERANCE, saved
from tests.parity.torchvision_reference import run_reference

IMAGES = torch.randn(4, 3, 40, 36, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 3, 1, 4])
KINDS: dict[str, dict[str, Any]] = {
    "basic": {"layer_type": "basic", "hidden_sizes": [8, 16, 24], "embedding_size": 8, "depths": [1, 2, 1]},
    "bottleneck": {"layer_type": "bottleneck", "hidden_sizes": [16, 32], "embedding_size": 8, "depths": [2, 1]},
    "paper": {
        "layer_type": "bottleneck",
        "hidden_sizes": [16, 32],
        "embedding_size": 8,
        "depths": [1, 2],
        "downsample_in_bottleneck": True,
    },
}


def randomised(reference: nn.Module) -> nn.Module:
    """Returns the reference with every value drawn, running statistics included."""
    for name, tensor in reference.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif "normalization.weight" in name:
            nn.init.uniform_(tensor, 0.8, 1.2)
        elif tensor.is_floating_point():
            nn.init.normal_(tensor, 0.0, 1.0 if name.startswith("classifier") else 0.1)
    return reference


def reference_of(kind: str) -> nn.Module:
    torch.manual_seed(1)
    return randomised(ResNetForImageClassification(ResNetConfig(num_labels=5, **KINDS[kind])))


def foreign_state(model: nn.Module, dialect: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors by our names under theirs."""
    values = model.config.filled().model_dump(mode="json")
    layout = find_part("checkpoint.convert", dialect).layout(values, tensors)
    return {layout[name][0].name: tensor for name, tensor in tensors.items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    gaps = {name: (found[name] - expected[name]).abs().max().item() for name in expected}
    scales = {name: max(1.0, expected[name].abs().max().item()) for name in expected}
    assert {name: gap for name, gap in gaps.items() if gap > TOLERANCE * scales[name]} == {}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("kind", KINDS)
def test_resnet_equals_transformers(kind: str, training: bool, tmp_path: Path) -> None:
    reference = reference_of(kind).train(training)
    model = load_model(saved(reference, tmp_path)).train(training)
    expected, found = reference(IMAGES).logits, model(IMAGES)
    assert expected.std() > 0.1, "logits must differ for the comparison to mean something"
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    nn.functional.cross_entropy(expected, LABELS).backward()
    nn.functional.cross_entropy(found, LABELS).backward()
    assert_equal(
        foreign_state(model, "resnet", {name: p.grad for name, p in model.named_parameters()}),
        {name: p.grad for name, p in reference.named_parameters()},
    )
    buffers = {name: b for name, b in reference.named_buffers() if not name.endswith("num_batches_tracked")}
    assert_equal(foreign_state(model, "resnet", dict(model.named_buffers())), buffers)


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_write_opens_in_transformers(kind: str, tmp_path: Path) -> None:
    model = load_model(saved(reference_of(kind), tmp_path / "theirs")).eval()
    labels = ["ant", "bee", "cow", "dog", "elk"]
    save_model(model, tmp_path / "ours", labels=labels)
    again, told = ResNetForImageClassification.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert [again.config.id2label[number] for number in range(5)] == labels
    torch.testing.assert_close(again.eval()(IMAGES).logits, model(IMAGES), rtol=0, atol=TOLERANCE)


def test_a_wrong_stride_is_noticed(tmp_path: Path) -> None:
    reference = reference_of("paper").eval()
    model = load_model(saved(reference, tmp_path))
    other = copy.deepcopy(model.config).replace(strided="middle").build()
    other.load_state_dict(model.state_dict())
    assert (other.eval()(IMAGES) - reference(IMAGES).logits).abs().max() > 100 * TOLERANCE


TORCHVISION = """
from torchvision.models import resnet
kinds = {"basic": (resnet.BasicBlock, [1, 2, 1, 1]), "bottleneck": (resnet.Bottleneck, [1, 1, 2, 1])}
for kind, (block, depths) in kinds.items():
    model = resnet.ResNet(block, depths, num_classes=5).train()
    images = inputs["images"]
    outputs |= {f"{kind} before {name}": tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(images)
    torch.nn.functional.cross_entropy(logits, inputs["labels"]).backward()
    outputs[f"{kind} train"] = logits
    outputs |= {f"{kind} gradient {name}": parameter.grad for name, parameter in model.named_parameters()}
    outputs |= {f"{kind} buffer {name}": buffer for name, buffer in model.named_buffers()}
    outputs[f"{kind} eval"] = model.eval()(images)
"""


@pytest.fixture(scope="module")
def torchvision() -> dict[str, Tensor]:
    return run_reference(TORCHVISION, images=IMAGES, labels=LABELS)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_resnet_equals_torchvision(kind: str, torchvision: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(part(torchvision, f"{kind} before "), tmp_path / "model.safetensors")
    model = recognise(tmp_path)
    assert model is not None
    model.train()
    found = model(IMAGES)
    torch.testing.assert_close(found, torchvision[f"{kind} train"], rtol=0, atol=TOLERANCE)
    nn.functional.cross_entropy(found, LABELS).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert_equal(foreign_state(model, "timm_resnet", gradients), part(torchvision, f"{kind} gradient "))
    buffers = part(torchvision, f"{kind} buffer ")
    wanted = {name: tensor for name, tensor in buffers.items() if not name.endswith("num_batches_tracked")}
    assert_equal(foreign_state(model, "timm_resnet", dict(model.named_buffers())), wanted)
    torch.testing.assert_close(model.eval()(IMAGES), torchvision[f"{kind} eval"], rtol=0, atol=TOLERANCE)


def test_timm_folder_is_read_by_its_architecture(tmp_path: Path) -> None:
    script = """
model = torchvision.models.resnet18(num_classes=5).eval()
outputs |= {f"state {name}": tensor for name, tensor in model.state_dict().items()}
outputs["logits"] = model(inputs["images"])
"""
    found = run_reference(script, images=IMAGES)
    save_file(part(found, "state "), tmp_path / "model.safetensors")
    config = '{"architecture": "resnet18", "num_classes": 5, "pretrained_cfg": {"input_size": [3, 40, 36]}}'
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    model = load_model(tmp_path)
    assert model.config.image_shape == (3, 40, 36)
    torch.testing.assert_close(model.eval()(IMAGES), found["logits"], rtol=0, atol=TOLERANCE)
    (tmp_path / "config.json").write_text(re.sub("resnet18", "resnet34", config), encoding="utf-8")
    with pytest.raises(FileError, match="missing"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(re.sub("resnet18", "convnext_tiny", config), encoding="utf-8")
    with pytest.raises(FileError, match=r"architecture in config.json must be of timm's resnet or vgg"):
        load_model(tmp_path)


def test_saved_resnet_reloads_equal_in_every_tensor(tmp_path: Path) -> None:
    model = load_model(saved(reference_of("basic"), tmp_path / "theirs"))
    save_model(model, tmp_path / "ours")
    tensors = load_file(tmp_path / "ours" / "model.safetensors")
    again = load_model(tmp_path / "ours")
    assert again.config == model.config
    assert len([name for name in tensors if not name.endswith("num_batches_tracked")]) == len(model.state_dict())
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
