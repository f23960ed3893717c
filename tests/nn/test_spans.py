from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dougong.nn.spans import best_spans, log_probabilities


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 10_000))
def test_the_best_span_is_that_of_trying_them_all(time: int, longest: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, time, 2, generator=draw)
    allowed = torch.rand(3, time, generator=draw) < 0.7
    found = best_spans(scores, allowed, longest)
    for row in range(3):
        tried = {
            (start, end): float(scores[row, start, 0] + scores[row, end, 1])
            for start in range(time)
            for end in range(start, min(time, start + longest))
            if allowed[row, start] and allowed[row, end]
        }
        if tried:
            best = max(tried, key=lambda span: tried[span])
            assert (int(found.starts[row]), int(found.ends[row])) == best
            assert float(found.scores[row]) == pytest.approx(tried[best])
        else:
            assert found.scores[row] == float("-inf")


def test_without_the_limit_the_best_ends_would_be_taken_in_any_order() -> None:
    scores = torch.zeros(1, 5, 2)
    scores[0, 3, 0] = scores[0, 1, 1] = 9.0  # the likeliest end stands before the likeliest beginning
    scores[0, 4, 1] = 2.0
    found = best_spans(scores, torch.ones(1, 5, dtype=torch.bool), 3)
    assert (int(found.starts), int(found.ends)) == (3, 4)
    assert (int(scores[0, :, 0].argmax()), int(scores[0, :, 1].argmax())) == (3, 1)


def test_probabilities_are_shared_among_what_is_allowed() -> None:
    logits = torch.randn(2, 6, 2)
    allowed = torch.tensor([[True, False, True, True, False, False], [True] * 6])
    found = log_probabilities(logits, allowed).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(2, 2))
    assert not found[~allowed].any()
    assert found[allowed].all()
    torch.testing.assert_close(found[1], logits[1].softmax(0))
