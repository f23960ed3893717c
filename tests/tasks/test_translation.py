from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from dougong.core.config import validate
from dougong.core.errors import UsageError
from dougong.data.examples import TextPair
from dougong.data.vocabulary import BytesConfig
from dougong.models.gpt import GPTConfig
from dougong.models.seq2seq import Seq2SeqConfig
from dougong.tasks.translation import TranslationConfig
from dougong.tasks.translation.figures import Scores

SMALL = {"vocab_size": 23, "max_seq_len": 24, "dim": 16, "num_layers": 1, "start_id": 0, "dropout": 0.0}
KINDS: dict[str, dict[str, Any]] = {
    "transformer": {"num_heads": 2},
    "bahdanau": {"kind": "recurrent", "attention": "bahdanau", "cell": "gru"},
    "luong": {"kind": "recurrent", "attention": "luong_general", "input_feeding": True},
}
PAIRS = [
    TextPair(np.array([5, 6, 7, 0], np.int32), np.array([9, 8, 0], np.int32), 0),
    TextPair(np.array([3, 0], np.int32), np.array([4, 4, 4, 4, 4, 0], np.int32), 1),
    TextPair(np.array([11, 12, 13, 14, 15, 16, 17, 18, 19, 0], np.int32), np.array([1, 0], np.int32), 2),
]


class Letters:
    """A tokenizer of letters, as far as the task asks for one."""

    eot_id = 0

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + int(number)) + " " for number in ids if number).strip()


class Data:
    """What the task wants to know of data."""

    target_tokenizer = Letters()

    def texts(self, number: int) -> tuple[str, str]:
        pair = PAIRS[number]
        return Letters().decode(pair.source), Letters().decode(pair.target)


def built(kind: str = "transformer", data: Any = None, **options: Any) -> tuple[Any, Any]:
    config = validate(Seq2SeqConfig, {**SMALL, **KINDS[kind]})
    model = config.build()
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return validate(TranslationConfig, options).build(config, data), model.eval()


def test_a_batch_holds_what_the_decoder_reads_and_what_it_should_say():
    task, _ = built()
    batch = task.collate(PAIRS, [7, 8, 9])
    assert batch["tokens"][0].tolist() == [0, 9, 8, 0, 0, 0, 0, 0]
    assert batch["targets"][0].tolist() == [9, 8, 0, -1, -1, -1, -1, -1]
    assert batch["sources"].shape == (3, 16)
    assert batch["source_lengths"].tolist() == [4, 2, 10]
    assert batch["numbers"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_sum_over_the_tokens_of_each_pair_alone(kind: str):
    task, model = built(kind, label_smoothing=0.1)
    whole = task.loss(model, task.collate(PAIRS, [0, 1, 2]))
    alone = [task.loss(model, task.collate([pair], [0])) for pair in PAIRS]
    assert int(whole.weight) == 3 + 6 + 2
    torch.testing.assert_close(whole.sum, sum(loss.sum for loss in alone))
    assert float(whole.sum.detach()) != pytest.approx(float(whole.parts["nll"]))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_masks_promise_holds(kind: str):
    task, model = built(kind)
    found = list(task.equalities(task.collate(PAIRS, [0, 1, 2])))
    assert len(found) == 6
    for claim, one, others in found:
        torch.testing.assert_close(
            task.loss(model, one).sum, sum(task.loss(model, other).sum for other in others), msg=claim
        )


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3}, {"num_beams": 3, "coverage_penalty": 0.4}])
@pytest.mark.parametrize("kind", KINDS)
def test_the_search_with_a_cache_finds_what_reading_all_again_finds(kind: str, options: dict[str, Any]):
    task, model = built(kind, **options)
    batch = task.collate(PAIRS, [0, 1, 2])
    found = task.search(model, batch["sources"], batch["source_lengths"])
    again = task.search(_Uncached(model), batch["sources"], batch["source_lengths"])
    assert [text.tokens for text in found] == [text.tokens for text in again]
    assert [text.score for text in found] == pytest.approx([text.score for text in again], rel=1e-4)
    for place, pair in enumerate(PAIRS):
        alone = task.collate([pair], [0])
        [single] = task.search(model, alone["sources"], alone["source_lengths"])
        assert single.tokens == found[place].tokens
        assert len(single.tokens) <= min(24, 2 * len(pair.source) + 16)


