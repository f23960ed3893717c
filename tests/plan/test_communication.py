"""Bytes of ring collectives are those of a ring that is played through, and bandwidth is that of the slowest link."""

from __future__ import annotations

import dataclasses

import pytest

from dougong.plan.communication import Group, all_gather, all_reduce, point_to_point_bandwidth, reduce_scatter
from dougong.plan.hardware import HARDWARE

A100 = HARDWARE["a100-80gb"]


def played(degree: int, reduces: bool, gathers: bool) -> tuple[list[set[int]], int]:
    """Passes pieces around a ring; returns whose numbers each device has in all its pieces, and the pieces it sent."""
    pieces = [[{rank} for _ in range(degree)] for rank in range(degree)]
    sent = 0
    for turn in range(degree - 1) if reduces else ():
        moving = [(rank, (rank - turn) % degree, pieces[rank][(rank - turn) % degree]) for rank in range(degree)]
        for rank, piece, content in moving:
            pieces[(rank + 1) % degree][piece] = pieces[(rank + 1) % degree][piece] | content
        sent += 1
    for turn in range(degree - 1) if gathers else ():
        moving = [
            (rank, (rank + 1 - turn) % degree, pieces[rank][(rank + 1 - turn) % degree]) for rank in range(degree)
        ]
        for rank, piece, content in moving:
            pieces[(rank + 1) % degree][piece] = content
        sent += 1
    return [set.intersection(*own) for own in pieces], sent


@pytest.mark.parametrize("degree", [1, 2, 3, 8])
def test_bytes_are_those_of_a_ring(degree: int) -> None:
    whole, turns = played(degree, True, True)
    assert all(own == set(range(degree)) for own in whole)  # everyone has everyone's sum
    assert all_reduce(float(degree), degree) == pytest.approx(turns)  # a piece is one byte
    _, halves = played(degree, True, False)
    assert reduce_scatter(float(degree), degree) == all_gather(float(degree), degree) == pytest.approx(halves)


def test_a_wrong_ring_factor_would_be_noticed() -> None:
    """The control: of one round less, or of `degree` for `degree - 1`, nobody has all or the bytes do not fit."""
    missing, turns = played(8, False, True)
    assert not any(own == set(range(8)) for own in missing)
    assert turns != pytest.approx(all_reduce(8.0, 8))
    assert pytest.approx(all_reduce(8.0, 8)) != 2 * 8


def test_a_group_inside_a_node_has_the_link_and_one_across_the_ports_of_its_members() -> None:
    assert Group(8, 1).bandwidth(A100) == A100.link
    assert Group(8, 8).bandwidth(A100) == A100.network  # one member in each node
    assert Group(16, 4).bandwidth(A100) == 2 * A100.network
    assert Group(128, 1).bandwidth(A100) == 8 * A100.network
    assert [Group(n, s).medium(A100) for n, s in ((1, 8), (8, 1), (2, 8))] == ["", "link", "network"]


def test_no_group_is_faster_than_the_link() -> None:
    quick = dataclasses.replace(A100, network=A100.link)
    assert Group(128, 1).bandwidth(quick) == quick.link


def test_a_neighbour_in_another_node_is_reached_over_the_network() -> None:
    assert point_to_point_bandwidth(Group(4, 2), A100) == A100.link
    assert point_to_point_bandwidth(Group(4, 8), A100) == A100.network
