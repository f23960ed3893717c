from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dougong.infer.config import GenerateConfig
from dougong.infer.sampling import (
    choose,
    draw,
    filter_logits,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    uniforms,
)

transformers = pytest.importorskip("transformers")
LOGITS = 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x: keep_top_k(x, 7), transformers.TopKLogitsWarper(7)),
        (lambda x: keep_top_k(x, 99), transformers.TopKLogitsWarper(99)),
        (lambda x: keep_top_p(x, 0.7), transformers.TopPLogitsWarper(0.7)),
        (lambda x: keep_top_p(x, 0.01), transformers.TopPLogitsWarper(0.01)),
        (lambda x: keep_min_p(x, 0.2), transformers.MinPLogitsWarper(0.2)),
        (lambda x: filter_logits(x, GenerateConfig(temperature=0.7)), transformers.TemperatureLogitsWarper(0.7)),
    ],
)
def test_filters_equal_those_of_transformers(ours: Callable[[Tensor], Tensor], theirs: Callable) -> None:
    assert torch.equal(ours(LOGITS), theirs(None, LOGITS.clone()))
    assert not torch.equal(ours(LOGITS), LOGITS) or getattr(theirs, "top_k", 0) == 99


def test_ties_with_the_last_kept_token_stay_as_in_transformers() -> None:
    tied = torch.tensor([[1.0, 2.0, 1.0, 0.0]])
    assert torch.equal(keep_top_k(tied, 2), transformers.TopKLogitsWarper(2)(None, tied.clone()))
    assert keep_top_k(tied, 2).isfinite().tolist() == [[True, True, True, False]]


def test_repetition_penalty_equals_that_of_transformers() -> None:
    tokens = torch.randint(0, 40, (5, 9), generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(5, 40, dtype=torch.bool).scatter(1, tokens, True)
    theirs = transformers.RepetitionPenaltyLogitsProcessor(1.7)(tokens, LOGITS.clone())
    assert torch.equal(penalize_repetition(LOGITS, seen, 1.7), theirs)
    assert not torch.equal(theirs, LOGITS)


def test_filters_apply_in_the_order_of_transformers() -> None:
    options = {"temperature": 0.6, "top_k": 12, "top_p": 0.8, "min_p": 0.1}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=40))
    theirs = model._get_logits_processor(transformers.GenerationConfig(do_sample=True, **options))
    ours = filter_logits(LOGITS, GenerateConfig(**options))
    assert torch.equal(ours, theirs(None, LOGITS.clone()))


def test_draws_follow_the_filtered_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    config = GenerateConfig(top_k=3)
    expected = filter_logits(logits, config).softmax(-1)[0]
    rows = range(20_000)
    tokens = choose(logits.expand(len(rows), -1), config, rows, step=0)
    shares = torch.bincount(tokens, minlength=4) / len(rows)
    assert (shares - expected).abs().max() < 0.01  # about three standard deviations
    assert shares[3] == 0


def test_a_draw_depends_on_seed_row_and_step_and_on_no_batch_mate() -> None:
    alone = uniforms(5, [3], 2)
    assert torch.equal(uniforms(5, [1, 3], 2)[1:], alone)
    others = [uniforms(6, [3], 2), uniforms(5, [4], 2), uniforms(5, [3], 3)]
    assert all(other != alone for other in others)


def test_extreme_draws_give_tokens_that_are_allowed() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    ends = torch.tensor([0.0, 1 - 2**-52], dtype=torch.float64)
    assert draw(logits.expand(2, -1), ends).tolist() == [1, 3]


def test_temperature_zero_takes_the_likeliest_and_draws_nothing() -> None:
    config = GenerateConfig(temperature=0)
    assert torch.equal(choose(LOGITS, config, range(5), 0), LOGITS.argmax(-1))
    assert torch.equal(choose(LOGITS, config.replace(seed=9), range(5), 7), LOGITS.argmax(-1))
