from __future__ import annotations

import torch
from torch import nn

from dougong.train.average import Average, NoAverage


def parameter() -> dict[str, nn.Parameter]:
    return {"w": nn.Parameter(torch.tensor([1.0, 2.0]))}


def test_the_average_follows_the_formula_with_its_warm_up() -> None:
    named = parameter()
    average = Average(named, decay=0.5)
    expected = named["w"].detach().clone()
    for updates in range(12):
        with torch.no_grad():
            named["w"] += 1.0
        average.update(updates)
        decay = min(0.5, (1 + updates) / (10 + updates))
        expected = decay * expected + (1 - decay) * named["w"].detach()
    torch.testing.assert_close(average.tensors["w"], expected)


def test_in_place_shows_the_average_and_gives_the_weights_back() -> None:
    named = parameter()
    average = Average(named, decay=0.9)
    with torch.no_grad():
        named["w"] += 10.0
    with average.in_place():
        assert named["w"].tolist() == [1.0, 2.0]
    assert named["w"].tolist() == [11.0, 12.0]
    assert average.tensors["w"].tolist() == [1.0, 2.0]


def test_no_average_leaves_all_alone() -> None:
    none = NoAverage()
    none.update(3)
    with none.in_place():
        assert dict(none.tensors) == {}
