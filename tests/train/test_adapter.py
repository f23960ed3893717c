"""An adapter begins as the model that it stands beside, trains alone, resumes to the bit, and merges exactly."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dougong.checkpoint.store import Store, load
from dougong.checkpoint.weights import load_model, load_weights, save_model
from dougong.core.errors import FileError, MissingExtra, RecipeError, UsageError
from dougong.models.gpt import GPTConfig
from dougong.plan.count import count, state_bytes, staying_bytes
from dougong.recipe.recipe import validated
from dougong.run import training
from dougong.run.evaluation import evaluate
from dougong.run.generation import generate
from dougong.run.memory import staging_of
from dougong.run.training import Run, new_model, train
from dougong.train.adapter import Adapted, LoraConfig, lora
from dougong.train.loop import Job, fit
from dougong.train.state import State
from tests.tiny import tiny_recipe
from tests.train.small import config

CONFIG = GPTConfig(vocab_size=61, max_seq_len=12, num_layers=2, num_heads=2, dim=16)
TOKENS = torch.randint(0, 61, (3, 12), generator=torch.Generator().manual_seed(3))


def based(config: GPTConfig = CONFIG) -> Any:
    """A model whose norms and biases are not what they begin as."""
    model = config.build()
    model.init_weights(0)
    stir(model, 1)
    return model


@torch.no_grad()
def stir(model: nn.Module, seed: int) -> None:
    """Moves all that trains, each parameter by what its name decides."""
    for number, parameter in enumerate(model.parameters()):
        if parameter.requires_grad:
            draw = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1000 * seed + number))
            parameter.add_(draw, alpha=0.1)


def adapted(new: tuple[str, ...] = (), seed: int = 0, **options: Any) -> Any:
    model = lora.attach(based(), LoraConfig(**options), new)
    lora.draw(model, seed)
    return model


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does() -> None:
    expected, model = based()(TOKENS), adapted(targets=("blocks.*",))
    assert torch.equal(model(TOKENS), expected)
    stir(model, 2)
    assert (model(TOKENS) - expected).abs().max() > 1e-2


def test_what_is_drawn_depends_on_the_seed_and_on_nothing_else() -> None:
    one = adapted().state_dict()
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    other, third = adapted().state_dict(), adapted(seed=1).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[name], other[name]) for name in one)
    drawn = {name for name in one if not torch.equal(one[name], third[name])}
    assert drawn == {name for name in one if ".lora_A." in name}
    down = one["blocks.0.attention.qkv.lora_A.default.weight"]
    assert 0.2 < down.abs().max() <= 16**-0.5
    assert not torch.equal(down, one["blocks.1.attention.qkv.lora_A.default.weight"])


def test_only_the_adapter_trains_and_what_is_named_beside_it() -> None:
    layers = ["attention.qkv", "attention.output"]
    halves = {f"blocks.{n}.{layer}.lora_{h}.default.weight" for n in (0, 1) for layer in layers for h in "AB"}
    assert trainable(adapted()) == halves
    also = {"final_norm.weight", "final_norm.bias", "position_embedding.weight"}
    assert trainable(adapted(also=("final_norm.*",), new=("position_embedding.*",))) == halves | also
    outside = adapted(new=("blocks.1.*",))  # what starts anew trains in full, and gets no adapter
    assert {name for name in halves if name.startswith("blocks.0.")} == {n for n in trainable(outside) if "lora" in n}
    assert "blocks.1.attention.qkv.weight" in trainable(outside)
    assert sum(p.numel() for p in adapted(rank=3).parameters() if p.requires_grad) == 2 * 3 * (16 + 48 + 16 + 16)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"targets": ("blocks.*.attention.qvk",)},
            r"adapter.targets\[0\] must fit .* 'blocks.\*.attention.qvk' fits none",
        ),
        ({"targets": ("*", "nothing")}, r"adapter.targets\[1\]"),
        ({"also": ("final_nrom.weight",)}, r"adapter.also\[0\] must fit .* Did you mean final_norm.weight\?"),
        ({"also": ("*",)}, "adapter.targets must fit a layer that does not train in full"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        adapted(**options)
    adapted(targets=("*",), also=("final_norm.weight",))


def test_without_the_library_the_line_to_type_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"pip install 'dougong\[lora\]'"):
        adapted()


@torch.no_grad()
@pytest.mark.parametrize("also", [(), ("final_norm.*", "position_embedding.weight", "blocks.1.feedforward.up.*")])
def test_merged_separate_and_trained_are_one(also: tuple[str, ...], tmp_path: Path) -> None:
    model = adapted(also=also, rank=3, alpha=5.0, targets=("blocks.*",))
    stir(model, 4)
    expected = model(TOKENS)
    merged, nothing = lora.plain(model, True)[0], lora.plain(model, False)[0]
    separate, adapter = lora.plain(model, False)
    save_model(merged, tmp_path / "merged")
    save_model(separate, tmp_path / "separate", adapter=adapter)
    for found in (merged, load_model(tmp_path / "merged"), load_model(tmp_path / "separate")):
        assert not lora.layers(found)
        torch.testing.assert_close(found(TOKENS), expected, rtol=0, atol=2e-6)
    again = based()
    load_weights(again, tmp_path / "separate")
    torch.testing.assert_close(again(TOKENS), expected, rtol=0, atol=2e-6)
    fresh = based()
    assert load_weights(fresh, tmp_path / "separate", ["blocks.0.*"])
    assert torch.equal(fresh.blocks[0].attention.qkv.weight, based().blocks[0].attention.qkv.weight)
    torch.testing.assert_close(fresh.blocks[1].attention.qkv.weight, merged.blocks[1].attention.qkv.weight)
    assert torch.equal(model(TOKENS), expected)  # and what was trained is as it was
    assert (nothing(TOKENS) - expected).abs().max() > 1e-2


def test_a_narrow_type_rounds_the_sum_once(tmp_path: Path) -> None:
    model = adapted()
    stir(model, 4)
    separate, adapter = lora.plain(model, False)
    save_model(separate, tmp_path / "separate", adapter=adapter)
    narrow = load_model(tmp_path / "separate", dtype=torch.bfloat16).state_dict()
    wide = load_model(tmp_path / "separate").state_dict()
    assert all(torch.equal(narrow[name], wide[name].bfloat16()) for name in wide)


def beside(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe that trains an adapter beside the model in the folder, which is made if it is not there."""
    if not (folder / "begun").exists():
        save_model(based(GPTConfig(**tiny_recipe(folder)["model"] | {"vocab_size": 257})), folder / "begun")
    values = tiny_recipe(folder, adapter={"rank": 2}, **changes)
    del values["model"]
    return {**values, "init_from": str(folder / "begun")}


