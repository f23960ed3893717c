"""LoRA: adapters go to peft and come from it, beside models of transformers, with the same outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dougong.checkpoint.weights import load_model, save_model
from dougong.train.adapter import LoraConfig, lora
from tests.parity.reference import TOLERANCE, randomised, saved

# peft asks transformers by a name that is about to go.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
TOKENS = torch.randint(0, 97, (3, 20), generator=torch.Generator().manual_seed(5))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_positions=32, n_embd=24, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    )


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=97, num_key_value_heads=2, max_position_embeddings=32, **shape))


def bert(name: str) -> nn.Module:
    import transformers

    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    labels = {} if name == "BertModel" else {"num_labels": 3}
    config = transformers.BertConfig(vocab_size=97, max_position_embeddings=32, **shape, **labels)
    return getattr(transformers, name)(config)


def classifier() -> nn.Module:
    return bert("BertForSequenceClassification")


def pooled() -> nn.Module:
    return bert("BertModel")


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "gpt2": gpt2,
    "llama": llama,
    "bert classifier": classifier,
    "bert alone": pooled,
}
ALSO = {"bert classifier": ("answer.*",)}


def output(model: Any) -> Tensor:
    found = model(TOKENS)
    if isinstance(found, Tensor):
        return found
    return found.pooler_output if hasattr(found, "pooler_output") else found.logits


@torch.no_grad()
def stir(model: nn.Module) -> None:
    """Draws all that trains, so that no B is 0."""
    for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        nn.init.normal_(parameter, 0.0, 0.2, generator=torch.Generator().manual_seed(number))


def score(found: Tensor) -> Tensor:
    """A number that depends on every output, each in its own way."""
    return (found * torch.linspace(-1, 1, found.numel()).reshape(found.shape)).sum() / found.numel()


@pytest.mark.parametrize("family", FAMILIES)
def test_ours_opens_in_peft_with_the_same_outputs_and_gradients(family: str, tmp_path: Path) -> None:
    from peft import PeftModel

    theirs = randomised(FAMILIES[family]())
    before = output(theirs).detach()
    model = load_model(saved(theirs, tmp_path / "begun"))
    lora.attach(model, LoraConfig(rank=3, alpha=5.0, targets=("blocks.*",)), ALSO.get(family, ()))
    stir(model)
    bare, adapter = lora.plain(model, merged=False)
    save_model(bare, tmp_path / "ours", adapter=adapter)
    loaded = PeftModel.from_pretrained(theirs, tmp_path / "ours" / "adapter", is_trainable=True).eval()
    expected, found = output(loaded), output(model.eval())
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    assert (expected - before).abs().max() > 0.01
    score(expected).backward()
    score(found).backward()
    assert len(expected_gradients(loaded)) >= len(adapter.halves)
    compare_gradients(model, expected_gradients(loaded))


def expected_gradients(loaded: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in loaded.named_parameters() if p.grad is not None}


def compare_gradients(model: Any, theirs: dict[str, Tensor]) -> None:
    """Each half of ours has the gradients of its parts there: of A their sum, as all have the same, of B its rows."""
    from dougong.checkpoint.convert import dialect_of, dialects

    values = (model.config.filled() if hasattr(model.config, "filled") else model.config).model_dump(mode="json")
    dialect = next(d for d in dialects() if d.write_config(values) is not None)
    assert dialect is dialect_of(dialect.write_config(values))
    plain = lora.plain(model, merged=False)[0].state_dict()
    short = {name.removeprefix("base_model.model."): gradient for name, gradient in theirs.items()}
    known = {name if name in short else name.removeprefix(dialect.PREFIX) for name in short}
    assert known
    for path, layer in lora.layers(model).items():
        down, up = (half["default"].weight.grad for half in (layer.lora_A, layer.lora_B))
        names = [piece.name.removesuffix(".weight") for piece in dialect.layout(values, plain)[f"{path}.weight"]]
        names = [n if f"{n}.lora_A.default.weight" in short else n.removeprefix(dialect.PREFIX) for n in names]
        parts = [[short[f"{name}.lora_{half}.default.weight"] for name in names] for half in "AB"]
        torch.testing.assert_close(down, torch.stack(parts[0]).sum(0), rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(up, torch.cat(parts[1]), rtol=0, atol=TOLERANCE)
        assert down.abs().max() > 0
    for name, gradient in short.items():
        if "modules_to_save" in name:
            ours = name.replace("classifier.modules_to_save.default", "answer")
            torch.testing.assert_close(model.get_parameter(ours).grad, gradient, rtol=0, atol=TOLERANCE)


TARGETS = {
    "gpt2": (["c_attn", "c_fc"], None),
    "llama": (["q_proj", "v_proj", "down_proj"], None),
    "bert classifier": (["query", "value"], ["classifier"]),
    "bert alone": (["query", "output.dense"], None),
}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rslora", [False, True])
def test_theirs_opens_here_with_the_same_outputs(family: str, rslora: bool, tmp_path: Path) -> None:
    import peft

    theirs = randomised(FAMILIES[family]())
    before = output(theirs)
    saved(theirs, tmp_path)
    targets, whole = TARGETS[family]
    settings = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=targets,
        modules_to_save=whole,
        use_rslora=rslora,
        fan_in_fan_out=family == "gpt2",
    )
    loaded = peft.get_peft_model(theirs, settings).eval()
    stir(loaded)
    loaded.save_pretrained(tmp_path / "adapter")
    expected = output(loaded)
    assert (expected - before).abs().max() > 0.01
    torch.testing.assert_close(output(load_model(tmp_path).eval()), expected, rtol=0, atol=TOLERANCE)


def test_names_are_as_short_as_peft_reads_them(tmp_path: Path) -> None:
    from dougong.core.files import read_json

    model = load_model(saved(gpt2(), tmp_path / "begun"))
    lora.attach(model, LoraConfig())
    lora.draw(model, 0)
    bare, adapter = lora.plain(model, merged=False)
    save_model(bare, tmp_path / "ours", adapter=adapter)
    said = read_json(tmp_path / "ours" / "adapter" / "adapter_config.json")
    assert said["target_modules"] == ["c_attn", "attn.c_proj"]  # c_proj alone would fit the feed-forward network's
    assert said["fan_in_fan_out"] is True
