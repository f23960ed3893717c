"""The norms are their formulas, in any precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from dougong.core.errors import UsageError
from dougong.nn.norm import BatchNorm, BatchNorm2d, GroupNorm, GroupNorm2d, make_norm
from tests.nn.padding import gap_to_alone, rows
from tests.nn.test_init import Operations


def filled(kind: str, bias: bool) -> torch.nn.Module:
    norm = make_norm(kind, 6, 1e-2, bias)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    return norm


def test_layernorm_is_its_formula() -> None:
    norm, x = filled("layernorm", True), torch.randn(3, 6)
    expected = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-2).sqrt()
    torch.testing.assert_close(norm(x), expected * norm.weight + norm.bias)


def test_rmsnorm_is_its_formula() -> None:
    norm, x = filled("rmsnorm", False), torch.randn(3, 6)
    torch.testing.assert_close(norm(x), x / (x.pow(2).mean(-1, keepdim=True) + 1e-2).sqrt() * norm.weight)


@pytest.mark.parametrize(
    ("kind", "bias", "count"), [("layernorm", True, 2), ("layernorm", False, 1), ("rmsnorm", True, 1)]
)
def test_only_layernorm_has_a_bias(kind: str, bias: bool, count: int) -> None:
    assert len(list(make_norm(kind, 6, 1e-5, bias).parameters())) == count


def test_rmsnorm_takes_narrower_input_than_its_weight() -> None:
    assert filled("rmsnorm", False)(torch.randn(3, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


def with_values(norm: torch.nn.Module) -> torch.nn.Module:
    """Returns a norm over the batch in fp64, as `init_weights` leaves its buffers, with drawn weights."""
    filled_buffers(norm)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    return norm.double()


def filled_buffers(norm: torch.nn.Module) -> None:
    for name, buffer in norm.named_buffers():
        buffer.fill_(1.0 if "variance" in name else 0.0)


def of_torch(norm: torch.nn.Module, kind: type[torch.nn.Module]) -> torch.nn.Module:
    other = kind(6).double()
    other.load_state_dict(
        {
            "weight": norm.weight,
            "bias": norm.bias,
            "running_mean": norm.running_mean,
            "running_var": norm.running_variance,
            "num_batches_tracked": torch.tensor(0),
        }
    )
    return other


@pytest.mark.parametrize("space", [False, True], ids=["time", "space"])
def test_batch_norm_is_that_of_torch_in_training_and_after(space: bool) -> None:
    norm = with_values(BatchNorm2d(6) if space else BatchNorm(6))
    other = of_torch(norm, torch.nn.BatchNorm2d if space else torch.nn.BatchNorm1d)
    for step in range(3):
        x = torch.randn(4, 6, 5, 3, dtype=torch.float64) if space else torch.randn(4, 5, 6, dtype=torch.float64)
        x.requires_grad_()
        if step == 2:
            norm.eval(), other.eval()
        ours, theirs = norm(x), other(x) if space else other(x.mT).mT
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
        slopes = [torch.autograd.grad(y.sin().sum(), [x, m.weight, m.bias]) for y, m in ((ours, norm), (theirs, other))]
        for one, two in zip(*slopes, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-10)
        torch.testing.assert_close(norm.running_mean, other.running_mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(norm.running_variance, other.running_var, rtol=0, atol=1e-12)
    assert norm.running_mean.abs().max() > 1e-3


def test_padding_is_in_no_statistic_of_the_batch() -> None:
    masked, (hidden, mask) = with_values(BatchNorm(6)), rows(6)
    plain = copy.deepcopy(masked)
    found = masked(hidden, mask)
    torch.testing.assert_close(found[mask], plain(hidden[mask][None])[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(masked.running_mean, plain.running_mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(masked.running_variance, plain.running_variance, rtol=0, atol=1e-12)
    counted = copy.deepcopy(plain)(hidden.nan_to_num(0.0))
    assert (counted - found)[mask].abs().max() > 1e-3, "padding that is counted must be noticed"


def test_after_training_a_row_does_not_depend_on_its_batch_mates() -> None:
    norm = with_values(BatchNorm(6)).eval()
    assert gap_to_alone(norm, 6) < 1e-10
    norm.train()
    everywhere = torch.ones(1, 1, dtype=torch.bool)
    assert gap_to_alone(lambda h, m: norm(h, everywhere.expand(h.shape[:2]) if m is None else m), 6) > 1e-3
    with pytest.raises(UsageError, match="a batch must have more than one item for its statistics, but has 1"):
        norm(torch.randn(1, 1, 6))


def test_a_batch_that_is_recomputed_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, (hidden, mask) = torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=True), rows(6)
    for inputs in ((x,), (hidden.requires_grad_(), mask)):
        once, again = with_values(BatchNorm(6)), with_values(BatchNorm(6))
        again.load_state_dict(once.state_dict())
        once(*inputs)
        checkpoint(again, *inputs, use_reentrant=False).sum().backward()
        assert torch.equal(once.running_mean, again.running_mean)
        assert torch.equal(once.running_variance, again.running_variance)
    monkeypatch.setattr("dougong.nn.norm._recomputes", lambda: False)
    checkpoint(again, x, use_reentrant=False).sum().backward()
    once(x)
    assert not torch.equal(once.running_mean, again.running_mean), "a batch that is counted twice must be noticed"


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm_is_that_of_torch(groups: int) -> None:
    other = torch.nn.GroupNorm(groups, 6).double()
    torch.nn.init.normal_(other.weight), torch.nn.init.normal_(other.bias)
    time, space = GroupNorm(groups, 6).double(), GroupNorm2d(groups, 6).double()
    time.load_state_dict(other.state_dict()), space.load_state_dict(other.state_dict())
    hidden, images = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, 6, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(time(hidden), other(hidden.mT).mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(space(images), other(images), rtol=0, atol=1e-12)
    everywhere = torch.ones(2, 5, dtype=torch.bool)
    torch.testing.assert_close(time(hidden, everywhere), time(hidden), rtol=0, atol=1e-12)
    assert gap_to_alone(time, 6) < 1e-8  # a row of one place and groups of one have a variance of zero: 1/eps


def test_group_norm_that_counts_padding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = with_values(GroupNorm(2, 6))
    monkeypatch.setattr("dougong.nn.norm.lengths_of", lambda mask: torch.full((len(mask),), mask.shape[1]))
    assert gap_to_alone(norm, 6) > 1e-3


def test_groups_must_divide_the_width() -> None:
    for norm in (GroupNorm, GroupNorm2d):
        with pytest.raises(UsageError, match="groups must divide the width, but 6 % 4 is 2"):
            norm(4, 6)


def test_norms_are_made_empty() -> None:
    with Operations() as done, torch.device("meta"):
        BatchNorm(6), BatchNorm2d(6), GroupNorm(2, 6), GroupNorm2d(2, 6)
    assert done.names <= {"empty", "detach"}