QUIETLY: dict[str, Any] = {
    "train": {"samples": {"prompts": []}, "ema": {"decay": 0.5}, "log": {"trackers": []}, "evaluate": {"every": 0}},
    "data": {"validation": {"by": "position", "fraction": 0.01}},
}


def newest(folder: Path) -> dict[str, dict[str, Tensor]]:
    store = Store(folder / "checkpoints")
    return load(store.path(store.steps()[-1])).tensors


def test_planned_numbers_are_the_real_ones(tmp_path: Path) -> None:
    values = beside(tmp_path) | {"model": {**tiny_recipe(tmp_path)["model"], "vocab_size": 257}}
    recipe = validated(values, {})
    counted, state = count(recipe), State.create(recipe.train, new_model(recipe))
    trained = sum(p.numel() for p in state.parameters.values())
    assert counted.trained == trained == 2 * (16 + 48 + 16 + 16)
    assert counted.parameters == sum(p.numel() for p in state.model.parameters())
    assert counted.gradient_bytes == 4 * trained
    assert counted.optimizer_bytes < 8.2 * trained
    assert state_bytes(recipe) == counted.state_bytes
    plain = count(recipe.replace(adapter=None))
    assert plain.trained == plain.parameters == counted.parameters - trained
    assert counted.flops_per_sample < 0.8 * plain.flops_per_sample  # no slopes of what stays
    assert staying_bytes(recipe.trained()) == 4 * plain.parameters
    assert staying_bytes(recipe.model) == 0
    held = {name: t for group in state.tensors().values() for name, t in group.items()}
    assert held.keys() == state.parameters.keys()  # and so a checkpoint is as small


def test_what_a_checkpoint_is_written_from_is_planned(tmp_path: Path) -> None:
    from dougong.plan.memory import step_memory
    from dougong.tasks.language_modeling import LanguageModelingConfig

    options, task = config(steps=8, checkpoint={"every": 2}, optimizer={"name": "adamw"}), LanguageModelingConfig()
    network = Adapted(CONFIG, LoraConfig(rank=2))
    found = step_memory(network, task.build(CONFIG), task.build(CONFIG).example_batch(2, "cpu"), options)
    staged = staging_of(options, found, torch.device("cpu"), staying_bytes(network))
    trained = sum(p.numel() for p in network.build().parameters() if p.requires_grad)
    assert staged == 4 * trained + found.optimizer < found.weights / 2


def test_a_layer_whose_weight_another_part_reads_is_refused(tmp_path: Path) -> None:
    values = beside(tmp_path)
    values["model"] = {**tiny_recipe(tmp_path)["model"], "vocab_size": 257, "tie_embeddings": False}
    values["adapter"] = {"targets": ["*attention*", "unembedding"]}
    with pytest.raises(UsageError, match="weight of unembedding is read by another part"):
        count(validated(values, {}))
    count(validated(values | {"adapter": {"targets": ["*attention*"]}}, {}))


