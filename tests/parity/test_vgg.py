"""VGGs against torchvision: the same random weights, outputs, gradients and batch statistics, without dropout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dougong.checkpoint.weights import load_model, recognise
from tests.parity.reference import TOLERANCE
from tests.parity.test_resnet import assert_equal, foreign_state, part
from tests.parity.torchvision_reference import run_reference

IMAGES = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 3, 1])
SCRIPT = """
from torchvision.models import vgg
kinds = {
    "plain": [8, "M", 12, "M", 16, 16, "M"],
    "normed": [8, 8, "M", 12, "M", 16, "M"],
}
for kind, layers in kinds.items():
    model = vgg.VGG(vgg.make_layers(layers, batch_norm=kind == "normed"), num_classes=5, dropout=0.0).train()
    model.classifier[0] = torch.nn.Linear(16 * 49, 20)
    model.classifier[3] = torch.nn.Linear(20, 20)
    model.classifier[6] = torch.nn.Linear(20, 5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    outputs |= {f"{kind} before {name}": tensor.clone() for name, tensor in model.state_dict().items()}
    logits = model(inputs["images"])
    torch.nn.functional.cross_entropy(logits, inputs["labels"]).backward()
    outputs[f"{kind} train"] = logits
    outputs |= {f"{kind} gradient {name}": parameter.grad for name, parameter in model.named_parameters()}
    outputs |= {f"{kind} buffer {name}": buffer for name, buffer in model.named_buffers()}
    outputs[f"{kind} eval"] = model.eval()(inputs["images"])
"""


@pytest.fixture(scope="module")
def torchvision() -> dict[str, Tensor]:
    return run_reference(SCRIPT, images=IMAGES, labels=LABELS)


def recognised(tensors: dict[str, Tensor], folder: Path) -> nn.Module:
    save_file(tensors, folder / "model.safetensors")
    model = recognise(folder)
    assert model is not None
    return model


@pytest.mark.parametrize(("kind", "depths"), [("plain", (1, 1, 2)), ("normed", (2, 1, 1))])
def test_vgg_equals_torchvision(
    kind: str, depths: tuple[int, ...], torchvision: dict[str, Tensor], tmp_path: Path
) -> None:
    model = recognised(part(torchvision, f"{kind} before "), tmp_path).train()
    assert model.config.depths == depths
    found = model(IMAGES)
    assert found.std() > 0.01
    torch.testing.assert_close(found, torchvision[f"{kind} train"], rtol=0, atol=TOLERANCE)
    nn.functional.cross_entropy(found, LABELS).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert_equal(foreign_state(model, "torchvision_vgg", gradients), part(torchvision, f"{kind} gradient "))
    buffers = part(torchvision, f"{kind} buffer ")
    wanted = {name: tensor for name, tensor in buffers.items() if not name.endswith("num_batches_tracked")}
    assert_equal(foreign_state(model, "torchvision_vgg", dict(model.named_buffers())), wanted)
    torch.testing.assert_close(model.eval()(IMAGES), torchvision[f"{kind} eval"], rtol=0, atol=TOLERANCE)


def test_a_maximum_at_another_place_is_noticed(torchvision: dict[str, Tensor], tmp_path: Path) -> None:
    model = recognised(part(torchvision, "plain before "), tmp_path).eval()
    assert (model(IMAGES.flip(3)) - torchvision["plain eval"]).abs().max() > 100 * TOLERANCE


def test_timm_vgg_is_read_with_its_classifier_of_convolutions(tmp_path: Path) -> None:
    """timm's VGG computes its classifier by convolutions of 7 x 7 and 1 x 1: the same numbers in another shape."""
    config = {"name": "vgg", "num_classes": 3, "image_shape": (3, 224, 224)}
    from dougong.models.vgg import VGGConfig

    with torch.device("meta"):
        names = VGGConfig(**config).build().state_dict()
    from dougong.checkpoint.convert import timm_vgg

    values = VGGConfig(**config).model_dump(mode="json")
    layout = timm_vgg.layout(values, names)
    theirs = {}
    for ours, (piece,) in layout.items():
        shape = names[ours].shape
        wide = shape if piece.window is None else (shape[0], shape[1] // piece.window**2, piece.window, piece.window)
        theirs[piece.name] = torch.zeros(wide, dtype=torch.float16)
    assert theirs["pre_logits.fc1.weight"].shape == (4096, 512, 7, 7)
    assert theirs["pre_logits.fc2.weight"].shape == (4096, 4096, 1, 1)
    theirs["pre_logits.fc1.weight"][5, 7, 2, 3] = 1.0
    save_file(theirs, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "vgg11", "num_classes": 3}', encoding="utf-8")
    model = load_model(tmp_path)
    place = model.hidden[0].weight[5].nonzero().item()
    assert place == 7 * 49 + 2 * 7 + 3, "row by row, as our flattened map is"
