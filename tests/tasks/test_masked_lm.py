from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dougong.core.config import try_validate, validate
from dougong.core.contracts import Batch, Provable
from dougong.core.errors import UsageError
from dougong.data.examples import EncoderText, LabelledText
from dougong.models.bert import Bert, BertConfig
from dougong.nn.losses import IGNORED
from dougong.tasks.masked_lm import MaskedLMConfig
from dougong.tasks.masked_lm.hiding import Hidden, fit_in_order
from dougong.tasks.masked_lm.objective import MaskedLM

VOCAB, LENGTH, MASK, SPECIAL = 60, 32, 4, frozenset(range(5))
CONTINUES = np.arange(VOCAB) >= 40
TOKENIZER = SimpleNamespace(
    vocab_size=VOCAB,
    special_ids=SPECIAL,
    continues=CONTINUES,
    token_bytes=np.arange(VOCAB) % 4 + 1,
    id_of={"[MASK]": MASK}.get,
)


def texts(count: int, seed: int = 0, follows: bool | None = None) -> list[EncoderText]:
    """`[CLS] words [SEP]` of unequal length; of pairs, every second one follows."""
    rng = np.random.default_rng(seed)
    rows = [np.array([2, *rng.integers(5, VOCAB, rng.integers(6, LENGTH - 2)), 3]) for _ in range(count)]
    halves = [(np.arange(len(row)) >= len(row) // 2).astype(np.int64) for row in rows]
    pairs = [None if follows is None else number % 2 == 0 for number in range(count)]
    return [EncoderText(*each) for each in zip(rows, halves, pairs, strict=True)]


def task(head: str = "masked_lm", tokenizer: Any = TOKENIZER, **options: Any) -> MaskedLM:
    model = SimpleNamespace(name="bert", head=head, max_seq_len=LENGTH, vocab_size=VOCAB)
    pair = texts(1, follows=True if head == "pretraining" else None)
    data = SimpleNamespace(tokenizer=tokenizer, validation=pair, source="here")
    return MaskedLM(validate(MaskedLMConfig, options), model, data)


def network(head: str = "masked_lm", dropout: float = 0.0) -> Bert:
    sizes = {"vocab_size": VOCAB, "max_seq_len": LENGTH, "num_layers": 1, "num_heads": 2, "dim": 16}
    dropped = {"dropout": dropout, "attention_dropout": dropout}
    model = validate(BertConfig, {"head": head, **sizes, **dropped, "init_std": 0.3}).build().double()
    model.init_weights(0)
    return model


def batch(count: int = 6, follows: bool | None = None, noise: int | None = None) -> Batch:
    found = task().collate(texts(count, follows=follows), range(10, 10 + count))
    return found if noise is None else found.with_noise(torch.arange(count, dtype=torch.int32) + 1000 * noise)


def many(count: int = 2000, **options: Any) -> tuple[Batch, Hidden]:
    objective = task(**options)
    found = objective.collate(texts(count), range(count))
    return found, objective.hidden(found)


def chosen(found: Batch, hidden: Hidden) -> torch.Tensor:
    """Which places are to be named."""
    places = torch.zeros_like(found["tokens"], dtype=torch.bool)
    return places.scatter(1, hidden.places, hidden.targets != IGNORED)


def test_all_that_a_task_may_add_for_the_check_is_there() -> None:
    assert isinstance(task(), Provable)


@pytest.mark.parametrize("share", [0.15, 0.4, 0.01, 1.0])
def test_the_share_of_each_text_is_hidden_exactly_and_nothing_special(share: float) -> None:
    found, hidden = many(300, share=share)
    number = found["lengths"] - 2
    expected = [max(1, int(share * n + 0.5)) for n in number.tolist()]
    assert (hidden.targets != IGNORED).sum(1).tolist() == expected
    where = chosen(found, hidden)
    assert bool((found["tokens"][where] >= 5).all())
    kept = ~where
    assert torch.equal(hidden.tokens[kept], found["tokens"][kept])
    counts = hidden.targets != IGNORED
    assert torch.equal(found["tokens"].gather(1, hidden.places)[counts], hidden.targets[counts])


@pytest.mark.parametrize(("masked", "random"), [(0.8, 0.1), (0.0, 1.0), (0.5, 0.0)])
def test_hidden_words_are_seen_as_the_shares_say(masked: float, random: float) -> None:
    found, hidden = many(masked=masked, random=random)
    where = chosen(found, hidden)
    seen, true = hidden.tokens[where], found["tokens"][where]
    count = len(seen)
    expected = {"masked": masked, "other": random * 54 / 55, "same": 1 - masked - random + random / 55}
    shares = {
        "masked": (seen == MASK).double().mean().item(),
        "other": ((seen != MASK) & (seen != true)).double().mean().item(),
        "same": (seen == true).double().mean().item(),
    }
    for name, share in shares.items():
        assert abs(share - expected[name]) <= 4 * math.sqrt(0.25 / count), name
    others = seen[(seen != MASK) & (seen != true)]
    if random:
        assert not set(others.tolist()) & SPECIAL
        assert set(others.tolist()) == set(range(5, VOCAB))  # each that is not special, up to the last


def test_each_word_is_as_likely_to_be_hidden() -> None:
    row = texts(1)[0].tokens
    same = EncoderText(np.resize(row[1:-1], LENGTH).copy(), np.zeros(LENGTH, dtype=np.int64))
    found = task().collate([same] * 4000, range(4000))
    counts = chosen(found, task().hidden(found)).double().mean(0)
    assert float((counts - 5 / LENGTH).abs().max()) < 5 * math.sqrt(0.13 / 4000)


def test_what_is_hidden_is_a_function_of_the_key_and_of_the_text_alone() -> None:
    found = batch(noise=1)
    hidden, objective = task().hidden(found), task()
    for part, row in enumerate(found.split(1)):
        length = int(row["lengths"][0])
        for width in (length, length + 3, LENGTH):
            wide = {name: F.pad(row[name], (0, LENGTH), value=7)[:, :width] for name in ("tokens", "words")}
            alone = objective.hidden(replace(row, fields={**row.fields, **wide}))
            number = int((alone.targets != IGNORED).sum())
            assert torch.equal(alone.tokens[0, :length], hidden.tokens[part, :length])
            assert torch.equal(alone.places[0, :number], hidden.places[part, :number])
    other = task().hidden(batch(noise=2))
    assert not torch.equal(other.tokens, hidden.tokens)


def test_evaluation_hides_the_same_words_each_time_and_others_of_each_sample() -> None:
    found = batch()
    one, two = task().hidden(found), task().hidden(found)
    assert torch.equal(one.tokens, two.tokens)
    later = task().hidden(replace(found, samples=found.samples + 6))
    assert not torch.equal(one.places, later.places)


@pytest.mark.parametrize("whole", [True, False])
def test_whole_words_are_hidden_wholly_or_not_at_all(whole: bool) -> None:
    found, hidden = many(500, whole_words=whole, share=0.3)
    where = chosen(found, hidden)
    broken = missing = 0
    for tokens, places, length in zip(found["tokens"], where, found["lengths"].tolist(), strict=True):
        begins = ~torch.from_numpy(CONTINUES)[tokens[1 : length - 1]]
        begins[0] = True
        words = begins.cumsum(0)
        inside = places[1 : length - 1]
        broken += sum(len(set(inside[words == word].tolist())) > 1 for word in words.unique())
        missing += max(1, int(0.3 * (length - 2) + 0.5)) - int(inside.sum())
        assert int(inside.sum()) <= max(1, int(0.3 * (length - 2) + 0.5))
    assert (broken == 0) is whole
    total = int((found["lengths"] - 2).sum())
    assert 0 <= missing < 0.01 * total


def test_what_fits_is_taken_in_order_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    sizes, room = torch.from_numpy(rng.integers(0, 4, (200, 12))), torch.from_numpy(rng.integers(1, 9, 200))
    taken = fit_in_order(sizes, room)
    short = 0
    for row, space, found in zip(sizes.tolist(), room.tolist(), taken.tolist(), strict=True):
        left, expected = space, []
        for size in row:
            expected.append(0 < size <= left)
            left -= size if expected[-1] else 0
        short += found != expected
        assert all(e for f, e in zip(found, expected, strict=True) if f)  # never one that does not fit in its turn
    assert short <= 2


def test_the_loss_is_that_of_the_hidden_words_alone() -> None:
    model, found = network(), batch(noise=3)
    hidden = task().hidden(found)
    logits = model(hidden.tokens, lengths=found["lengths"]).double()
    where = chosen(found, hidden)
    expected = F.cross_entropy(logits[where], found["tokens"][where], reduction="sum")
    loss = task().loss(model, found)
    torch.testing.assert_close(loss.sum, expected)
    assert loss.weight == where.sum()
    assert loss.parts == {}
    everywhere = F.cross_entropy(logits[:, :6].flatten(0, 1), found["tokens"][:, :6].flatten(), reduction="sum")
    assert not torch.isclose(loss.sum, everywhere)


def test_what_follows_weighs_as_much_as_the_hidden_words_of_its_text() -> None:
    model, found = network("pretraining"), batch(follows=True, noise=3)
    objective = task("pretraining")
    loss = objective.loss(model, found)
    hidden = objective.hidden(found)
    logits = model.follows(model.features(hidden.tokens, found["lengths"], found["segments"]))
    assert found["follows"].tolist() == [1, 0, 1, 0, 1, 0]
    nats = F.cross_entropy(logits, torch.tensor([0, 1, 0, 1, 0, 1]), reduction="none")
    weights = (hidden.targets != IGNORED).sum(1)
    torch.testing.assert_close(loss.parts["follows"], (nats * weights).sum().detach())
    torch.testing.assert_close(loss.sum.detach(), loss.parts["masked"] + loss.parts["follows"])
    assert not torch.isclose(loss.parts["follows"], nats.sum().detach())
    # Of texts of one length the mean is the sum of the paper's two means.
    row = found.split(1)[0]
    fields = {name: torch.cat([tensor] * 3) for name, tensor in row.fields.items()}
    alike = Batch(fields, torch.arange(3))
    loss = objective.loss(model, alike)
    hidden = objective.hidden(alike)
    features = model.features(hidden.tokens, alike["lengths"], alike["segments"])
    where = chosen(alike, hidden)
    words = F.cross_entropy(model.over_words(features)[where], alike["tokens"][where])
    mean = words + F.cross_entropy(model.follows(features), 1 - alike["follows"])
    torch.testing.assert_close(loss.sum / loss.weight, mean)


@pytest.mark.parametrize("head", ["masked_lm", "pretraining"])
def test_the_figures_are_those_of_the_hidden_words(head: str) -> None:
    objective, model = task(head), network(head)
    found = batch(follows=True if head == "pretraining" else None)
    metrics = objective.metrics()
    for part in found.split(4):
        metrics.update(model, part.with_noise(torch.zeros(len(part), dtype=torch.int32)))
    figures = metrics.compute()
    hidden = objective.hidden(found)
    features = model.features(hidden.tokens, found["lengths"], found.get("segments"))
    where = chosen(found, hidden)
    logits, true = model.over_words(features)[where], found["tokens"][where]
    nats = F.cross_entropy(logits, true).item()
    size = torch.from_numpy(TOKENIZER.token_bytes)[true].double().mean().item()
    assert figures["bits_per_masked_token"] == pytest.approx(nats / math.log(2))
    assert figures["bits_per_masked_byte"] == pytest.approx(nats / math.log(2) / size)
    assert figures["perplexity"] == pytest.approx(math.exp(nats))
    assert figures["masked_accuracy"] == pytest.approx((logits.argmax(-1) == true).double().mean().item())
    loss = objective.loss(model, found)
    assert figures["loss"] == pytest.approx((loss.sum / loss.weight).item())
    if head == "pretraining":
        right = model.follows(features).argmax(-1) == 1 - found["follows"]
        assert figures["follows_accuracy"] == pytest.approx(right.double().mean().item())
    else:
        assert "follows_accuracy" not in figures
        assert figures["loss"] == pytest.approx(nats)


@pytest.mark.parametrize("head", ["masked_lm", "pretraining"])
def test_what_the_check_asks_for_holds(head: str) -> None:
    objective, model = task(head), network(head)
    found = batch(follows=True if head == "pretraining" else None)
    weights = [int(objective.loss(model, row).weight) for row in objective.uneven(found).split(1)]
    assert len(set(weights)) > 1
    claims = list(objective.equalities(found))
    assert len(claims) == len(found)
    for _, whole, parts in claims:
        assert whole["tokens"].shape[1] > parts[0]["tokens"].shape[1]
        torch.testing.assert_close(objective.loss(model, whole).sum, objective.loss(model, parts[0]).sum)
        # The control: what is padded, counted as text, changes the loss.
        full = {**whole.fields, "lengths": torch.tensor([whole["tokens"].shape[1]])}
        unmasked = replace(whole, fields=full)
        assert not torch.isclose(objective.loss(model, unmasked).sum, objective.loss(model, whole).sum)
    assert objective.chance() == pytest.approx(math.log(VOCAB) + (math.log(2) if head == "pretraining" else 0.0))


def test_dropout_and_hiding_draw_apart_from_the_same_noise() -> None:
    model, found = network(dropout=0.2), batch(noise=4)
    one, two = task().loss(model, found).sum, task().loss(model, found).sum
    assert torch.equal(one, two)
    assert not torch.equal(one, task().loss(model, batch(noise=5)).sum)


def test_a_batch_holds_all_that_its_loss_depends_on_beside_the_model() -> None:
    found = batch(follows=True, noise=3)
    model, sizes = network("pretraining"), {"max_seq_len": LENGTH, "vocab_size": VOCAB}
    elsewhere = MaskedLMConfig().build(SimpleNamespace(name="bert", head="pretraining", **sizes))
    assert torch.equal(elsewhere.loss(model, found).sum, task("pretraining").loss(model, found).sum)
    # The control: a batch that a task without a tokenizer makes is another.
    other = elsewhere.collate(texts(6, follows=True), range(10, 16)).with_noise(found.noise)
    assert not torch.equal(elsewhere.loss(model, other).sum, elsewhere.loss(model, found).sum)


def test_a_batch_is_padded_to_its_longest_text() -> None:
    found = batch()
    assert found["tokens"].shape[1] == min(LENGTH, -(-int(found["lengths"].max()) // 8) * 8)
    assert "segments" not in found.fields
    pairs = batch(follows=True)
    assert pairs["segments"].shape == pairs["tokens"].shape
    assert pairs.samples.tolist() == list(range(10, 16))


def test_what_does_not_fit_is_one_sentence() -> None:
    config, good = MaskedLMConfig(), SimpleNamespace(tokenizer=TOKENIZER, validation=texts(1), source="here")
    sizes = {"max_seq_len": LENGTH, "vocab_size": VOCAB}
    with pytest.raises(UsageError, match="needs a model with the head masked_lm or pretraining, but gpt has none"):
        config.build(SimpleNamespace(name="gpt", **sizes), good)
    with pytest.raises(UsageError, match="but bert has classify. Set model.head"):
        config.build(SimpleNamespace(name="bert", head="classify", **sizes), good)
    model = SimpleNamespace(name="bert", head="pretraining", **sizes)
    with pytest.raises(UsageError, match=r"needs pairs of texts, but there are none. Set data.pairs to true\."):
        config.build(model, good)
    labelled = SimpleNamespace(validation=[LabelledText(np.array([5]), 0)], source="here", tokenizer=TOKENIZER)
    with pytest.raises(UsageError, match="needs texts for encoders, but here has texts with a class each"):
        config.build(model, labelled)
    with pytest.raises(UsageError, match=r"needs a tokenizer with the token \[MASK\]"):
        task(tokenizer=SimpleNamespace(**{**vars(TOKENIZER), "id_of": {}.get}))
    plain = SimpleNamespace(**{**vars(TOKENIZER), "continues": np.zeros(VOCAB, dtype=bool)})
    with pytest.raises(UsageError, match="whole_words has no effect, as no token"):
        task(tokenizer=plain, whole_words=True)
    assert isinstance(task(tokenizer=plain), MaskedLM)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"masked": 0.9, "random": 0.2}, "random must be at most 1 together with masked, but 0.9 + 0.2 is more."),
        ({"masked": 0, "random": 0}, "masked must be above 0 where random is 0, or no word is hidden."),
        ({"share": 0}, "share must be"),
    ],
)
def test_shares_that_hide_nothing_or_more_than_all_are_refused(values: dict[str, Any], said: str) -> None:
    [complaint] = try_validate(MaskedLMConfig, values)[1]
    assert said in complaint.text
