"""A package of another author brings a model, a task and a dataset: the command line takes them as its own.

The package is a folder as `pip install --target` leaves it: three files, and metadata that name them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = '''
"""One hidden layer."""

from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import nn

from dougong.core import seed as seeds
from dougong.core.config import Config


class PerceptronConfig(Config):
    """A network with one hidden layer."""

    name: Literal["perceptron"] = "perceptron"
    """Which model family."""
    features: PositiveInt | None = None
    """Numbers of an example; absent: those of the data."""
    hidden_dim: PositiveInt = 8
    """Numbers of the hidden layer."""

    def build(self):
        return Perceptron(self)


class Perceptron(nn.Module):
    SPLIT: ClassVar[dict[str, str]] = {"*": "none"}

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.inner = nn.Linear(config.features, config.hidden_dim)
        self.outer = nn.Linear(config.hidden_dim, 1)

    @torch.no_grad()
    def init_weights(self, seed):
        for name, parameter in self.named_parameters():
            drawn = torch.randn(parameter.shape, generator=seeds.generator(seed, "init", name))
            parameter.copy_(drawn * 0.5 if parameter.ndim == 2 else drawn * 0)

    def forward(self, numbers):
        numbers = numbers.to(self.inner.weight.dtype)
        return self.outer(self.inner(numbers).tanh()).squeeze(-1)


PART = PerceptronConfig
VARIANTS = {"perceptron-wide": {"hidden_dim": 32}}
'''
TASK = '''
"""Numbers from numbers, by least squares."""

from typing import Literal

import torch

from dougong.core.config import Config
from dougong.core.contracts import Batch, Loss


class RegressionConfig(Config):
    """One number for each example, by least squares."""

    name: Literal["regression"] = "regression"
    """Which task."""

    def build(self, model, data=None):
        return Regression(model)


class Regression:
    item = "examples"
    pipeline_tag = "tabular-regression"

    def __init__(self, model):
        self.features = model.features

    def collate(self, examples, samples):
        numbers = torch.tensor([numbers for numbers, _ in examples], dtype=torch.float32)
        targets = torch.tensor([target for _, target in examples], dtype=torch.float32)
        return Batch({"numbers": numbers, "targets": targets}, torch.tensor(samples, dtype=torch.int64))

    def loss(self, model, batch):
        errors = (model(batch["numbers"]) - batch["targets"]).square()
        return Loss(errors.sum(), torch.tensor(float(len(errors)), device=errors.device), {})

    def metrics(self):
        return Error(self)

    def decode(self, outputs):
        return outputs.tolist()

    def example_batch(self, batch_size, device="meta"):
        numbers = torch.arange(batch_size * self.features, device=device, dtype=torch.float32)
        fields = {"numbers": numbers.reshape(batch_size, -1).sin(), "targets": torch.ones(batch_size, device=device)}
        return Batch(fields, torch.arange(batch_size, device=device))


class Error:
    def __init__(self, task):
        self.task, self.sum, self.weight = task, 0.0, 0.0

    def update(self, model, batch):
        loss = self.task.loss(model, batch)
        self.sum, self.weight = self.sum + float(loss.sum), self.weight + float(loss.weight)

    def compute(self):
        return {"loss": self.sum / self.weight, "root_mean_square": (self.sum / self.weight) ** 0.5}


PART = RegressionConfig
'''
DATASET = '''
"""Trees and their yields, which nobody need fetch."""

import math
from typing import Literal

from dougong.core.config import Config


class OrchardConfig(Config):
    """Trees: height, age and distance to the river, and how much they bear."""

    name: Literal["orchard"] = "orchard"
    """Which dataset."""
    trees: int = 60
    """How many there are."""

    def prepare(self, cache=None, seq_len=None):
        return OrchardData(self)

    def foreseen(self):
        return {"features": 3}


class OrchardData:
    determines = {"features": 3}
    licence, source = "CC0-1.0", "an orchard"

    def __init__(self, config):
        self.train = [(Trees(range(config.trees)), None)]
        self.validation = Trees(range(config.trees, config.trees + 20))
        self.fingerprint = f"{config.trees} trees"
        self.counts = [{"source": "orchard", "train": {"examples": config.trees}, "validation": {"examples": 20}}]

    def save_assets(self, folder):
        pass


class Trees:
    licence, source, fingerprint = "CC0-1.0", "an orchard", "trees"

    def __init__(self, numbers):
        self.numbers = numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number = self.numbers[index]
        tree = [math.sin(number), math.sin(3 * number), math.sin(7 * number)]
        return tree, tree[0] - 0.5 * tree[1] * tree[2]


PART = OrchardConfig
'''
ENTRY_POINTS = """\
[dougong.models]
perceptron = groves.perceptron

[dougong.tasks]
regression = groves.regression

[dougong.data.datasets]
orchard = groves.orchard
"""
RECIPE = """\
title: How much a tree bears
model: {name: perceptron, variant: perceptron-wide}
task: {name: regression}
data: {name: orchard}
train:
  steps: 60
  batch_size: 12
  precision: fp32
  device: cpu
  optimizer: {name: adamw, lr: 0.02}
  evaluate: {every: 20}
  checkpoint: {every: 30}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "groves").mkdir()
    texts = {"__init__": "", "perceptron": MODEL, "regression": TASK, "orchard": DATASET}
    for name, text in texts.items():
        (folder / "groves" / f"{name}.py").write_text(text)
    about = folder / "groves-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: groves\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def said(folder: Path, *words: str | Path, path: Path | None) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a folder, with a package on the path or without."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"DOUGONG_CACHE": str(folder / "cache")} | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, "-m", "dougong", *map(str, words)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_parts_of_another_package_are_listed_checked_trained_planned_and_evaluated(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "trees.yaml").write_text(RECIPE)

    def told(*words: str) -> str:
        done = said(tmp_path, *words, path=installed)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = json.loads(told("list", "--json"))
    assert listed["models"]["perceptron"] == {
        "about": "A network with one hidden layer.",
        "variants": ["perceptron-wide"],
    }
    assert listed["tasks"]["regression"] == "One number for each example, by least squares."
    assert listed["datasets"]["orchard"].startswith("Trees: height, age")
    checked = json.loads(told("check", "trees.yaml", "--json"))
    assert {each["name"] for each in checked["checks"] if each["verdict"] == "skipped"} == {
        "compiled",
        "precision",
        "initial_loss",
    }
    assert json.loads(told("plan", "trees.yaml", "--json"))["parameters"] == 4 * 32 + 33
    told("train", "trees.yaml", "--run", "run")
    found = json.loads(told("evaluate", "run", "--json"))
    assert found["loss"] < 0.1
    assert found["root_mean_square"] == pytest.approx(found["loss"] ** 0.5)


def test_without_the_package_the_recipe_is_refused_with_the_names_that_exist(tmp_path: Path) -> None:
    """The control."""
    (tmp_path / "trees.yaml").write_text(RECIPE)
    done = said(tmp_path, "train", "trees.yaml", path=None)
    assert done.returncode == 2
    for line, name, known in ((2, "perceptron", "resnet"), (3, "regression", "image_classification")):
        place = next(text for text in done.stderr.splitlines() if f"trees.yaml:{line}:" in text)
        assert name in place
        assert known in place
    assert "orchard" in done.stderr
    assert not (tmp_path / "runs").exists()
