"""The training of a real GPT on real batches: what the parts promise one by one, together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dougong.core.config import validate
from dougong.data.examples import TokenRow
from dougong.data.loader import Batches, BatchSizes, everything, in_order, order
from dougong.models.gpt import GPT, GPTConfig
from dougong.tasks.language_modeling import LanguageModeling, LanguageModelingConfig
from dougong.train.loop import Job, batch_sizes, fit
from dougong.train.state import State
from dougong.train.step import Report, optimizer_step
from tests.train.small import config, equal, weights

VOCAB, LENGTH = 23, 16


class Rows:
    """A text in which every token follows from the one before, cut into documents of nine tokens."""

    fingerprint, licence, source = "rows", "none", "made up"

    def __init__(self, count: int, across: bool = False):
        self.count, self.across = count, across

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> TokenRow:
        places = np.arange(index * LENGTH, (index + 1) * LENGTH + 1)
        return TokenRow(places**2 % VOCAB, places // 9, self.across)


def model(**options: Any) -> GPT:
    values = {"vocab_size": VOCAB, "max_seq_len": LENGTH, "num_layers": 2, "num_heads": 2, "dim": 16, **options}
    built = validate(GPTConfig, values).build()
    built.init_weights(0)
    return built


def task(**options: float) -> LanguageModeling:
    return LanguageModeling(LanguageModelingConfig(**options), LENGTH, VOCAB)


def batches(size: int = 6, seed: int = 0) -> Batches:
    return Batches(order([(Rows(40), None)], seed), task().collate, BatchSizes.constant(size))


def run(folder: Path, built: GPT, observers: tuple[Any, ...] = (), resume: bool = False, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    chosen = config(**{"optimizer": {"name": "adamw", "lr": 0.01}, **options})
    rows = Rows(5)
    fit(
        Job(
            chosen,
            built,
            task(z_loss=1e-3),
            batches(),
            folder,
            validation=lambda: in_order(rows, task().collate, 2),
            observers=observers,
            resume=resume,
        )
    )


@pytest.mark.parametrize("size", [1, 4])
def test_accumulated_equals_whole_batch_with_dropout_and_documents(size: int) -> None:
    states = []
    for microbatch_size in (None, size):
        built = model(dropout=0.1, attention_dropout=0.1).double()
        state = State.create(config(microbatch_size=microbatch_size, clip_norm=0.5, l2=0.1), built, torch.float64)
        for step in range(2):
            optimizer_step(state, batches()[step], task(label_smoothing=0.1, z_loss=1e-3))
        states.append(state)
    for one, other in zip(*(state.parameters.values() for state in states), strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-10)


def test_a_gpt_resumes_bit_by_bit_with_batches_made_ahead(tmp_path: Path) -> None:
    def crash(report: Report) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    unbroken, broken, resumed = (model(dropout=0.1) for _ in range(3))
    options = {"ema": {"decay": 0.9}, "checkpoint": {"every": 2}, "microbatch_size": 4}
    run(tmp_path / "unbroken", unbroken, **options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", broken, (crash,), **options)
    run(tmp_path / "broken", resumed, resume=True, **options)
    assert equal(weights(unbroken), weights(resumed))
    assert not equal(weights(unbroken), weights(broken))


def test_recomputing_a_gpt_changes_no_bit(tmp_path: Path) -> None:
    models = model(dropout=0.1), model(dropout=0.1)
    for built, recompute in zip(models, (False, True), strict=True):
        run(tmp_path / str(recompute), built, recompute=recompute, steps=4)
    assert equal(weights(models[0]), weights(models[1]))


def test_descent_on_the_full_batch_takes_every_example_at_each_step(tmp_path: Path) -> None:
    chosen = config(batch_size="all", steps=3)
    sources = [(Rows(10), None)]
    whole = Batches(everything(sources), task().collate, batch_sizes(chosen, 10))
    seen: list[Report] = []
    fit(Job(chosen, model(), task(), whole, tmp_path, observers=[seen.append]))
    assert [report.items for report in seen] == [10 * LENGTH] * 3
    assert seen[2].loss < seen[1].loss < seen[0].loss


def test_muon_and_adafactor_train_a_gpt(tmp_path: Path) -> None:
    for name in ("muon", "adafactor", "adam", "sgd"):
        seen: list[Report] = []
        rate = {"muon": 0.02, "adafactor": 0.05, "adam": 0.01, "sgd": 1.0}[name]
        options = {"optimizer": {"name": name, "lr": rate}, "steps": 30, "clip_norm": 1.0}
        run(tmp_path / name, model(), (seen.append,), **options)
        assert seen[-1].loss < seen[0].loss - 0.2, name
