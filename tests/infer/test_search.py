from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dougong.checkpoint.weights import load_model
from dougong.infer.config import GenerateConfig
from dougong.infer.engine import search
from dougong.infer.search import beam_search

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, nn.Module]:
    """A random model of transformers over 24 tokens, so that the end is often among the best, and the same here."""
    torch.manual_seed(5)
    config = transformers.GPT2Config(
        vocab_size=24,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    folder: Path = tmp_path_factory.mktemp("beams")
    theirs.save_pretrained(folder)
    return theirs, load_model(folder)


@pytest.mark.parametrize("repetition_penalty", [1.0, 1.3])
@pytest.mark.parametrize("length_penalty", [0.6, 1.0, -0.5])
def test_beam_search_equals_that_of_transformers(
    models: tuple[nn.Module, nn.Module], length_penalty: float, repetition_penalty: float
) -> None:
    theirs, ours = models
    config = GenerateConfig(
        max_new_tokens=12, num_beams=4, length_penalty=length_penalty, repetition_penalty=repetition_penalty
    )
    reasons = set()
    for first in range(1, 24):
        expected = theirs.generate(
            torch.tensor([[first, 5, 3]]),
            attention_mask=torch.ones(1, 3, dtype=torch.int64),
            max_new_tokens=12,
            num_beams=4,
            do_sample=False,
            early_stopping=False,
            length_penalty=length_penalty,
            repetition_penalty=repetition_penalty,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        found = search(ours, [first, 5, 3], config, eot_id=0)
        assert found.tokens == expected.sequences[0, 3:].tolist()
        assert found.score == pytest.approx(expected.sequences_scores.item(), abs=1e-5)
        reasons.add(found.reason)
    assert reasons >= {"eot"} if length_penalty < 0 else reasons == {"eot", "length"}


def test_more_beams_find_a_likelier_text_than_the_greedy_one() -> None:
    """Token 1 is likelier than 2 at first, but 2 is followed by a certainty."""
    first = torch.tensor([[-9.0, 0.6, 0.4]]).log_softmax(-1)
    after = {1: torch.tensor([0.0, 0.0, 0.0]), 2: torch.tensor([9.0, 0.0, 0.0])}

    def advance(parents: list[int], tokens: list[int]) -> torch.Tensor:
        return torch.stack([after[token] for token in tokens])

    def ended(tokens: object) -> str | None:
        return "length" if len(list(tokens)) == 2 else None

    beams = GenerateConfig(num_beams=2, max_new_tokens=2)
    assert beam_search(first, advance, ended, beams).tokens == [2, 0]
    assert beam_search(first, advance, ended, GenerateConfig(max_new_tokens=2)).tokens[0] == 1


def test_beams_over_a_cache_equal_beams_over_whole_texts(make_model: Callable[..., nn.Module]) -> None:
    model, prompt = make_model("llama"), [9, 8, 7]
    config = GenerateConfig(num_beams=3, max_new_tokens=10)
    texts = [prompt]

    def advance(parents: list[int], tokens: list[int]) -> torch.Tensor:
        texts[:] = [[*texts[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        return model(torch.tensor(texts))[:, -1]

    def ended(tokens: object) -> str | None:
        return "length" if len(list(tokens)) == 10 else None

    with torch.inference_mode():
        uncached = beam_search(model(torch.tensor([prompt]))[:, -1], advance, ended, config)
    cached = search(model, prompt, config)
    assert cached.tokens == uncached.tokens
    assert cached.score == pytest.approx(uncached.score, abs=1e-4)
