"""What the benchmarks give to both contestants is the same, and fits the tasks of today."""

from __future__ import annotations

import pytest
import torch

from benchmarks.language import ENCODERS, SETTINGS, work_of


@pytest.mark.parametrize("name", SETTINGS)
def test_both_contestants_are_given_the_same_words(name: str) -> None:
    work = work_of(name)
    batch = work.rows[1]
    assert batch["tokens"].shape == (work.batch, work.context)
    theirs = work.example(work.batch)
    if name not in ENCODERS:
        assert torch.equal(theirs["input_ids"], batch["tokens"][0])
        return
    kept = theirs["labels"] == -100
    assert torch.equal(torch.where(kept, theirs["input_ids"], theirs["labels"]), batch["tokens"][0])
    ours = work.task.hidden(batch)
    assert torch.equal(ours.tokens[0], theirs["input_ids"])
    assert int((~kept).sum()) == round(0.15 * work.context) == int((ours.targets[0] >= 0).sum())
