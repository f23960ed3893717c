"""How long devices take to tell each other what they must: bytes sent and seconds, by collective and by link.

Ring algorithms, whose bytes per device are the least possible; the time is that of the bytes over the slowest link, and
leaves out what each message waits, so many small messages take longer. Knows hardware; knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

from dougong.plan.hardware import Hardware


@dataclass(frozen=True)
class Group:
    """The devices that communicate along one axis.

    Attributes:
        degree: How many there are.
        stride: How far apart two neighbours are in the order of all devices; devices of a node follow one another.
    """

    degree: int
    stride: int

    def bandwidth(self, hardware: Hardware) -> float:
        """Returns the bytes/s at which each device passes a ring on.

        Inside a node that is the link. Between nodes the members that share a node share its ports among them: the ring
        leaves the node over all of theirs, and no faster than the link inside brings it.
        """
        if self.inside(hardware):
            return hardware.link
        members = max(1, min(self.degree, hardware.devices_per_node // self.stride))
        return min(hardware.link, members * hardware.network)

    def inside(self, hardware: Hardware) -> bool:
        """Tells whether all of them are in one node."""
        return self.degree * self.stride <= hardware.devices_per_node

    def medium(self, hardware: Hardware) -> str:
        """Returns over what they are connected: `link`, `network`, or nothing for a single device."""
        return "" if self.degree == 1 else "link" if self.inside(hardware) else "network"


def all_reduce(size: float | int, degree: int) -> float:
    """Returns the bytes that each device sends so that all have the sum of all: a reduce-scatter and an all-gather."""
    return reduce_scatter(size, degree) + all_gather(size, degree)


def all_gather(size: float | int, degree: int) -> float:
    """Returns the bytes that each device sends so that all have the whole of `size` bytes."""
    return size * (degree - 1) / degree


def reduce_scatter(size: float | int, degree: int) -> float:
    """Returns the bytes that each device sends so that each has its share of the sum of `size` bytes."""
    return size * (degree - 1) / degree


def point_to_point_bandwidth(group: Group, hardware: Hardware) -> float:
    """Returns the bytes/s from one device to its neighbour."""
    return hardware.link if group.inside(hardware) else hardware.network
