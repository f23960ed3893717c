"""A step is that of torch's own cells, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dougong.nn.cell import Cell
from tests.nn.padding import filled


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_step_is_that_of_torch(kind: str) -> None:
    cell = filled(Cell(kind, 5, 4))
    theirs = (nn.GRUCell if kind == "gru" else nn.LSTMCell)(5, 4).double()
    theirs.load_state_dict(cell.state_dict())
    given = torch.randn(3, 5, dtype=torch.float64)
    state = tuple(torch.randn(3, 4, dtype=torch.float64) for _ in range(2 if kind == "lstm" else 1))
    found = cell(cell.share(given), state)
    expected = theirs(given, state) if kind == "lstm" else (theirs(given, state[0]),)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    sum(part.sin().sum() for part in found).backward()
    sum(part.sin().sum() for part in expected).backward()
    for one, other in zip(cell.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-12)
    # The control: a state that is another gives another.
    moved = cell(cell.share(given), tuple(part + 0.1 for part in state))
    assert (moved[0] - expected[0]).abs().max() > 1e-3


def test_shares_of_many_steps_are_those_of_each() -> None:
    cell, given = filled(Cell("lstm", 5, 4)), torch.randn(3, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(cell.share(given)[:, 2], cell.share(given[:, 2]), rtol=0, atol=1e-12)
