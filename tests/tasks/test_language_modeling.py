from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dougong.core.contracts import Provable
from dougong.core.errors import UsageError
from dougong.data.examples import LabelledText, TokenRow
from dougong.nn.losses import cross_entropy_by_formula
from dougong.tasks.language_modeling import LanguageModeling, LanguageModelingConfig

VOCAB, LENGTH = 11, 5
BYTES = np.array([0, 1, 1, 2, 3, 1, 4, 1, 1, 2, 1])


class Bigram(nn.Module):
    """Features are the token's embedding, cut off from other documents by nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 6)
        self.head_weight = nn.Parameter(torch.randn(VOCAB, 6))
        self.segments: Tensor | None = None

    def features(self, tokens: Tensor, segments: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        self.segments = segments
        return self.embedding(tokens)


class Letters:
    token_bytes = BYTES

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(97 + i) for i in ids)


def stream(count: int = 8, across: bool = True, lengths: tuple[int, ...] = (3, 9, 1, 20, 2, 6)) -> list[TokenRow]:
    """Rows over documents of these lengths, each row overlapping the next by one token."""
    tokens = np.random.default_rng(0).integers(0, VOCAB, count * LENGTH + 1)
    documents = np.repeat(np.arange(len(lengths)), lengths)[: len(tokens)]
    spans = [slice(start, start + LENGTH + 1) for start in range(0, count * LENGTH, LENGTH)]
    return [TokenRow(tokens[span], documents[span], across) for span in spans]


def task(tokenizer: object = None, **options: float) -> LanguageModeling:
    return LanguageModeling(LanguageModelingConfig(**options), LENGTH, VOCAB, tokenizer)


def figures(rows: list[TokenRow], size: int, model: nn.Module, tokenizer: object = None, **options: float) -> dict:
    objective = task(tokenizer, **options)
    metrics = objective.metrics()
    for start in range(0, len(rows), size):
        metrics.update(model, objective.collate(rows[start : start + size], range(len(rows[start : start + size]))))
    return metrics.compute()


def test_all_that_a_task_may_add_for_the_check_is_there() -> None:
    assert isinstance(task(), Provable)


def test_each_target_is_the_next_token() -> None:
    rows = stream()
    batch = task().collate(rows, range(40, 48))
    assert batch["tokens"][3].tolist() == rows[3].tokens[:-1].tolist()
    assert batch["targets"][3].tolist() == rows[3].tokens[1:].tolist()
    assert batch["documents"][3].tolist() == rows[3].documents[1:].tolist()
    assert batch.samples.tolist() == list(range(40, 48))


def test_segments_are_there_exactly_when_attention_must_not_cross() -> None:
    model = Bigram()
    task().loss(model, task().collate(stream(across=True), range(8)))
    assert model.segments is None
    rows = stream(across=False)
    task().loss(model, task().collate(rows, range(8)))
    assert model.segments.tolist() == [row.documents[:-1].tolist() for row in rows]


def test_the_loss_is_the_formula_as_a_sum() -> None:
    model = Bigram()
    batch = task().collate(stream(), range(8))
    loss = task(label_smoothing=0.1, z_loss=0.01).loss(model, batch)
    expected = cross_entropy_by_formula(
        model.embedding(batch["tokens"]), model.head_weight, batch["targets"], 0.1, 0.01
    )
    torch.testing.assert_close(loss.sum, expected.sum)
    assert loss.weight == 8 * LENGTH
    torch.testing.assert_close(loss.parts["nll"], expected.nll)
    torch.testing.assert_close(loss.parts["z_loss"], expected.z)


def test_a_plain_loss_reports_no_parts() -> None:
    assert task().loss(Bigram(), task().collate(stream(), range(8))).parts == {}


@pytest.mark.parametrize("size", [1, 3, 8])
def test_figures_do_not_depend_on_how_rows_are_batched(size: int) -> None:
    model = Bigram()
    whole = figures(stream(), 8, model, Letters())
    cut = figures(stream(), size, model, Letters())
    assert whole.keys() == cut.keys()
    for name, value in whole.items():
        assert math.isclose(value, cut[name], rel_tol=1e-6)


def test_bits_per_byte_is_all_bits_over_all_bytes() -> None:
    model = Bigram()
    rows = stream()
    targets = np.concatenate([row.tokens[1:] for row in rows])
    found = figures(rows, 3, model, Letters())
    nats = found["loss"] * len(targets)
    assert math.isclose(found["bits_per_byte"], nats / math.log(2) / BYTES[targets].sum(), rel_tol=1e-9)
    assert math.isclose(found["perplexity"], math.exp(found["loss"]))
    assert found["bits_per_byte_low"] < found["bits_per_byte"] < found["bits_per_byte_high"]


def test_a_document_that_runs_over_rows_is_one_unit() -> None:
    model, objective = Bigram(), task(Letters())
    metrics = objective.metrics()
    for number, row in enumerate(stream()):
        metrics.update(model, objective.collate([row], [number]))
    metrics.compute()
    # Six documents; the first token of the stream is never a target, but its document has others.
    assert metrics.bits.count == 6


def test_one_document_has_no_interval_and_no_tokenizer_no_bits() -> None:
    rows = stream(lengths=(41,))
    found = figures(rows, 3, Bigram(), Letters())
    assert set(found) == {"loss", "perplexity", "bits_per_byte"}
    assert set(figures(rows, 3, Bigram())) == {"loss", "perplexity"}


def test_smoothing_and_z_loss_do_not_touch_the_figures() -> None:
    model = Bigram()
    assert figures(stream(), 3, model) == figures(stream(), 3, model, label_smoothing=0.3, z_loss=0.1)


def test_ignored_targets_count_nowhere() -> None:
    model, objective = Bigram(), task(Letters())
    batch = objective.collate(stream(), range(8))
    short = batch.fields["targets"].clone()
    short[2:] = -1
    masked = type(batch)({**batch.fields, "targets": short}, batch.samples)
    first = objective.collate(stream()[:2], range(2))
    both = []
    for data in (masked, first):
        metrics = objective.metrics()
        metrics.update(model, data)
        both.append(metrics.compute())
    assert math.isclose(both[0]["loss"], both[1]["loss"], rel_tol=1e-6)
    assert math.isclose(both[0]["bits_per_byte"], both[1]["bits_per_byte"], rel_tol=1e-6)
    torch.testing.assert_close(objective.loss(model, masked).sum, objective.loss(model, first).sum)


def test_build_takes_shapes_from_the_model_and_bytes_from_the_data() -> None:
    model = SimpleNamespace(max_seq_len=7, vocab_size=VOCAB)
    built = LanguageModelingConfig().build(model, SimpleNamespace(tokenizer=Letters()))
    assert built.example_batch(2)["tokens"].shape == (2, 7)
    assert built.example_batch(2)["tokens"].device.type == "meta"
    assert built.decode([0, 1]) == "ab"
    assert LanguageModelingConfig().build(model).decode(torch.tensor([3, 4])) == [3, 4]


def test_data_that_is_no_running_text_is_refused_in_one_sentence() -> None:
    model = SimpleNamespace(name="gpt", max_seq_len=8, vocab_size=300)
    data = SimpleNamespace(validation=[LabelledText(np.array([5]), 0)], source="reviews.tsv")
    said = "language_modeling needs running text, but reviews.tsv has texts with a class each. Choose other data."
    with pytest.raises(UsageError, match=said):
        LanguageModelingConfig().build(model, data)
    assert LanguageModelingConfig().build(model, SimpleNamespace(validation=stream(), source="here"))


def test_chance_is_the_logarithm_of_the_vocabulary() -> None:
    assert task().chance() == pytest.approx(math.log(VOCAB))


def test_uneven_rows_all_weigh_differently_and_hold_nothing_new() -> None:
    batch = task().collate(stream(4), range(4))
    uneven = task().uneven(batch)
    assert [int((row != -1).sum()) for row in uneven["targets"]] == [5, 4, 3, 2]
    assert torch.equal(uneven["tokens"], batch["tokens"])
    assert torch.equal(uneven["targets"][3, :2], batch["targets"][3, :2])
    assert (batch["targets"] != -1).all()


@pytest.mark.parametrize("across", [True, False])
def test_equalities_cut_each_row_into_all_of_its_items(across: bool) -> None:
    found = list(task().equalities(task().collate(stream(across=across), range(8))))
    assert len(found) == (8 if across else 16)
    for claim, whole, parts in found:
        counted = whole["targets"] != -1
        apart = torch.cat([part["targets"][0] for part in parts])
        assert torch.equal(apart, whole["targets"][counted]), claim
        assert torch.equal(torch.cat([part["tokens"][0] for part in parts]), whole["tokens"][0, : len(apart)])


def test_documents_are_cut_where_segments_meet_and_one_document_is_given_a_second() -> None:
    batch = task().collate(stream(across=False), range(8))
    packed = list(task().equalities(batch))[8:]
    there = [len(set(row.tolist())) for row in batch["segments"]]
    assert 1 in there
    assert max(there) > 2
    assert [len(parts) for _, _, parts in packed] == [max(number, 2) for number in there]
    for _, whole, parts in packed:
        assert all(len(set(part["segments"][0].tolist())) == 1 for part in parts)
        assert len(set(whole["segments"][0].tolist())) == len(parts)
