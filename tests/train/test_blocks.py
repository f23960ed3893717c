from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dougong.core.errors import UsageError
from dougong.models.resnet import ResNetConfig
from dougong.nn.feedforward import FeedForward, activate, activate_compiled
from dougong.nn.whole import batch_norm_whole, relu_whole
from dougong.train import blocks
from dougong.train.blocks import choose_compile, eager, prepared_blocks
from dougong.train.loop import fit
from tests.train.small import Small, config, equal, job, weights


def test_recomputed_blocks_run_twice_and_give_the_same_gradients(tmp_path: Path) -> None:
    calls = []
    models = Small(), Small()
    models[1].blocks[0].register_forward_hook(lambda *_: calls.append(1))
    for model, recompute in zip(models, (False, True), strict=True):
        inner = model.blocks[0][0].register_forward_hook(lambda *_: calls.append(2)) if recompute else None
        fit(job(tmp_path / str(recompute), model, recompute=recompute, steps=3, validation=None))
        assert inner is None or calls.count(2) == 2 * 3
    assert equal(weights(models[0]), weights(models[1]))
    assert "forward" not in models[1].blocks[0].__dict__


def test_evaluation_recomputes_nothing() -> None:
    model, calls = Small(), []
    model.blocks[0][0].register_forward_hook(lambda *_: calls.append(1))
    with prepared_blocks(model, False, True), torch.inference_mode():
        model(torch.randn(3, 8))
    assert len(calls) == 1


def test_compiling_chooses_the_form_of_the_activation_and_gives_the_other_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)  # the compiler itself is tested below
    model = Small()
    model.blocks.append(FeedForward(4, 8, "gelu_tanh", bias=True))
    with prepared_blocks(model, True, False):
        assert model.blocks[-1].activate is activate_compiled
    assert model.blocks[-1].activate is activate


def test_compiling_leaves_norms_and_relus_whole_on_a_processor_and_gives_the_others_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: None)
    with torch.device("meta"):
        elsewhere = ResNetConfig(num_classes=2, depths=(1,), widths=(4,)).build()
    model = ResNetConfig(num_classes=2, depths=(1,), widths=(4,)).build()
    with prepared_blocks(model, True, False), prepared_blocks(elsewhere, True, False):
        (block,), (other,) = model.blocks, elsewhere.blocks
        assert (block.rectify, block.first.norm.normalise) == (relu_whole, batch_norm_whole)
        assert (other.rectify, other.first.norm.normalise) == (F.relu, F.batch_norm)
    assert (block.rectify, block.first.norm.normalise) == (F.relu, F.batch_norm)


@pytest.mark.parametrize("option", ["compile", "recompute"])
def test_a_model_without_blocks_cannot_be_asked_for_it(option: str) -> None:
    asked = {"compiled": option == "compile", "recompute": option == "recompute"}
    with (
        pytest.raises(UsageError, match=f"train.{option} needs a model with repeated blocks"),
        prepared_blocks(nn.Linear(2, 2), **asked),
    ):
        pass


@pytest.mark.parametrize(
    ("seconds", "steps", "expected"), [(1000.0, 10, True), (20.0, 99_999, False), (None, 10, False), (None, 9999, True)]
)
def test_auto_weighs_the_run_against_half_a_minute(seconds: float | None, steps: int, expected: bool) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("there is no C++ compiler")
    chosen, reason = choose_compile(config(steps=steps, compile="auto"), Small(), seconds)
    assert chosen is expected
    assert "run" in reason


def test_auto_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_compile(config(compile="auto"), nn.Linear(2, 2), 1e6) == (False, "the model has no repeated blocks")
    monkeypatch.setattr(blocks.shutil, "which", lambda name: None)
    assert choose_compile(config(compile="auto"), Small(), 1e6) == (False, "there is no C++ compiler here")
    with pytest.raises(UsageError, match=r"needs a compiler, but there is no C\+\+ compiler here"):
        choose_compile(config(compile=True), Small(), 1e6)
    assert choose_compile(config(compile=False), Small(), 1e6)[0] is False


COMPILED = """
import sys
from pathlib import Path
import torch
from dougong.train.loop import fit
from tests.train.small import Small, job, weights
models = Small(), Small()
for name, model, compile in zip("ab", models, (False, True)):
    fit(job(Path(sys.argv[1]) / name, model, compile=compile, steps=3))
from torch._dynamo.utils import counters
assert counters["stats"]["unique_graphs"] >= 1, counters
for a, b in zip(weights(models[0]).values(), weights(models[1]).values()):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
assert list(weights(models[0])) == list(weights(models[1]))
assert models[1].blocks[0]._compiled_call_impl is None
"""


MANY_FORMS = """
import sys
import torch
from torch import nn
from torch._dynamo.utils import counters
from dougong.models.resnet import VARIANTS, ResNetConfig
from dougong.train import blocks
blocks.FORMS_OF_A_BLOCK = float(sys.argv[1])
real = nn.Module.compile
nn.Module.compile = lambda self, **options: real(self, backend="eager", **options)
sizes = {"widths": (4, 8, 12, 16), "num_classes": 3, "image_shape": (3, 32, 32)}
model = ResNetConfig(**{**VARIANTS["resnet18"], **sizes}).build()
model.init_weights(0)
with blocks.prepared_blocks(model.train(), True, False):
    for number in (2, 3):
        model(torch.ones(number, 3, 32, 32)).sum().backward()
print(counters["frames"]["total"] == counters["frames"]["ok"])
"""


@pytest.mark.parametrize(("forms", "all_compiled"), [(blocks.FORMS_OF_A_BLOCK, "True"), (0.5, "False")])
def test_blocks_of_many_forms_and_batches_of_several_sizes_are_all_compiled(
    forms: float | int, all_compiled: str
) -> None:
    """A ResNet of 18 layers has blocks of seven forms: of the eight that torch grants, one is left for others."""
    words = [sys.executable, "-c", MANY_FORMS, str(forms)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == all_compiled, done.stderr


@pytest.mark.slow
def test_compiled_blocks_train_to_the_same_weights(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, tmp_path], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_compile_is_put_on_each_block_and_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compiled.append(self))
    model = Small()
    with prepared_blocks(model, True, False):
        assert compiled == list(model.blocks)
        with eager(model):
            pass
    with prepared_blocks(model, False, False):
        assert len(compiled) == 2
