from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dougong.infer.config import GenerateConfig
from dougong.infer.search import beam_search
from dougong.nn.beam import Beams, search

VOCAB, EOS = 7, 6


class Chain:
    """A language of which each token depends on the two before it and on the sentence: all that a search may ask."""

    def __init__(self, sentences: int, seed: int = 0):
        table = torch.randn(sentences, VOCAB + 1, VOCAB + 1, VOCAB, generator=torch.Generator().manual_seed(seed))
        self.table = 2 * table
        self.rows = [(sentence, VOCAB, VOCAB) for sentence in range(sentences)]

    def logits(self) -> Tensor:
        return torch.stack([self.table[row] for row in self.rows])

    def advance(self, parents: Tensor, tokens: Tensor) -> Tensor:
        chosen = zip(parents.tolist(), tokens.tolist(), strict=True)
        self.rows = [(self.rows[parent][0], self.rows[parent][2], token) for parent, token in chosen]
        return self.logits()

    def score(self, sentence: int, text: list[int]) -> float:
        places, total = (VOCAB, VOCAB), 0.0
        for token in text:
            total += float(self.table[sentence][places].log_softmax(-1)[token])
            places = (places[1], token)
        return total


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("num_beams", [2, 3, 5])
def test_many_sentences_at_once_give_what_each_gives_alone(num_beams: int, penalty: float):
    limits = [9, 5, 1, 12, 7]
    chain = Chain(len(limits))
    found = search(chain.logits(), chain.advance, limits, Beams(num_beams, EOS, penalty))
    for sentence, limit in enumerate(limits):
        alone = Chain(len(limits))
        alone.rows = [alone.rows[sentence]]
        config = GenerateConfig(num_beams=num_beams, length_penalty=penalty, max_new_tokens=limit)
        expected = beam_search(alone.logits(), _listed(alone.advance), _ended(limit), config)
        assert found[sentence].tokens == expected.tokens
        assert math.isclose(found[sentence].score, expected.score, rel_tol=1e-5)


def _listed(advance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[list[int], list[int]], Tensor]:
    return lambda parents, tokens: advance(torch.tensor(parents), torch.tensor(tokens))


def _ended(limit: int) -> Callable[[object], str | None]:
    return lambda text: "eot" if text[-1] == EOS else "length" if len(text) >= limit else None  # type: ignore[index]


def test_one_beam_takes_the_likeliest_token_each_time():
    chain = Chain(4)
    found = search(chain.logits(), chain.advance, [6, 6, 2, 6], Beams(1, EOS))
    for sentence, limit in enumerate([6, 6, 2, 6]):
        text, places = list[int](), (VOCAB, VOCAB)
        while len(text) < limit and (not text or text[-1] != EOS):
            text.append(int(chain.table[sentence][places].argmax()))
            places = (places[1], text[-1])
        assert found[sentence].tokens == text
        assert math.isclose(found[sentence].score, chain.score(sentence, text), rel_tol=1e-5)


def test_enough_beams_find_the_likeliest_text_of_all():
    limit, chain = 3, Chain(3)
    found = search(chain.logits(), chain.advance, [limit] * 3, Beams(VOCAB**2, EOS, 0.0))
    for sentence in range(3):
        texts = [
            list(text)
            for length in range(1, limit + 1)
            for text in itertools.product(range(VOCAB), repeat=length)
            if EOS not in text[:-1] and (text[-1] == EOS or length == limit)
        ]
        best = max(texts, key=lambda text: chain.score(sentence, text))
        assert found[sentence].tokens == best
    fewer = Chain(3)
    greedy = search(fewer.logits(), fewer.advance, [limit] * 3, Beams(1, EOS))
    assert [text.tokens for text in greedy] != [text.tokens for text in found]  # the beams were needed


def test_a_length_penalty_favours_long_texts():
    lengths = []
    for penalty in (0.0, 3.0):
        chain = Chain(12)
        found = search(chain.logits(), chain.advance, [12] * 12, Beams(4, EOS, penalty))
        lengths.append(sum(len(text.tokens) for text in found))
    assert lengths[1] > lengths[0]


def test_the_norm_is_that_of_the_paper():
    assert Beams(4, EOS, 0.6, "gnmt").norm(13) == 3.0**0.6
    assert Beams(4, EOS, 0.5).norm(9) == 3.0


def test_coverage_is_what_the_paper_says_and_leaves_padding_out():
    """The open texts look at places of the source by their tokens: 0 to 2; the third place of one source is padding."""
    penalty, limit = 5.0, 4
    lengths = torch.tensor([3, 2])
    chain = Chain(2)

    def looked() -> Tensor:
        last = torch.tensor([row[2] % 2 if row[0] == 1 else row[2] % 3 for row in chain.rows])
        return 0.1 * one_hot(torch.full_like(last, 2), 3) + 0.9 * one_hot(last, 3)

    beams = Beams(3, EOS, 1.0, coverage_penalty=penalty)
    found = search(chain.logits(), chain.advance, [limit] * 2, beams, looked, lengths)
    for sentence, text in enumerate(found):
        seen = torch.zeros(3)
        for token in [VOCAB, *text.tokens[:-1]]:
            seen[2] += 0.1
            seen[token % (3 - sentence)] += 0.9
        covered = seen[: int(lengths[sentence])].clamp(1e-9, 1.0).log().sum()
        expected = chain.score(sentence, text.tokens) / len(text.tokens) + penalty * float(covered)
        assert math.isclose(text.score, expected, rel_tol=1e-4)
    without = Chain(2)
    plain = search(without.logits(), without.advance, [limit] * 2, Beams(3, EOS))
    assert [text.tokens for text in plain] != [text.tokens for text in found]
