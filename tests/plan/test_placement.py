"""The layouts of a recipe: those that fit come first and fit, the others are refused with the reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dougong.core.errors import UsageError
from dougong.plan.hardware import HARDWARE
from dougong.plan.placement import candidates, layouts, workload
from dougong.recipe import load

A100 = HARDWARE["a100-80gb"]
GPT3 = layouts(load("gpt3-175b"), 1024, A100)


def test_what_fits_fits_and_the_quickest_is_first() -> None:
    assert GPT3.fitting
    assert GPT3.best is GPT3.fitting[0]
    seconds = [placed.time.total for placed in GPT3.fitting]
    assert all(later > 0.96 * max(seconds[: place + 1]) for place, later in enumerate(seconds))
    for placed in GPT3.fitting:
        layout = placed.layout
        assert layout.devices == 1024
        assert placed.memory.total <= A100.memory_bytes
        assert 96 % layout.tensor == 0
        assert 96 % layout.pipeline == 0
        assert layout.tensor <= 8
        assert 1600 % (layout.replicas * layout.microbatch) == 0
        assert 0 < placed.utilization < GPT3.efficiency
    assert len({placed.layout.degrees for placed in GPT3.fitting}) == len(GPT3.fitting)


def test_what_is_refused_says_why() -> None:
    reasons = [refused.reason for refused in GPT3.refused]
    assert any(reason.startswith("cannot deal a batch of 1600 evenly to 128 replicas") for reason in reasons)
    held = [reason for reason in reasons if reason.startswith("needs")]
    assert held
    assert all(" of 80 GB: " in reason for reason in held)
    numbers = [float(reason.split()[1].replace(",", "")) for reason in held]
    assert numbers == sorted(numbers)
    assert numbers[0] >= 80


def test_one_device_holds_no_gpt3() -> None:
    found = layouts(load("gpt3-175b"), 1, A100)
    assert found.best is None
    assert len(found.refused) == 1
    assert found.refused[0].reason.startswith("needs 2,800 GB of 80 GB")  # 16 bytes of 174.6 billion parameters
    assert "optimizer 2,095 GB, weights 349 GB, gradients 349 GB" in found.refused[0].reason


def test_every_layout_is_tried_once_and_all_is_found() -> None:
    job = workload(load("gpt3-175b"), A100)
    tried = [layout.degrees for layout in candidates(job.cost, A100, 1024)]
    assert len(set(tried)) == len(tried) == len(GPT3.fitting) + len(GPT3.refused)
    assert {layout[4] for layout in tried} == {1, 2, 4, 8, 16, 32}
    assert (1, 1, 0, 8, 16, 1) not in tried  # 128 devices are not 1024
    assert (8, 1, 0, 8, 16, 1) in tried
    assert (1, 8, 1, 8, 16, 1) in tried


def test_more_memory_lets_more_layouts_fit() -> None:
    small, large = (layouts(load("gpt3-6.7b"), 16, HARDWARE[name]) for name in ("a100-40gb", "a100-80gb"))
    fitting = [{placed.layout.degrees for placed in found.fitting} for found in (small, large)]
    assert fitting[0] < fitting[1]


def test_a_small_model_takes_plain_replicas() -> None:
    best = layouts(load("gpt2-124m"), 8, A100).best
    assert best is not None
    assert (best.layout.tensor, best.layout.pipeline) == (1, 1)
    assert best.layout.stage < 3


def test_figures_are_json() -> None:
    values: dict[str, Any] = json.loads(json.dumps(GPT3.as_dict(most=3)))
    assert len(values["fitting"]) == len(values["refused"]) == 3
    assert values["fitting_count"] == len(GPT3.fitting)
    first = values["fitting"][0]
    assert first["seconds"]["total"] == pytest.approx(sum(v for k, v in first["seconds"].items() if k != "total"))
    assert values["hardware"]["name"] == "a100-80gb"
    assert "data sheet" in values["hardware"]["source"]
    assert first["tokens_per_second"] == pytest.approx(2048 * first["samples_per_second"])


def test_a_batch_of_everything_must_be_told() -> None:
    recipe = load("gpt3-small", overrides=["train.batch_size=all", "train.batch_ramp=null"])
    with pytest.raises(UsageError, match=r"train.batch_size must be a number"):
        layouts(recipe, 8, A100)
