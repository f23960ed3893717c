from __future__ import annotations

import numpy as np
import pytest

from dougong.data.augment.mix import MIXES
from dougong.data.examples import Picture
from tests.data.augment.pictures import SIZE, noise, pipeline

DARK, BRIGHT = 0, 200


def flat(level: int, label: int) -> Picture:
    return Picture(np.full((*SIZE, 3), level, dtype=np.uint8), label)


def mixed(words: list, of: int = 1500) -> list[tuple[np.ndarray, int | None, float]]:
    pipe, first, second = pipeline(*words), flat(BRIGHT, 4), flat(DARK, 5)
    return [pipe.classified(first, lambda i: second, 9, np.random.default_rng((1, n))) for n in range(of)]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_mixes_by_the_share_that_it_tells(alpha: float) -> None:
    samples = mixed([{"mixup": alpha}])
    shares = np.array([share for _, _, share in samples])
    for pixels, other, share in samples[:50]:
        assert (other, np.unique(pixels).tolist()) == (5, [round(BRIGHT * share)])
    variance = 1 / (4 * (2 * alpha + 1))  # of Beta(alpha, alpha), whose mean is a half
    assert abs(shares.mean() - 0.5) < 4 * (variance / len(shares)) ** 0.5
    assert abs(shares.var() / variance - 1) < 0.1


def test_cutmix_tells_the_share_that_is_left() -> None:
    samples = mixed([{"cutmix": 1.0}])
    for pixels, other, share in samples:
        first = (pixels == BRIGHT).all(-1)
        assert (other, pytest.approx(share)) == (5, first.mean())
        rows, columns = np.nonzero(~first)
        if len(rows):  # it is one rectangle
            assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    shares = np.array([share for _, _, share in samples])
    assert 0.5 < shares.mean() < 0.75  # more than a half, as rectangles are cut at the edge


def test_of_mixup_and_cutmix_one_is_drawn_for_each_picture() -> None:
    samples = mixed([{"mixup": 1.0}, {"cutmix": 1.0}])
    blended = [len(np.unique(pixels)) == 1 and 0 < pixels.flat[0] < BRIGHT for pixels, _, _ in samples]
    cut = [len(np.unique(pixels)) == 2 for pixels, _, _ in samples]
    assert not any(a and b for a, b in zip(blended, cut, strict=True))
    assert 0.4 < np.mean(blended) < 0.6
    assert 0.4 < np.mean(cut) < 0.6


def test_a_probability_leaves_the_rest_unmixed() -> None:
    samples = mixed([{"mixup": {"alpha": 1.0, "probability": 0.3}}])
    unmixed = [(pixels == BRIGHT).all() for pixels, other, share in samples if other is None and share == 1.0]
    assert all(unmixed)
    assert 0.65 < len(unmixed) / len(samples) < 0.75


def test_the_partner_is_any_picture_and_is_changed_by_draws_of_its_own() -> None:
    asked: list[int] = []
    pictures = [noise(number=number) for number in range(7)]

    def partner(number: int) -> Picture:
        asked.append(number)
        return pictures[number]

    pipe, unlike = pipeline("flip", {"cutmix": 1.0}), 0
    plain = [pipeline().classified(each, partner, 7, np.random.default_rng(0))[0] for each in pictures]
    assert asked == []  # only what mixes asks
    for number in range(300):
        pixels, other, _ = pipe.classified(pictures[0], partner, 7, np.random.default_rng(number))
        assert other == asked[-1]
        first, second = plain[0], plain[asked[-1]]
        ways = {
            (a, b): ((pixels == first[:, ::a]) | (pixels == second[:, ::b])).all() for a in (1, -1) for b in (1, -1)
        }
        assert any(ways.values())
        unlike += (ways[1, -1] or ways[-1, 1]) and not (ways[1, 1] or ways[-1, -1])
    assert set(asked) == set(range(7))
    assert unlike > 60


def test_a_partner_that_is_not_mixed_in_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXES, "mixup", lambda first, second, *_: (first, 0.5))
    with pytest.raises(AssertionError):
        test_mixup_mixes_by_the_share_that_it_tells(1.0)
