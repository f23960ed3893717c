"""Compute-optimal sizes are those of the papers, and what a run takes is arithmetic."""

from __future__ import annotations

import pytest

from dougong.core.errors import UsageError
from dougong.plan.hardware import HARDWARE
from dougong.plan.scaling import FITS, bill, optimum, predicted_loss, tokens_needed

# Hoffmann et al. 2022, table 3 (approach 1): parameters, operations, tokens. The table is rounded: 6 times 67 billion
# times 1.5 trillion is 5 % more than the operations it prints.
TABLE_3 = [
    (400e6, 1.92e19, 8.0e9),
    (1e9, 1.21e20, 20.2e9),
    (10e9, 1.23e22, 205.1e9),
    (67e9, 5.76e23, 1.5e12),
    (175e9, 3.85e24, 3.7e12),
    (280e9, 9.90e24, 5.9e12),
    (1e12, 1.27e26, 21.2e12),
    (10e12, 1.30e28, 216.2e12),
]


@pytest.mark.parametrize(("parameters", "flops", "tokens"), TABLE_3)
def test_approach_1_gives_the_papers_table(parameters: float, flops: float, tokens: float) -> None:
    found = optimum(flops, "approach1")
    assert found.parameters == pytest.approx(parameters, rel=0.05)
    assert found.tokens == pytest.approx(tokens, rel=0.08)
    assert tokens_needed(parameters, "approach1") == pytest.approx(tokens, rel=0.11)
    assert found.loss is None


@pytest.mark.parametrize("name", FITS)
def test_the_optimum_has_the_lowest_loss_of_its_budget(name: str) -> None:
    budget = 1e22
    best = optimum(budget, name)
    assert best.flops == pytest.approx(6 * best.parameters * best.tokens)
    for factor in (0.8, 0.95, 1.05, 1.25):
        other = best.parameters * factor
        assert predicted_loss(other, budget / 6 / other, name) > (best.loss or 0)
    assert tokens_needed(best.parameters, name) == pytest.approx(best.tokens)


def test_the_corrected_fit_agrees_with_chinchilla_and_the_printed_one_does_not() -> None:
    """Chinchilla: 70 billion parameters, 1.4 trillion tokens, 5.76e23 operations."""
    assert optimum(5.76e23).parameters == pytest.approx(70e9, rel=0.05)
    assert optimum(5.76e23, "hoffmann").parameters < 0.6 * 70e9
    assert 18 < tokens_needed(70e9) / 70e9 < 25


def test_a_size_beyond_the_fitted_models_is_said_to_be() -> None:
    assert optimum(5.76e23).extrapolated
    assert not optimum(1e21).extrapolated
    assert optimum(1e15).extrapolated


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"fit must be .* Did you mean besiroglu"):
        optimum(1e20, "besirogli")


def test_a_bill_is_hours_times_devices() -> None:
    found = bill(7200.0, 16, HARDWARE["h100"].priced(2.0))
    assert (found.device_hours, found.dollars, found.kilowatt_hours) == (32, 64, pytest.approx(32 * 0.7))
    assert found.as_dict()["days"] == pytest.approx(2 / 24)