class _Uncached:
    """The same model whose cache is all that was read: each step reads it again from the start."""

    def __init__(self, model: Any):
        self.model = model
        self.head, self.encode, self.head_weight = model.head, model.encode, model.head_weight

    def new_cache(self, memory: Any, max_len: int, attention: bool = False) -> Any:
        return _Again(self.model, memory, max_len, attention)

    def features(self, tokens: torch.Tensor, memory: Any, cache: Any = None) -> torch.Tensor:
        return cache.read(tokens)


class _Again:
    def __init__(self, model: Any, memory: Any, max_len: int, looks: bool):
        self.model, self.memory, self.max_len, self.looks = model, memory, max_len, looks
        self.tokens = torch.zeros(len(memory.features), 0, dtype=torch.int64)
        self.attention: Any = None

    def reorder(self, index: torch.Tensor) -> None:
        self.tokens, self.memory = self.tokens[index], self.memory.select(index)

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        self.tokens = torch.cat([self.tokens, tokens], 1)
        if self.looks:
            fresh = self.model.new_cache(self.memory, self.max_len, attention=True)
            for place in range(self.tokens.shape[1]):
                self.model.features(self.tokens[:, place : place + 1], self.memory, cache=fresh)
            self.attention = fresh.attention
        return self.model.features(self.tokens, self.memory)


def test_a_coverage_penalty_changes_what_is_found():
    options = {"num_beams": 4, "max_ratio": 1.0, "max_extra": 0, "length_penalty": 0.0}
    plain, model = built(**options)
    covering, _ = built(**options, coverage_penalty=20.0)
    batch = plain.collate(PAIRS, [0, 1, 2])
    texts = [
        [t.tokens for t in task.search(model, batch["sources"], batch["source_lengths"])] for task in (plain, covering)
    ]
    assert texts[0] != texts[1]


def test_figures_are_those_of_sacrebleu_on_the_translations():
    task, model = built(data=Data(), num_beams=2)
    metrics = task.metrics()
    for start in (0, 2):
        metrics.update(model, task.collate(PAIRS[start : start + 2], range(start, min(start + 2, 3))))
    figures, details = metrics.compute(), metrics.details()
    said = [row["translation"] for row in details["translations"]]
    references = [[row["reference"] for row in details["translations"]]]
    assert len(said) == 3
    assert figures["bleu"] == pytest.approx(BLEU().corpus_score(said, references).score)
    assert figures["chrf"] == pytest.approx(CHRF().corpus_score(said, references).score)
    nats = float(task.nats(model, task.collate(PAIRS, [0, 1, 2])).sum()) / 11
    assert figures["loss"] == pytest.approx(nats, rel=1e-5)
    assert figures["perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)
    assert details["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


@pytest.mark.parametrize(("tokenizer", "lowercase"), [("13a", False), ("13a", True), ("zh", False), ("char", False)])
def test_scores_from_sums_equal_those_of_the_corpus(tokenizer: str, lowercase: bool):
    said = ["The cat sat on the mat .", "显示 Android 设备的完整错误报告", "a b c d e f g", ""]
    meant = ["the cat sat on a mat.", "显示设备的错误报告", "a b c d x f g h", "nothing"]
    scores = Scores(tokenizer, lowercase)
    for pair in zip(said, meant, strict=True):
        scores.add(*pair)
    whole = BLEU(tokenize=tokenizer, lowercase=lowercase)
    assert scores.compute()["bleu"] == pytest.approx(whole.corpus_score(said, [meant]).score)
    assert scores.compute()["chrf"] == pytest.approx(CHRF().corpus_score(said, [meant]).score)
    assert scores.signatures()["bleu"] == str(whole.get_signature())


def test_a_text_to_translate_is_cut_where_it_is_too_long_and_says_so():
    tokenizer, (task, _) = BytesConfig().build(list, list), built()
    [example] = task.examples(tokenizer, "b" * 40)
    assert example.source.tolist() == [98] * 23 + [tokenizer.eot_id]
    assert task.too_long(tokenizer, "b" * 24)
    assert not task.too_long(tokenizer, "b" * 23)


def test_a_model_that_writes_alone_is_refused():
    config = validate(GPTConfig, {"vocab_size": 8, "dim": 8, "num_heads": 2})
    with pytest.raises(UsageError, match="one for the task translation, but gpt with head lm is not. Choose another"):
        TranslationConfig().build(config)
