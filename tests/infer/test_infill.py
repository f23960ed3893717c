"""Filling in the middle: a small model that learned it from rearranged rows, and what cannot be asked."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from dougong.core.errors import UsageError
from dougong.data.examples import TokenRow
from dougong.data.fim import Infilling, Rearranged
from dougong.data.tokenizer import Tokenizer
from dougong.data.vocabulary import FIM, BpeConfig
from dougong.infer.language import LanguageModel
from dougong.models.gpt import GPTConfig
from dougong.tasks.language_modeling import LanguageModelingConfig

ENDS = "abc"
MIDDLES = {pair: chr(ord("A") + number) for number, pair in enumerate(itertools.product(ENDS, ENDS))}
"""The letter between two others: neither of them alone tells it."""
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 4}
STEPS, ROWS, TEXTS, EPOCH = 300, 16, 6, 40


@pytest.fixture(scope="module")
def coder() -> Tokenizer:
    """Has the three tokens."""
    return BpeConfig(vocab_size=260, special=FIM).build(lambda: ["a"], list)


@pytest.fixture(scope="module")
def trained(coder: Tokenizer) -> LanguageModel:
    """A model that saw texts such as aDb, most of them with their middle at the end."""
    config = GPTConfig(
        vocab_size=260, max_seq_len=24, num_layers=2, num_heads=4, dim=64, position="rotary", norm="rmsnorm"
    )
    model, task, change = config.build(), LanguageModelingConfig().build(config), Rearranged(coder, 0.8, 0.3)
    model.init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    rows = [change(row(coder, rng), rng) for rng in map(np.random.default_rng, range(ROWS * EPOCH))]
    batches = [task.collate(rows[number::EPOCH], range(ROWS)) for number in range(EPOCH)]
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.006 * min(1, (step + 1) / 20) * (1 - step / STEPS)
        loss = task.loss(model, batches[step % EPOCH])
        (loss.sum / loss.weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return LanguageModel(model, coder)


def row(coder: Tokenizer, rng: np.random.Generator) -> TokenRow:
    ends = [(ENDS[first], ENDS[second]) for first, second in rng.integers(0, len(ENDS), (TEXTS, 2))]
    texts = [[coder.eot_id, *coder.encode(f"{pair[0]}{MIDDLES[pair]}{pair[1]}")] for pair in ends]
    return TokenRow(np.array(texts).reshape(-1), np.arange(TEXTS).repeat(4), False)


def found(fill: Any) -> int:
    return sum(fill(*pair) == middle for pair, middle in MIDDLES.items())


def test_infilling_finds_what_beginning_and_end_tell_together(trained: LanguageModel) -> None:
    assert found(lambda first, last: trained.infill(first, last, **GREEDY)) >= 8
    # Controls: going on from the beginning knows nothing of the end, and beginning and end are not alike.
    assert found(lambda first, last: str(trained.generate(first, **GREEDY))[:1]) <= 3
    assert found(lambda first, last: trained.infill(last, first, **GREEDY)) <= 5


def test_streamed_infilling_is_the_same_text(trained: LanguageModel) -> None:
    whole = trained.infill("a", "b", **GREEDY)
    assert "".join(trained.stream("a", "b", **GREEDY)) == trained.generate("a", "b", **GREEDY) == whole
    assert trained.generate(["a", "b"], "b", **GREEDY) == [whole, trained.infill("b", "b", **GREEDY)]
    assert trained.complete(["a"], "b", **GREEDY)[0].finish_reason == "eot"
    assert trained.infill("a", "b", num_beams=3, max_new_tokens=4) == whole


def test_empty_ends_are_allowed_and_no_suffix_is_no_infilling(trained: LanguageModel, coder: Tokenizer) -> None:
    order = Infilling(coder)
    assert trained.encode_prompt("", "") == order.asked([], []) == [coder.eot_id, *map(coder.id_of, FIM)]
    assert trained.encode_prompt("a") == coder.encode("a")
    assert trained.encode_prompt("<|fim_prefix|>", "b").count(order.prefix) == 1


def test_a_model_without_the_tokens_is_refused(language_model: LanguageModel) -> None:
    for ask in (language_model.infill, language_model.stream, language_model.generate):
        with pytest.raises(
            UsageError, match=r"must have the special tokens .*, but lacks <\|fim_prefix\|>, .* Take a model"
        ):
            ask("a", "b")
    assert isinstance(language_model.generate("a", max_new_tokens=1), str)


def test_a_suffix_that_leaves_no_room_is_refused(trained: LanguageModel) -> None:
    with pytest.raises(UsageError, match="leave"):
        trained.infill("a", "b" * 30, **GREEDY)
