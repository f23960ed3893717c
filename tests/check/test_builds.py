"""A recipe that builds is counted; one that does not is refused as a recipe."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from dougong.check.builds import CLAIM, builds
from dougong.check.result import found
from dougong.check.subject import Subject
from dougong.core.contracts import Batch, Loss
from dougong.core.errors import UsageError


def test_the_parameters_are_counted(subject: Subject) -> None:
    result = builds(subject)
    count = sum(p.numel() for p in subject.model().parameters())
    assert (result.verdict, result.measured) == ("passed", f"{count:,} parameters")


def test_a_model_that_allocates_is_named(subject: Subject) -> None:
    def allocating() -> nn.Module:
        model = subject.blank()
        model.register_buffer("table", torch.zeros(3, device="cpu"))
        return model

    result = builds(replace(subject, blank=allocating))
    assert (result.verdict, result.exit_code) == ("failed", 2)
    assert result.detail.startswith("table is allocated")


def test_a_loss_that_is_no_sum_is_refused(subject: Subject) -> None:
    class Means(type(subject.task)):  # type: ignore[misc]
        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            return Loss(model.features(batch["tokens"]), torch.ones((), device="meta"), {})

    task = Means(subject.task.config, subject.task.seq_len, subject.task.vocab_size)
    result = builds(replace(subject, task=task))
    assert "must be a sum and a weight" in result.detail


def test_what_building_raises_is_the_finding(subject: Subject) -> None:
    def failing() -> nn.Module:
        raise UsageError("model.dim must be even, but is 3. Try 4.")

    result = found(CLAIM, lambda: builds(replace(subject, blank=failing)))
    assert (result.verdict, result.exit_code) == ("failed", 2)
    assert result.detail == "model.dim must be even, but is 3. Try 4."
