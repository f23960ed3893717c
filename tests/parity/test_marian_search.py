"""Marian's translations: those that our search finds are those of `generate` of transformers, token by token."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dougong.checkpoint.weights import load_model
from dougong.core.config import validate
from dougong.data.examples import TextPair
from dougong.models.seq2seq import Seq2SeqConfig
from dougong.nn.beam import Beams
from dougong.tasks.translation import TranslationConfig
from tests.parity.reference import saved
from tests.parity.test_marian import EOS, PAD, reference

LONGEST = 20
TOKENIZER = SimpleNamespace(target_tokenizer=SimpleNamespace(eot_id=EOS, decode=list))
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    "four beams": {"num_beams": 4},
    "four beams, short preferred": {"num_beams": 4, "length_penalty": 0.6},
}


@functools.cache
def sources() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns 50 rows of tokens, each with the one that ends it, and their lengths."""
    dice = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 13, (50,), generator=dice)
    tokens = torch.randint(1, PAD, (50, 12), generator=dice)
    tokens[torch.arange(50), lengths - 1] = EOS
    inside = torch.arange(12) < lengths[:, None]
    return tokens.masked_fill(~inside, PAD), lengths


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, nn.Module]:
    """Returns their model and ours of the same weights, whose translations differ and mostly end."""
    theirs = reference("shared")
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim > 1 and "embed_positions" not in name:
                parameter.mul_(3.0)
        theirs.final_logits_bias.mul_(0.3)
        theirs.final_logits_bias[0, EOS] += 1.5
        theirs.final_logits_bias[0, PAD] += 4.0  # so that it would be written, were it not forbidden
    return theirs, load_model(saved(theirs, tmp_path_factory.mktemp("marian")))


def searched(model: nn.Module, **options: Any) -> list[list[int]]:
    values = {"max_ratio": 1e-6, "max_extra": LONGEST, **options}
    task = validate(TranslationConfig, values).build(model.config, TOKENIZER)  # type: ignore[attr-defined]
    return [found.tokens for found in task.search(model, *sources())]


def generated(model: Any, **options: Any) -> list[list[int]]:
    tokens, lengths = sources()
    rows = model.generate(
        input_ids=tokens,
        attention_mask=(torch.arange(12) < lengths[:, None]).long(),
        max_new_tokens=LONGEST,
        do_sample=False,
        early_stopping=False,
        bad_words_ids=[[PAD]],
        **options,
    )
    return [_ended(row.tolist()[1:]) for row in rows]


def _ended(row: list[int]) -> list[int]:
    return row[: row.index(EOS) + 1] if EOS in row else [token for token in row if token != PAD]


@pytest.mark.parametrize("search", SEARCHES)
def test_translations_equal_those_of_transformers(search: str, models: tuple[nn.Module, nn.Module]) -> None:
    theirs, ours = models
    found = searched(ours, **SEARCHES[search])
    assert found == generated(theirs, **SEARCHES[search])
    assert len({*map(tuple, found)}) > 20, "the sources must make a difference"
    assert 0 < sum(row[-1] == EOS for row in found) < 50, "some must end and some not"


def test_each_way_of_searching_finds_others(models: tuple[nn.Module, nn.Module]) -> None:
    every = [searched(models[1], **options) for options in SEARCHES.values()]
    assert every[0] != every[1] != every[2] != every[0]


def test_without_its_ban_the_start_is_written(
    models: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SEARCHES["four beams"]
    assert not any(PAD in row for row in searched(models[1], **options))
    monkeypatch.setattr(Beams, "scores", lambda self, logits: logits.float().log_softmax(-1))
    assert any(PAD in row for row in searched(models[1], **options))


def trained(steps: int) -> tuple[Any, nn.Module]:
    """Returns a model of our own, trained a little to write a source backwards, and its task."""
    values = {"vocab_size": 97, "max_seq_len": 32, "num_layers": 1, "dim": 32, "num_heads": 2, "start_id": PAD}
    model = validate(Seq2SeqConfig, values).build()  # type: ignore[attr-defined]
    model.init_weights(0)
    task = validate(TranslationConfig, {}).build(model.config, TOKENIZER)  # type: ignore[attr-defined]
    rows = [_sentence(row[:length]) for row, length in zip(*sources(), strict=True)]
    batch = task.collate(rows, range(len(rows)))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        loss = task.loss(model, batch)
        optimizer.zero_grad()
        (loss.sum / loss.weight).backward()
        optimizer.step()
    return task, model.eval()


def _sentence(row: Sequence[Any]) -> TextPair:
    tokens = [int(token) for token in row]
    return TextPair(np.array(tokens, np.int32), np.array([*tokens[-2::-1], EOS], np.int32), 0)


def test_a_trained_model_writes_other_texts_with_other_beams() -> None:
    _, model = trained(30)
    one, four = (searched(model, num_beams=beams) for beams in (1, 4))
    assert one != four
    assert searched(model, num_beams=4) == four
