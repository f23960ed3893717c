from __future__ import annotations

import json
import math
import random

import pytest

from dougong.train.config import SpikeConfig
from dougong.train.spike import SpikeDetector


def found(losses: list[float], **options: object) -> list[int]:
    """The places at which a spike begins."""
    detector = SpikeDetector(SpikeConfig(**options))
    return [place for place, loss in enumerate(losses) if detector.observe(loss) is not None]


def noisy(count: int, seed: int = 0, level: float = 2.0, deviation: float = 0.1) -> list[float]:
    draw = random.Random(seed)
    return [level + draw.gauss(0, deviation) for _ in range(count)]


def test_a_loss_far_above_the_last_ones_is_a_spike_with_its_measures() -> None:
    detector = SpikeDetector(SpikeConfig(window=20))
    for loss in (1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 1.2, 0.8, 1.1, 0.9) * 2:
        assert detector.observe(loss) is None
    assert detector.observe(1.9) is None
    spike = detector.observe(50.0)
    assert spike is not None
    assert (spike.loss, spike.median) == (50.0, 1.0)
    assert spike.deviation == pytest.approx(0.1)


def test_only_a_full_window_upwards_and_beyond_the_threshold_counts() -> None:
    losses = noisy(300)
    assert found([*losses[:99], 100.0]) == []
    assert found([*losses[:100], 100.0]) == [100]
    assert found([*losses[:100], -100.0, *losses[:100]]) == []
    assert found([*losses, 2.5]) == []
    assert found([*losses, 2.5], threshold=3.0)[-1] == 300


def test_a_lasting_spike_is_one_and_then_the_new_measure() -> None:
    losses = noisy(100)
    assert found([*losses, *noisy(200, 1, 9.0)]) == [100]
    assert found([*losses, 9.0, 9.0, 2.0, 9.0]) == [100, 103]
    assert found([*losses, *noisy(200, 1, 9.0), 40.0]) == [100, 300]


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_training_raises_no_alarm(seed: int) -> None:
    """Steep falls, noise of every size, a learning rate that rises and falls, and a loss that reaches nothing."""
    draw = random.Random(seed)
    for start, end, span, noise in ((11.0, 3.0, 30, 0.02), (11.0, 3.0, 500, 0.2), (5.0, 0.0, 400, 1e-4), (1, 0, 9, 0)):
        curve = [end + (start - end) * math.exp(-step / span) for step in range(3000)]
        assert found([value * (1 + noise * draw.gauss(0, 1)) for value in curve]) == []
    waves = [3 + 0.5 * math.sin(step / 40) + draw.gauss(0, 0.05) for step in range(3000)]
    assert found(waves) == []
    assert found([2.0] * 150 + [2.1] * 50) == []
    assert found([0.0] * 150 + [5e-4]) == []


def test_without_the_floor_a_loss_that_hardly_varies_would_raise_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [*noisy(100, deviation=1e-6), 2.0001]
    assert found(losses) == []
    monkeypatch.setattr("dougong.train.spike.FLOOR", 0.0)
    monkeypatch.setattr("dougong.train.spike.LEAST", 0.0)
    assert found(losses) == [100]


def test_its_state_goes_through_json_and_goes_on_exactly() -> None:
    losses = [*noisy(100), 9.0, 9.0, *noisy(30, 1), 9.0]
    whole, first = SpikeDetector(SpikeConfig()), SpikeDetector(SpikeConfig())
    for loss in losses[:101]:
        whole.observe(loss)
        first.observe(loss)
    second = SpikeDetector(SpikeConfig())
    second.load(json.loads(json.dumps(first.state())))
    assert [second.observe(loss) for loss in losses[101:]] == [whole.observe(loss) for loss in losses[101:]]
    assert second.state() == whole.state()
    assert len(second.losses) == 100


def test_without_a_config_nothing_is_seen_or_remembered() -> None:
    detector = SpikeDetector(None)
    assert [detector.observe(loss) for loss in [*noisy(200), 1e9]] == [None] * 201
    assert detector.losses == []
