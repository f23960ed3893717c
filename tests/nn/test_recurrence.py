"""Recurrences are torch's, both directions of a padded row are those of the row alone, and final states are final."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dougong.nn.recurrence import Recurrence, reversal, turned
from dougong.nn.scan import GATES
from tests.nn.padding import LENGTHS, filled, gap_to_alone, rows
from tests.nn.test_init import Operations

TORCH = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
KINDS = sorted(GATES)
both = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@both
@pytest.mark.parametrize("bias", [True, False])
def test_recurrence_equals_that_of_torch_in_value_and_gradient(kind: str, bidirectional: bool, bias: bool) -> None:
    ours = filled(Recurrence(kind, 5, 4, 2, bidirectional, bias))
    theirs = TORCH[kind](5, 4, 2, bias=bias, batch_first=True, bidirectional=bidirectional).double()
    theirs.load_state_dict(ours.state_dict())
    hidden = torch.randn(3, 7, 5, dtype=torch.float64)
    found = []
    for module in (ours, theirs):
        states = module(hidden) if module is ours else module(hidden)[0]
        states.square().sum().backward()
        found.append([states, *(dict(module.named_parameters())[name].grad for name in ours.state_dict())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@kinds
def test_recurrence_equals_that_of_torch_in_fp32(kind: str) -> None:
    ours = filled(Recurrence(kind, 5, 4, 1, True)).float()
    theirs = TORCH[kind](5, 4, 1, batch_first=True, bidirectional=True)
    theirs.load_state_dict(ours.state_dict())
    hidden = torch.randn(3, 7, 5)
    torch.testing.assert_close(ours(hidden), theirs(hidden)[0], rtol=0, atol=1e-6)


def test_the_three_kinds_differ() -> None:
    hidden = torch.randn(2, 3, 4, dtype=torch.float64)
    states = [filled(Recurrence(kind, 4, 4))(hidden) for kind in KINDS]
    assert len({tuple(s.flatten().tolist()) for s in states}) == 3


def test_plain_recurrence_is_its_formula() -> None:
    layer, hidden = filled(Recurrence("rnn", 3, 4)), torch.randn(1, 5, 3, dtype=torch.float64)
    state = torch.zeros(4, dtype=torch.float64)
    for place, given in enumerate(hidden[0]):
        state = (layer.weight_ih_l0 @ given + layer.bias_ih_l0 + layer.weight_hh_l0 @ state + layer.bias_hh_l0).tanh()
        torch.testing.assert_close(layer(hidden)[0, place], state, rtol=0, atol=1e-12)


@kinds
@both
def test_padded_row_gives_what_it_gives_alone(kind: str, bidirectional: bool) -> None:
    layer = filled(Recurrence(kind, 5, 4, 2, bidirectional))
    assert gap_to_alone(layer, 5) < 1e-10
    assert gap_to_alone(lambda hidden, mask: layer.final(layer(hidden, mask), mask), 5) < 1e-10


def test_a_backward_direction_that_begins_in_the_padding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dougong.nn.recurrence.reversal", lambda shape, mask, device: reversal(shape, None, device).contiguous()
    )
    assert gap_to_alone(filled(Recurrence("gru", 5, 4, 1, True)), 5) > 1e-3


@kinds
def test_masked_places_are_zero_and_final_states_are_the_last_valid(kind: str) -> None:
    layer, (hidden, mask) = filled(Recurrence(kind, 5, 4, 1, True)), rows(5)
    states = layer(hidden, mask)
    final = layer.final(states, mask)
    assert states[~mask].abs().max().item() == 0.0
    for row, count in enumerate(LENGTHS.tolist()):
        expected = torch.cat((states[row, count - 1, :4], states[row, 0, 4:]))
        assert torch.equal(final[row], expected)
    assert not torch.equal(final[1, :4], states[1, -1, :4]), "a last place that is padding must not be taken"


def test_a_row_without_items_gives_zeros() -> None:
    layer, hidden = filled(Recurrence("lstm", 5, 4, 1, True)), torch.randn(2, 3, 5, dtype=torch.float64)
    mask = torch.tensor([[True] * 3, [False] * 3])
    states = layer(hidden, mask)
    assert states[1].abs().max().item() == 0.0
    assert layer.final(states, mask)[1].abs().max().item() == 0.0


def test_reversal_is_its_own_inverse_within_each_row() -> None:
    hidden, mask = rows(2)
    places = reversal(mask.shape, mask, mask.device)
    back = turned(hidden, places)
    assert torch.equal(back[1, :4], hidden[1, :4].flip(0))
    assert torch.equal(turned(back, places).nan_to_num(7.0), hidden.nan_to_num(7.0))


@kinds
def test_making_a_layer_fills_nothing_and_meta_gives_shapes(kind: str) -> None:
    with Operations() as done, torch.device("meta"):
        layer = Recurrence(kind, 5, 4, 2, True)
    assert done.names <= {"empty", "detach"}
    states = layer(torch.empty(2, 3, 5, device="meta"), torch.empty(2, 3, dtype=torch.bool, device="meta"))
    assert (states.shape, states.is_meta) == ((2, 3, layer.out_dim), True)


def test_backward_direction_reads_the_future_and_the_forward_one_does_not() -> None:
    layer, hidden = filled(Recurrence("gru", 5, 4, 1, True)), torch.randn(1, 6, 5, dtype=torch.float64)
    later = hidden.clone()
    later[:, 4:] += 1.0
    difference: Tensor = (layer(hidden) - layer(later))[0, :4].abs()
    assert difference[:, :4].max().item() == 0.0
    assert difference[:, 4:].min().item() > 0.0