def test_what_would_have_no_effect_beside_an_adapter_is_refused(tmp_path: Path) -> None:
    values = beside(tmp_path) | {"model": {"name": "gpt"}}
    validated(values, {})
    with pytest.raises(RecipeError, match="train.frozen has no effect beside an adapter"):
        validated(values | {"train": {"frozen": ["final_norm.*"]}}, {})


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to run in; no run in it draws its report, which takes longer than all else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "write_page", lambda folder: None)
        yield tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def runs(begun: Path) -> dict[bool, Run]:
    """The same run, once unbroken and leaving one model; once resumed after 4 of 8 steps, and leaving two parts."""
    parts = {"rank": 2, "merge": False}
    train(beside(begun, **QUIETLY), run=begun / "parts", steps=4)
    return {
        True: train(beside(begun, **QUIETLY), run=begun / "whole"),
        False: train(beside(begun, **QUIETLY), run=begun / "parts", resume=True, adapter=parts),
    }


def test_a_run_leaves_one_model_or_two_parts_and_both_answer_alike(begun: Path, runs: dict[bool, Run]) -> None:
    one, other = (run.folder / "model" for run in runs.values())
    assert not (one / "adapter").exists()
    parts = {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in (other / "adapter").iterdir()} == parts
    before, left, separate = (load_model(folder).state_dict() for folder in (begun / "begun", one, other))
    changed = {name for name in before if not torch.equal(before[name], left[name])}
    assert changed == {"blocks.0.attention.qkv.weight", "blocks.0.attention.output.weight"}
    assert all((left[name] - separate[name]).abs().max() < 1e-6 for name in left)
    figures = {merge: evaluate(str(run.folder)) for merge, run in runs.items()}
    assert figures[True]["loss"] == pytest.approx(figures[False]["loss"], abs=1e-6)
    assert figures[True]["loss"] == pytest.approx(runs[True].metrics["loss"], abs=1e-5)
    texts = {generate(str(run.folder), "line ", max_new_tokens=6, seed=3) for run in runs.values()}
    assert len(texts) == 1
    (other / "adapter" / "adapter_model.safetensors").rename(other / "adapter" / "hidden")
    with pytest.raises(FileError, match="adapter_model.safetensors"):  # it is under the seal of the folder
        load_model(other)
    (other / "adapter" / "hidden").rename(other / "adapter" / "adapter_model.safetensors")


def test_what_was_planned_is_measured_and_told(runs: dict[bool, Run]) -> None:
    folder = runs[False].folder
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["trained"] == 192
    measured = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines() if '"measured"' in line]
    assert measured[0]["flops_per_step"] == plan["flops_per_step"]
    assert measured[0]["memory_bytes"] == pytest.approx(plan["memory_bytes"], rel=0.1)
    card = (folder / "model" / "README.md").read_text()
    assert "7,680 parameters, and 192 of an adapter beside them" in card
    assert "LoRA, rank 2, alpha 16) of 192 parameters" in card
    assert "7,680 parameters;" in (runs[True].folder / "model" / "README.md").read_text()


def test_a_resumed_adapter_is_the_unbroken_one(runs: dict[bool, Run]) -> None:
    one, other = (newest(run.folder) for run in runs.values())
    assert one["model"].keys() == {n for n in one["model"] if ".lora_" in n} == one["average"].keys()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[group][name], other[group][name]) for group in one for name in one[group])


def test_an_adapter_does_not_go_on_beside_other_weights_or_as_another(begun: Path, runs: dict[bool, Run]) -> None:
    folder = runs[True].folder
    with pytest.raises(UsageError, match="adapter.rank: was 2, is 3"):
        train(beside(begun, **QUIETLY), run=folder, resume=True, steps=9, adapter={"rank": 3})
    other = load_model(begun / "begun")
    stir(other, 9)
    save_model(other, begun / "begun")
    with pytest.raises(UsageError, match="weights_beside_adapter"):
        train(beside(begun, **QUIETLY), run=folder, resume=True, steps=9)


def test_recomputing_a_block_gives_the_same_gradients(tmp_path: Path) -> None:
    from tests.train.small import Small, SmallBatches, Squares

    def trained(folder: Path, recompute: bool) -> dict[str, Tensor]:
        model: Any = lora.attach(Small(), LoraConfig(rank=2, targets=("blocks.*",)))
        lora.draw(model, 0)
        folder.mkdir()
        fit(Job(config(recompute=recompute, steps=3), model, Squares(), SmallBatches(), folder))
        return {name: parameter for name, parameter in model.named_parameters()}

    plain, again = trained(tmp_path / "a", False), trained(tmp_path / "b", True)
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert any(plain[name].abs().max() > 0 for name in plain if "lora_B" in name)
