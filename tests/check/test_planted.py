"""Five bugs that peers are known for, planted one at a time: each is caught, on its own line, and named."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dougong.check.result import Result
from dougong.check.subject import Limits
from dougong.core.contracts import Batch
from dougong.models.gpt import network
from dougong.nn import transformer
from dougong.run import checking, parts
from dougong.train import step
from tests.tiny import tiny_recipe


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the check that starts processes: a bug that is planted in this one is not in them."""
    kept = [pair for pair in checking.CHECKS if pair[0].name != "processes"]
    monkeypatch.setattr(checking, "CHECKS", kept)
    monkeypatch.setattr(checking, "Limits", functools.partial(Limits, samples=100))


def proved(folder: Path, **changes: Any) -> tuple[checking.Check, dict[str, Result]]:
    found = checking.check(tiny_recipe(folder, **changes))
    return found, {result.name: result for result in found.results}


def failed(found: checking.Check) -> list[str]:
    return [result.name for result in found.failed]


def test_without_a_planted_bug_all_is_green(tmp_path: Path) -> None:
    found, results = proved(tmp_path, model={"dropout": 0.1}, data={"across_documents": False})
    assert failed(found) == []
    assert found.exit_code == 0
    found.require()
    assert {r.name for r in found.results if r.verdict == "skipped"} == {"compiled", "precision"}
    assert results["separate"].measured.endswith("3 claims")


def test_a_data_order_that_depends_on_time_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = parts.order
    monkeypatch.setattr(parts, "order", lambda sources, seed: sound(sources, int(time.time())))
    found, results = proved(tmp_path)
    assert failed(found) == ["samples"]
    assert "tokens" in results["samples"].detail
    assert "depends on time" in results["samples"].detail
    assert found.exit_code == 3


def averaged(state: Any, microbatches: Sequence[Batch], task: Any) -> Any:
    """Accumulation as many write it: the mean of each microbatch's mean."""
    means, weights = [], []
    for microbatch in microbatches:
        loss = task.loss(state.model, microbatch)
        mean = loss.sum / loss.weight / len(microbatches)
        mean.backward()
        means.append(mean.detach())
        weights.append(loss.weight.to(mean.dtype))
    weight = torch.stack(weights).sum()
    return step._Sums(torch.stack(means).sum() * weight, weight, {}, weight * state.scale.value)


def test_an_accumulation_that_averages_means_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_backward", averaged)
    found, results = proved(tmp_path)
    assert failed(found) == ["microbatches"]
    assert "not averaged as means" in results["microbatches"].detail
    assert results["microbatches"].difference > 1e-4
    assert found.exit_code == 1


def test_a_buffer_left_out_of_the_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, features = network.GPT.__init__, network.GPT.features

    def with_buffer(self: Any, config: Any) -> None:
        begin(self, config)
        self.register_buffer("running_mean", torch.zeros(config.dim), persistent=False)

    def noting(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        found = features(self, *args, **kwargs)
        if self.training:
            self.running_mean.lerp_(found.detach().mean((0, 1)).to(self.running_mean), 0.1)
            return found
        return found + self.running_mean.to(found)

    monkeypatch.setattr(network.GPT, "__init__", with_buffer)
    monkeypatch.setattr(network.GPT, "features", noting)
    found, results = proved(tmp_path)
    assert failed(found) == ["resume"]
    assert results["resume"].detail.startswith("buffer running_mean and")
    assert "left out of the checkpoint" in results["resume"].detail
    assert found.exit_code == 1


def test_a_mask_between_documents_that_is_ignored_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = network.GPT._masks
    monkeypatch.setattr(network.GPT, "_masks", lambda self, tokens, segments, cache: sound(self, tokens, None, cache))
    found, results = proved(tmp_path, data={"across_documents": False})
    assert failed(found) == ["separate"]
    assert "the mask of `segments`" in results["separate"].detail
    assert "causal" not in results["separate"].detail
    assert found.exit_code == 1


def test_a_causal_mask_that_is_ignored_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seeing_all(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    monkeypatch.setattr(transformer, "attention_fused", seeing_all)
    found, results = proved(tmp_path)
    assert failed(found) == ["separate"]
    assert "the causal mask" in results["separate"].detail
    assert "In sample " in results["separate"].detail


def global_dropout(hidden: Tensor, probability: float, noise: Tensor | None, place: int) -> Tensor:
    return F.dropout(hidden, probability, training=noise is not None)


def test_a_dropout_that_reads_global_state_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "dropout", global_dropout)
    found, results = proved(tmp_path, model={"dropout": 0.1})
    # What draws from a global generator cannot be accumulated nor resumed either: these lines say so, in their words.
    assert "randomness" in failed(found)
    assert set(failed(found)) <= {"randomness", "microbatches", "resume"}
    assert results["randomness"].detail.startswith("blocks.0.")
    assert "draws from one of them" in results["randomness"].detail
    assert found.exit_code == 1


def test_the_module_that_draws_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = transformer.Block.__init__

    def with_dropout(self: Any, shape: Any) -> None:
        begin(self, shape)
        self.feedforward = nn.Sequential(self.feedforward, nn.Dropout(0.1))

    monkeypatch.setattr(transformer.Block, "__init__", with_dropout)
    found, results = proved(tmp_path)
    assert "randomness" in failed(found)
    assert results["randomness"].detail.startswith("blocks.0.feedforward.1 (Dropout) computes something else")


def test_the_failure_as_a_whole_names_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "CHECKS", checking.CHECKS[:4])
    monkeypatch.setattr(step, "_backward", averaged)
    found, _ = proved(tmp_path)
    with pytest.raises(checking.CheckError, match=r"1 failed: microbatches\.") as caught:
        found.require()
    assert caught.value.exit_code == 1
    assert caught.value.name == "E-CHECK"
