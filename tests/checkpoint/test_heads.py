"""Fine-tuning from weights of another head: what is taken, what begins anew, what is left out, and that it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dougong.checkpoint.weights import load_weights, save_model
from dougong.core.config import validate
from dougong.core.errors import FileError, RecipeError
from dougong.core.log import listening
from dougong.models.bert import SMALL, BertConfig
from dougong.models.gpt import SMALL as GPTS
from dougong.models.gpt import GPTConfig
from dougong.recipe import load
from tests.tiny import tiny_recipe

BERT: dict[str, Any] = {"num_segments": 2, "activation": "gelu"}  # of the same shape in every head
HEADS = sorted(SMALL)
# What each head has beside the trunk.
OWN = {
    "masked_lm": {"words"},
    "pretraining": {"words", "pooler", "answer"},
    "classify": {"pooler", "answer"},
    "tag": {"answer"},
    "spans": {"answer"},
    "pooled": {"pooler"},
    "sentence": set(),
}


def bert(head: str, seed: int = 0, **changes: Any) -> nn.Module:
    return filled(validate(BertConfig, SMALL[head] | BERT | changes).build(), seed)


def filled(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.0, 0.1, generator=generator)
    return model


def told(model: nn.Module, folder: Path, fresh: list[str]) -> list[str]:
    said: list[str] = []
    with listening(said.append):
        load_weights(model, folder, fresh)
    return said


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("start", HEADS)
def test_any_head_begins_any_other(start: str, tmp_path: Path) -> None:
    source = bert(start, seed=1)
    save_model(source, tmp_path)
    theirs = source.state_dict()
    for head in HEADS:
        model = bert(head)
        before = copied(model)
        shared = OWN[head] & OWN[start] - ({"answer"} if head != start else set())
        new = OWN[head] - shared
        said = told(model, tmp_path, [f"{part}.*" for part in new])
        for name, tensor in model.state_dict().items():
            fresh = name.split(".")[0] in new
            assert torch.equal(tensor, before[name] if fresh else theirs[name]), (head, name)
        left = OWN[start] - shared if head != start else set()
        assert len(said) == bool(left), said
        if left:
            begin, names = f"left out of {tmp_path}: ", said[0].split(": ")[1].removesuffix(f" of its head {start}")
            assert said[0].startswith(begin)
            assert set(names.split(", ")) == {f"{part}.*" for part in left}


def test_what_the_new_head_lacks_must_be_named(tmp_path: Path) -> None:
    """The control: nothing begins anew by itself, and an answer of other classes is not taken for its own."""
    save_model(bert("pretraining", seed=1), tmp_path)
    model = bert("classify", num_classes=2)  # of the shape of "it follows" and "it does not"
    before = copied(model)
    with pytest.raises(FileError, match=r"2 are missing \(answer\.weight, answer\.bias\)\. Name what is to start anew"):
        load_weights(model, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_another_depth_is_refused_under_any_head(tmp_path: Path) -> None:
    save_model(bert("masked_lm", num_layers=3), tmp_path)
    with pytest.raises(FileError, match=r"are unknown \(blocks\.2\."):
        load_weights(bert("tag"), tmp_path, ["answer.*"])
    with pytest.raises(FileError, match=r"are missing \(blocks\.3\."):
        load_weights(bert("tag", num_layers=4), tmp_path, ["answer.*"])


def test_other_classes_of_the_same_head_must_be_named(tmp_path: Path) -> None:
    save_model(bert("classify", seed=1), tmp_path)
    with pytest.raises(FileError, match=r"of another shape \(answer\.weight is \[3, 16\] for \[7, 16\].*in init_new"):
        load_weights(bert("classify", num_classes=7), tmp_path)
    assert told(bert("classify", num_classes=7), tmp_path, ["answer.*"]) == []


def test_another_computation_of_the_same_shapes_is_told(tmp_path: Path) -> None:
    """Sixteen wide in two heads or in four: every matrix has the same shape, and none means the same."""
    save_model(bert("masked_lm", seed=1), tmp_path)
    said = told(bert("masked_lm", num_heads=4, norm_eps=0.5, dropout=0.3, init_std=0.1), tmp_path, [])
    assert len(said) == 1, said
    assert f"{tmp_path} was trained with num_heads: 2, norm_eps: 1e-12, but the model has num_heads: 4" in said[0]
    assert told(bert("masked_lm", dropout=0.3, init_std=0.1), tmp_path, []) == []


def test_a_pooler_that_the_files_hold_is_taken(tmp_path: Path) -> None:
    """The best-known folder names masked words in its config, but its files hold the pooler."""
    source = bert("pretraining", seed=1)
    save_model(source, tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("BertForPreTraining", "BertForMaskedLM"))
    (tmp_path / "manifest.json").unlink()
    model, theirs = bert("classify"), source.state_dict()
    said = told(model, tmp_path, ["answer.*"])
    assert torch.equal(model.state_dict()["pooler.weight"], theirs["pooler.weight"])
    assert len(said) == 1, said
    assert "words." in said[0]
    model = bert("classify")
    before = copied(model)
    load_weights(model, tmp_path, ["answer.*", "pooler.*"])
    assert torch.equal(model.state_dict()["pooler.weight"], before["pooler.weight"]), "what is named stays"
    tensors = {
        name: tensor for name, tensor in load_file(tmp_path / "model.safetensors").items() if "pooler" not in name
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(FileError, match=r"2 are missing \(pooler\.weight, pooler\.bias\)"):
        load_weights(bert("classify"), tmp_path, ["answer.*"])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_language_model_begins_a_classifier_and_the_other_way_round(kind: str, tmp_path: Path) -> None:
    values = GPTS[kind] | {"tie_embeddings": True}
    writer = filled(validate(GPTConfig, GPTS[kind]).build(), 1)
    classifier = filled(validate(GPTConfig, values | {"head": "classify", "num_classes": 3}).build(), 2)
    save_model(writer, tmp_path / "writer")
    save_model(classifier, tmp_path / "classifier")
    model = filled(validate(GPTConfig, classifier.config.model_dump()).build(), 3)
    said = told(model, tmp_path / "writer", ["score.*"])
    assert [line.partition(": ")[2] for line in said] == (
        [] if writer.config.tie_embeddings else ["unembedding.weight of its head lm"]
    )
    assert torch.equal(model.blocks[1].attention.qkv.weight, writer.blocks[1].attention.qkv.weight)
    with pytest.raises(FileError, match=r"1 is missing \(score\.weight\)"):
        load_weights(model, tmp_path / "writer")
    back = filled(validate(GPTConfig, GPTS[kind]).build(), 4)
    load_weights(back, tmp_path / "classifier", [] if writer.config.tie_embeddings else ["unembedding.*"])
    assert torch.equal(back.final_norm.weight, classifier.final_norm.weight)


def test_a_recipe_takes_the_model_of_its_folder_but_for_what_it_gives(tmp_path: Path) -> None:
    save_model(bert("tag", num_classes=9), tmp_path / "start")
    values = {**tiny_recipe(tmp_path), "init_from": str(tmp_path / "start"), "init_new": ["answer.*"]}
    model: Any = load({**values, "model": {"head": "classify", "dropout": 0.3}}).model
    assert (model.head, model.num_classes, model.dropout, model.dim) == ("classify", None, 0.3, 16)
    model = load({**values, "model": {"head": "masked_lm"}}).model
    assert (model.head, model.num_classes) == ("masked_lm", None), "classes are those of the head that was"
    with pytest.raises(RecipeError, match="dimm"):
        load({**values, "model": {"dimm": 3}})
    del values["init_from"], values["init_new"]
    with pytest.raises(RecipeError, match="name"):
        load({**values, "model": {"head": "classify"}})
