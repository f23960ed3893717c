"""Compares a model of ours with the transformers model whose folder it was read from: logits, gradients, files."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dougong.checkpoint.convert import dialect_of
from dougong.checkpoint.weights import load_model, save_model
from dougong.core.errors import FileError

TOLERANCE = 1e-5
TOKENS = torch.randint(0, 97, (3, 40), generator=torch.Generator().manual_seed(5))


def randomised(reference: nn.Module) -> nn.Module:
    """Returns the reference with every parameter drawn, so that none hides behind a zero or a one."""
    for name, parameter in reference.named_parameters():
        centre = 1.0 if "norm" in name or "ln_" in name else 0.0
        nn.init.normal_(parameter, centre if name.endswith("weight") else 0.0, 0.1)
    return reference.eval()


def saved(reference: nn.Module, folder: Path, shard_size: str = "1GB") -> Path:
    """Writes the reference as transformers does."""
    reference.save_pretrained(folder, safe_serialization=True, max_shard_size=shard_size)
    return folder


def mean_loss(logits: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


def gradient_gaps(reference: nn.Module, model: nn.Module) -> dict[str, float]:
    """Returns, for each parameter of theirs, the largest difference between its gradient and ours."""
    values = model.config.filled().model_dump(mode="json")
    ours = dict(model.named_parameters())
    gradients = {}
    dialect = dialect_of({"model_type": reference.config.model_type})
    for name, pieces in dialect.layout(values, ours).items():
        for piece in pieces:
            gradient = ours[name].grad if piece.rows is None else ours[name].grad[slice(*piece.rows)]
            gradients[piece.name] = gradient.T if piece.transposed else gradient
    named = ((n if n in gradients else dialect.PREFIX + n, parameter) for n, parameter in reference.named_parameters())
    theirs = {name: parameter.grad for name, parameter in named}
    assert gradients.keys() == theirs.keys()
    return {name: (gradients[name] - theirs[name]).abs().max().item() for name in theirs}


def assert_parity(reference: nn.Module, folder: Path) -> nn.Module:
    """Asserts equal logits and equal gradients of every parameter; returns our model, read from the folder."""
    model = load_model(saved(randomised(reference), folder))
    assert sum(p.numel() for p in model.parameters()) == reference.num_parameters()
    expected, found = reference(TOKENS).logits, model(TOKENS)
    assert expected.std() > 0.1, "logits must differ for the comparison to mean something"
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    mean_loss(expected).backward()
    mean_loss(found).backward()
    gaps = gradient_gaps(reference, model)
    assert max(gaps.values()) < TOLERANCE, gaps
    assert min(parameter.grad.abs().max().item() for parameter in model.parameters()) > 10 * TOLERANCE
    return model


def assert_opens_in_transformers(reference: nn.Module, model: nn.Module, folder: Path) -> None:
    """Asserts that the folder we write is one of the same class, with no tensor missing or left over."""
    from transformers import AutoModelForCausalLM

    for shard_bytes, files in ((1 << 30, 1), (20_000, 2)):
        save_model(model, folder, eos_id=3, shard_bytes=shard_bytes)
        assert len(list(folder.glob("*.safetensors"))) >= files
        again, notes = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert type(again) is type(reference)
        assert not any(notes.values()), notes
        assert again.generation_config.eos_token_id == 3
        torch.testing.assert_close(again.eval()(TOKENS).logits, model(TOKENS), rtol=0, atol=TOLERANCE)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [type(reference).__name__]


def assert_every_form_opens(reference: nn.Module, folder: Path) -> None:
    """Asserts that shards, the bare model without its head's prefix, and other precisions are all read."""
    randomised(reference)
    logits = reference(TOKENS).logits
    sharded = saved(reference, folder / "sharded", "20KB")
    assert (sharded / "model.safetensors.index.json").exists()
    torch.testing.assert_close(load_model(sharded)(TOKENS), logits, rtol=0, atol=TOLERANCE)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        narrow = saved(copy.deepcopy(reference).to(dtype), folder / str(dtype))
        assert {parameter.dtype for parameter in load_model(narrow).parameters()} == {dtype}
        expected = type(reference).from_pretrained(narrow, dtype=torch.float32).eval()(TOKENS).logits
        torch.testing.assert_close(load_model(narrow, dtype=torch.float32)(TOKENS), expected, rtol=0, atol=TOLERANCE)
    if reference.config.tie_word_embeddings:
        bare = saved(reference.base_model, folder / "bare")
        torch.testing.assert_close(load_model(bare)(TOKENS), logits, rtol=0, atol=TOLERANCE)


def assert_old_files_open(reference: nn.Module, folder: Path, computed: Mapping[str, Tensor]) -> None:
    """Asserts that what old versions saved beside the weights, of names within the trunk, is passed over."""
    model = load_model(saved(randomised(reference), folder))
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prefix = "" if reference.base_model is reference else f"{reference.base_model_prefix}."
    path = folder / "model.safetensors"
    tensors = load_file(path)
    more = {f"{prefix}{name}": tensor for name, tensor in computed.items()}
    save_file(tensors | more, path, metadata={"format": "pt"})
    assert all(torch.equal(tensor, kept[name]) for name, tensor in load_model(folder).state_dict().items())
    save_file(tensors | {f"{prefix}another.bias": torch.ones(3)}, path, metadata={"format": "pt"})
    with pytest.raises(FileError, match=f"1 is unknown .{prefix}another.bias"):  # the control
        load_model(folder)


def assert_classifier_parity(reference: nn.Module, folder: Path) -> None:
    """Asserts the same of a decoder with a head over classes: read at the last token that is not padding, both ways."""
    from transformers import AutoModelForSequenceClassification

    model = load_model(saved(randomised(reference), folder / "theirs"))
    lengths = torch.tensor([40, 23, 1])
    tokens = torch.where(TOKENS == 96, 0, TOKENS)
    tokens = torch.where(torch.arange(40) < lengths[:, None], tokens, 96)
    expected, found = reference(tokens).logits, model(tokens)
    assert expected.std() > 0.1, "logits must differ for the comparison to mean something"
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(model(tokens, lengths=lengths), expected, rtol=0, atol=TOLERANCE)
    assert (model(tokens, lengths=torch.full((3,), 40)) - expected).abs().max() > 1e-3, "the place must matter"
    for logits in (expected, found):
        logits.log_softmax(dim=-1)[:, 1].mean().backward()
    gaps = gradient_gaps(reference, model)
    assert max(gaps.values()) < TOLERANCE, gaps
    save_model(model, folder / "ours", labels=[f"class {number}" for number in range(expected.shape[1])])
    again, notes = AutoModelForSequenceClassification.from_pretrained(folder / "ours", output_loading_info=True)
    assert type(again) is type(reference)
    assert not any(notes.values()), notes
    assert (again.config.pad_token_id, again.config.id2label[1]) == (96, "class 1")
    torch.testing.assert_close(again.eval()(tokens).logits, expected, rtol=0, atol=TOLERANCE)
